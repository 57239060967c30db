package storage

import (
	"context"
	"errors"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/storage/catalog"
	"github.com/skaldlog/skald/storage/object"
	"github.com/skaldlog/skald/storage/segment"
)

// source is a segment.Source over an object.
type source struct {
	store object.Store
	cache *object.Cache // store, when it is one
	key   object.Key
	size  int64
	gone  func() // called when the object turns out to be missing; nil does nothing
	far   bool   // what is not cached comes over a network
}

// NewSource returns the bytes of a listed segment, for segment.Open and segment.Verify.
func NewSource(store object.Store, ref catalog.Ref) segment.Source { return newSource(store, ref) }

func newSource(store object.Store, ref catalog.Ref) *source {
	cache, _ := store.(*object.Cache)
	far := object.Remote(store) || cache != nil && object.Remote(cache.Store)
	return &source{store: store, cache: cache, key: ref.Key, size: ref.Size, far: far}
}

func (s *source) Size() int64  { return s.size }
func (s *source) Name() string { return string(s.key) }

// Far has blocks fetched before they are needed; see segment.Source.
func (s *source) Far() bool { return s.far }

// ReadAt implements segment.Source.
func (s *source) ReadAt(ctx context.Context, p []byte, off int64) error {
	var hit bool
	var err error
	if s.cache == nil {
		err = s.store.ReadAt(ctx, s.key, p, off)
	} else {
		hit, err = s.cache.ReadCached(ctx, s.key, p, off)
	}
	if err == nil {
		count(ctx, len(p), s.cache != nil, hit)
	} else if s.gone != nil && errors.Is(err, object.ErrNotFound) {
		s.gone()
	}
	return kinded(err)
}

// kinded gives errors of the object store the kind that callers need: what may work later
// is Unavailable, and so is a missing object, which a new listing will no longer name. A
// connection that broke in the middle must not look like an object that is too short, so
// the causes of transient errors are kept as text only.
func kinded(err error) error {
	switch {
	case err == nil:
		return nil
	case object.IsTransient(err):
		return fault.New(fault.Unavailable, "%v", err)
	case errors.Is(err, object.ErrNotFound):
		return fault.Wrap(fault.Unavailable, err)
	}
	return err
}

// accountKey finds the account of a read in its context.
type accountKey struct{}

type account struct {
	stats   *model.Stats
	opening bool
}

// accounted returns a context whose reads count in stats. The segment reader counts each
// of its reads as fetched, except while it is being opened, and cannot know of the cache:
// so a read while opening is added here, and one that the cache answered is taken off.
func accounted(ctx context.Context, stats *model.Stats, opening bool) context.Context {
	if stats == nil {
		return ctx
	}
	return context.WithValue(ctx, accountKey{}, account{stats, opening})
}

func count(ctx context.Context, n int, cached, hit bool) {
	a, ok := ctx.Value(accountKey{}).(account)
	if !ok {
		return
	}
	switch {
	case hit:
		a.stats.CacheHits.Add(1)
	case cached:
		a.stats.CacheMisses.Add(1)
	}
	switch {
	case a.opening && !hit:
		a.stats.FetchRequests.Add(1)
		a.stats.BytesFetched.Add(int64(n))
	case !a.opening && hit:
		a.stats.FetchRequests.Add(-1)
		a.stats.BytesFetched.Add(int64(-n))
	}
}

// block passes the query's account on to the reads of its columns, for which the cache may
// have to answer.
type block struct {
	model.Block
	stats *model.Stats
}

func (b *block) Fetch() func(context.Context) error {
	fetch := b.Block.Fetch()
	if fetch == nil {
		return nil
	}
	return func(ctx context.Context) error { return fetch(accounted(ctx, b.stats, false)) }
}

// Forget implements model.Forgetter.
func (b *block) Forget() { model.Forget(b.Block) }

func (b *block) Times(ctx context.Context) ([]int64, error) {
	return b.Block.Times(accounted(ctx, b.stats, false))
}

func (b *block) Offsets(ctx context.Context) ([]uint32, error) {
	return b.Block.Offsets(accounted(ctx, b.stats, false))
}

func (b *block) Lines(ctx context.Context) ([]byte, error) {
	return b.Block.Lines(accounted(ctx, b.stats, false))
}

func (b *block) Packed(ctx context.Context) (model.Packed, error) {
	return b.Block.Packed(accounted(ctx, b.stats, false))
}

func (b *block) Metadata(ctx context.Context, name string) (model.Column, error) {
	return b.Block.Metadata(accounted(ctx, b.stats, false), name)
}

func (b *block) Hashes(ctx context.Context) ([]uint64, error) {
	return b.Block.Hashes(accounted(ctx, b.stats, false))
}
