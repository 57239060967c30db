package scan

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/skaldlog/skald/internal/model"
)

// farBlock is a block far away; only what parallel calls works.
type farBlock struct {
	model.Block
	began, done, released atomic.Bool
	fetches               *atomic.Int64
	fail                  bool
	bytes                 int64
}

func (b *farBlock) RawBytes() int64 { return b.bytes }
func (b *farBlock) Release()        { b.released.Store(true) }

func (b *farBlock) Fetch() func(context.Context) error {
	return func(context.Context) error {
		b.fetches.Add(1)
		b.began.Store(true)
		defer b.done.Store(true)
		if b.released.Load() {
			panic("fetched after its release")
		}
		if b.fail {
			return errors.New("no luck")
		}
		return nil
	}
}

func farBlocks(n int, bytes int64) ([]*farBlock, *atomic.Int64) {
	fetches := new(atomic.Int64)
	blocks := make([]*farBlock, n)
	for i := range blocks {
		blocks[i] = &farBlock{fetches: fetches, bytes: bytes, fail: i%7 == 3}
	}
	return blocks, fetches
}

// Blocks are fetched before workers come to them, never while one reads them, and not all at
// once.
func TestBlocksAreFetchedAhead(t *testing.T) {
	const n = 200
	for _, c := range []struct {
		workers int
		slow    bool
		bytes   int64
		window  int
	}{
		{1, false, 256 << 10, maxAhead},
		{3, false, 256 << 10, maxAhead},
		{1, false, maxAheadBytes / 2, 2},
		{1, true, 256 << 10, maxAhead},
	} {
		blocks, fetches := farBlocks(n, c.bytes)
		var worked atomic.Int64
		err := parallel(t.Context(), nil, &ahead[*farBlock]{blocks: blocks, slow: c.slow}, c.workers, func(_ context.Context, _, i int, b *farBlock) error {
			if b.began.Load() != b.done.Load() {
				t.Errorf("block %d is read while it is fetched", i)
			}
			if done := worked.Add(1); fetches.Load() > done+int64(c.workers*c.window) || c.slow && fetches.Load() > 2*done {
				t.Errorf("%d blocks fetched when %d are read", fetches.Load(), done)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := fetches.Load(); worked.Load() != n || got != n {
			t.Errorf("%+v: %d of %d blocks fetched, %d read", c, got, n, worked.Load())
		}
	}
}

// When a scan fails, nothing more is fetched, and what is being fetched ends before its block
// is released.
func TestFetchingEndsWithTheScan(t *testing.T) {
	blocks, fetches := farBlocks(1000, 1)
	failed := errors.New("failed")
	err := parallel(t.Context(), nil, &ahead[*farBlock]{blocks: blocks}, 2, func(ctx context.Context, _, i int, _ *farBlock) error {
		switch {
		case i == 5:
			return failed
		case i > 5:
			<-ctx.Done()
		}
		return nil
	})
	if !errors.Is(err, failed) {
		t.Errorf("got %v", err)
	}
	if n := fetches.Load(); n > 8+maxAhead {
		t.Errorf("%d blocks fetched", n)
	}
	for i, b := range blocks {
		if !b.released.Load() {
			t.Fatalf("block %d is not released", i)
		}
	}
}
