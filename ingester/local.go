package ingester

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/storage/object"
	"github.com/skaldlog/skald/storage/segment"
)

// localSegment is a segment file on local disk, open for queries.
//
//	local ──merge──▶ (several become one) uploading ──put, verify──▶ uploaded ──keep──▶ removed
type localSegment struct {
	tenantDay
	reader *segment.Reader
	info   segment.Info
	closed func() // told when the reader is closed; may be nil

	// Guarded by Ingester.mu; changed by the holder of Ingester.sending only.
	path  string
	state string     // the file's extension
	key   object.Key // once its upload has been decided
	since time.Time  // when it came into this state, or was found there by recovery

	pins atomic.Int32 // by those who list it or read it
}

// Thousands of small tenants have a small file each for every memtable. They are kept in
// memory instead of open, up to a bound, so that they do not use up the descriptors.
const (
	smallFile  = 8 << 10
	smallFiles = 32 << 20 // bytes of all of them
)

// smallSource is a small segment file in memory.
type smallSource struct {
	path string
	data []byte
}

func (s *smallSource) ReadAt(_ context.Context, p []byte, off int64) error {
	if off < 0 || off > int64(len(s.data)) || copy(p, s.data[off:]) < len(p) {
		return io.ErrUnexpectedEOF
	}
	return nil
}

func (s *smallSource) Size() int64  { return int64(len(s.data)) }
func (s *smallSource) Name() string { return s.path }

// openLocal opens a segment file. It starts with one pin, the caller's.
func (i *Ingester) openLocal(ctx context.Context, td tenantDay, path, state string, key object.Key) (*localSegment, error) {
	s := &localSegment{tenantDay: td, path: path, state: state, key: key, since: time.Now()}
	if err := i.openReader(ctx, s); err != nil {
		return nil, err
	}
	s.info = s.reader.Info()
	s.pins.Store(1)
	if s.info.Tenant != td.tenant {
		s.unpin()
		return nil, fmt.Errorf("segment %s belongs to tenant %q, want %q", path, s.info.Tenant, td.tenant)
	}
	return s, nil
}

func (i *Ingester) openReader(ctx context.Context, s *localSegment) (err error) {
	st, err := os.Stat(s.path)
	if err != nil {
		return fmt.Errorf("opening a local segment: %w", err)
	}
	size := st.Size()
	if size > smallFile || i.small.Add(size) > smallFiles {
		if size <= smallFile {
			i.small.Add(-size)
		}
		s.reader, err = segment.OpenFile(ctx, s.path, segment.ReaderOptions{})
		return err
	}
	s.closed = func() { i.small.Add(-size) }
	data, err := os.ReadFile(s.path)
	if err == nil {
		s.reader, err = segment.Open(ctx, &smallSource{s.path, data}, segment.ReaderOptions{})
	}
	if err != nil {
		s.closed()
	}
	return err
}

func (s *localSegment) pin() { s.pins.Add(1) }

func (s *localSegment) unpin() {
	if s.pins.Add(-1) > 0 {
		return
	}
	_ = s.reader.Close() // it was only read
	if s.closed != nil {
		s.closed()
	}
}

// addSegments lists segments; called with mu held for writing.
func (i *Ingester) addSegments(add []*localSegment) {
	for _, s := range add {
		i.mu.segments[s.tenant] = append(i.mu.segments[s.tenant], s)
		i.countSegment(s, 1)
	}
}

// removeSegments takes segments off the list; called with mu held for writing. The
// caller unpins them afterwards.
func (i *Ingester) removeSegments(remove []*localSegment) {
	for _, s := range remove {
		list := i.mu.segments[s.tenant]
		at := slices.Index(list, s)
		list = slices.Delete(slices.Clone(list), at, at+1)
		i.mu.segments[s.tenant] = list
		if len(list) == 0 {
			delete(i.mu.segments, s.tenant)
		}
		i.countSegment(s, -1)
	}
}

// setState notes that the segment's file was renamed.
func (i *Ingester) setState(s *localSegment, path, state string, key object.Key) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.countSegment(s, -1)
	s.path, s.state, s.key, s.since = path, state, key, time.Now()
	i.countSegment(s, 1)
}

func (i *Ingester) countSegment(s *localSegment, sign float64) {
	state := s.state[1:]
	if s.state == extLocal {
		state = "local"
	}
	i.metrics.segments.WithLabelValues(state).Add(sign)
	i.metrics.segmentBytes.WithLabelValues(state).Add(sign * float64(s.info.Size))
}

// inState returns the listed segments in a state, oldest first within a tenant and day.
func (i *Ingester) inState(state string) map[tenantDay][]*localSegment {
	i.mu.RLock()
	defer i.mu.RUnlock()
	found := make(map[tenantDay][]*localSegment)
	for _, list := range i.mu.segments {
		for _, s := range list {
			if s.state == state {
				found[s.tenantDay] = append(found[s.tenantDay], s)
			}
		}
	}
	return found
}

// view is where a tenant's rows are at one moment.
type view struct {
	generations []*generation
	segments    []*localSegment // pinned; those that overlap the range
	listed      int             // all of the tenant's segments
}

func (i *Ingester) view(name model.Tenant, r model.TimeRange) (view, error) {
	if err := i.open(); err != nil {
		return view{}, err
	}
	i.mu.RLock()
	defer i.mu.RUnlock()
	v := view{generations: slices.Clone(i.mu.frozen)}
	if i.mu.current != nil {
		v.generations = append(v.generations, i.mu.current)
	}
	for _, s := range i.mu.segments[name] {
		v.listed++
		if r.Overlaps(s.info.MinTime, s.info.MaxTime) {
			s.pin()
			v.segments = append(v.segments, s)
		}
	}
	return v, nil
}

func (v view) release() {
	for _, s := range v.segments {
		s.unpin()
	}
}
