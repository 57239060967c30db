package ingester

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/errgroup"

	"github.com/skaldlog/skald/internal/cores"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/storage/catalog"
	"github.com/skaldlog/skald/storage/segment"
)

// Frozen memtables come here from freeze in generation.go, and leave as local segments
// for upload.go. Until the segments are durable the write-ahead log stays.

// freezeLoop freezes the current memtable when it is large or old enough.
func (i *Ingester) freezeLoop(ctx context.Context) {
	ticker := time.NewTicker(max(min(time.Second, i.cfg.FreezeAge/4), time.Millisecond))
	defer ticker.Stop()
	retry := backoff{first: 100 * time.Millisecond, last: 5 * time.Second}
	for {
		pressed := false
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-i.freezeWanted:
			pressed = true
		}
		if !i.freezeDue(pressed, time.Now()) {
			continue
		}
		if err := i.freeze(); err != nil {
			i.logger.Error("cannot freeze the memtable, will try again", "err", err)
			if !retry.wait(ctx) {
				return
			}
			i.wakeFreeze()
			continue
		}
		retry.reset()
	}
}

// freezeDue decides. pressed says that a push asked, because the memtable is large, memory
// is short or the log is out of use.
func (i *Ingester) freezeDue(pressed bool, now time.Time) bool {
	i.mu.RLock()
	g, waiting := i.mu.current, len(i.mu.frozen)
	i.mu.RUnlock()
	switch {
	case g == nil:
		return false
	case g.log.Broken(), g.bytes.Load() >= i.cfg.FreezeBytes:
		return true
	case g.entries.Load() == 0:
		return false
	case pressed && waiting == 0 && i.memory.used.Load() > i.cfg.MemtableBytes/2:
		return true // memory is short, and nothing else is going to free any
	}
	return now.Sub(time.Unix(0, g.born.Load())) >= i.cfg.FreezeAge
}

// flushLoop writes frozen memtables to disk.
func (i *Ingester) flushLoop(ctx context.Context) {
	retry := backoff{first: 250 * time.Millisecond, last: 15 * time.Second}
	for {
		select {
		case <-ctx.Done():
			return
		case <-i.flushWanted:
		}
		err := i.flushFrozen(ctx)
		if err == nil {
			retry.reset()
			continue
		}
		if isStop(ctx, err) {
			return
		}
		i.logger.Error("cannot write a memtable to disk, will try again", "err", err)
		if !retry.wait(ctx) {
			return
		}
		i.wakeFlush()
	}
}

// flushFrozen flushes the frozen generations, oldest first, and those that become frozen
// meanwhile.
func (i *Ingester) flushFrozen(ctx context.Context) error {
	if err := i.flushing.lock(ctx); err != nil {
		return err
	}
	defer i.flushing.unlock()
	for {
		i.mu.RLock()
		var oldest *generation
		if len(i.mu.frozen) > 0 {
			oldest = i.mu.frozen[0]
		}
		i.mu.RUnlock()
		if oldest == nil {
			return nil
		}
		// A generation is listed as frozen a moment before its last writer has left.
		select {
		case <-oldest.complete:
		case <-ctx.Done():
			return ctx.Err()
		}
		start := time.Now()
		if err := i.flush(ctx, oldest); err != nil {
			if !isStop(ctx, err) {
				i.metrics.flushFailures.Inc()
			}
			return err
		}
		i.metrics.flushSeconds.Observe(time.Since(start).Seconds())
		i.wakeSend()
	}
}

// newSegment is a segment file on its way to being listed.
type newSegment struct {
	tenantDay
	path    string
	renamed bool
	local   *localSegment
}

// flush makes a frozen generation local segments.
func (i *Ingester) flush(ctx context.Context, g *generation) (err error) {
	var files []*newSegment
	defer func() {
		if err != nil {
			i.discard(files)
		}
	}()
	// 1. Each tenant and day to a file of its own, synced, under a temporary name.
	if files, err = i.writeSegments(ctx, g); err != nil {
		return err
	}
	// 2. Renamed: from here on recovery leaves these tenant-days out of a replay.
	dirs := make(map[string]bool)
	for _, f := range files {
		if err = i.disk.Rename(f.path+extTemp, f.path); err != nil {
			return fmt.Errorf("flushing a memtable: %w", err)
		}
		f.renamed = true
		dirs[filepath.Dir(f.path)] = true
	}
	if err = i.syncDirs(dirs); err != nil {
		return fmt.Errorf("flushing a memtable: %w", err)
	}
	// 3. Opened, which also proves that they can be read.
	listed := make([]*localSegment, 0, len(files))
	for _, f := range files {
		if f.local, err = i.openLocal(ctx, f.tenantDay, f.path, extLocal, ""); err != nil {
			return fmt.Errorf("opening a segment just written: %w", err)
		}
		listed = append(listed, f.local)
	}
	// 4. The log is no longer needed. It goes before the segments can be merged, because a
	// replay recognises them by their names.
	if err = i.disk.Remove(g.walPath); err != nil {
		return fmt.Errorf("removing a write-ahead log that is done with: %w", err)
	}
	// The log is gone, so from here on the segments must stay, whatever happens.
	if err := i.disk.SyncDir(filepath.Dir(g.walPath)); err != nil {
		i.logger.Warn("removal of a write-ahead log is not durable; after a power cut it may be replayed once more", "path", g.walPath, "err", err)
	}
	// 5. In one step for queries, the memtable is gone and the segments are there.
	i.mu.Lock()
	i.mu.frozen = slices.DeleteFunc(slices.Clone(i.mu.frozen), func(f *generation) bool { return f == g })
	i.addSegments(listed)
	i.mu.Unlock()
	i.memory.retire(g)
	return nil
}

// syncAtOnce is how many syncs of small files and directories wait for the disk together,
// which then makes one of them. With thousands of tenants a flush is little else.
const syncAtOnce = 16

func (i *Ingester) syncDirs(dirs map[string]bool) error {
	var eg errgroup.Group
	eg.SetLimit(syncAtOnce)
	for dir := range dirs {
		eg.Go(func() error { return i.disk.SyncDir(dir) })
	}
	return eg.Wait()
}

// discard removes the files of a flush that has failed. The log still has the entries.
func (i *Ingester) discard(files []*newSegment) {
	for _, f := range files {
		path := f.path
		if !f.renamed {
			path += extTemp
		}
		if f.local != nil {
			f.local.unpin()
		}
		if err := i.disk.Remove(path); err != nil {
			i.logger.Warn("cannot remove the file of a failed flush", "path", path, "err", err)
		}
	}
}

// writeSegments writes the files of a generation. They are returned, also those that
// failed, with an error, so that they can be removed.
func (i *Ingester) writeSegments(ctx context.Context, g *generation) ([]*newSegment, error) {
	g.mu.RLock()
	tables := slices.Collect(maps.Values(g.mu.tables))
	g.mu.RUnlock()
	slices.SortFunc(tables, func(a, b *table) int { return cmp.Compare(a.tenant, b.tenant) })
	var mu sync.Mutex
	var files []*newSegment
	eg, ctx := errgroup.WithContext(ctx)
	limit := max(1, min(4, cores.Count()/2))
	if len(tables) > syncAtOnce {
		limit = syncAtOnce // most are small
	}
	eg.SetLimit(limit)
	for _, t := range tables {
		eg.Go(func() error {
			written, err := i.writeTable(ctx, g, t)
			mu.Lock()
			defer mu.Unlock()
			files = append(files, written...)
			return err
		})
	}
	err := eg.Wait()
	return files, err
}

// openDays bounds the segment writers of a table that are open at once; each holds a block
// and its needles.
const openDays = 4

func (i *Ingester) writeTable(ctx context.Context, g *generation, t *table) (files []*newSegment, err error) {
	i.sortStreams(t)
	snap := t.snapshot()
	rows := snap.sorted(snap.match(nil), allTime)
	days := slices.DeleteFunc(rows.days(), func(day string) bool { return g.skip[tenantDay{t.tenant, day}] })
	for group := range slices.Chunk(days, openDays) {
		writers := make(map[string]*segmentFile)
		for _, day := range group {
			w, err := i.createSegment(g, tenantDay{t.tenant, day}, len(rows.refs), len(rows.runs))
			if w != nil {
				writers[day], files = w, append(files, &w.newSegment)
			}
			if err != nil {
				return files, errors.Join(err, closeAll(writers))
			}
		}
		if err := rows.write(ctx, writers); err != nil {
			return files, errors.Join(err, closeAll(writers))
		}
		for _, w := range writers {
			if err := w.finish(); err != nil {
				return files, errors.Join(err, closeAll(writers))
			}
		}
	}
	return files, nil
}

// sortStreams sorts the streams of a table that is being flushed, with the help of the
// order in those before.
func (i *Ingester) sortStreams(t *table) {
	tenant := i.lockTenant(t.tenant)
	tenant.mu.Unlock()
	order := t.sortStreams(tenant.flushed.Load())
	if len(order.streams) < manyStreams {
		order = nil
	}
	tenant.flushed.Store(order)
}

// segmentFile is a segment being written.
type segmentFile struct {
	newSegment
	file interface {
		Write([]byte) (int, error)
		Sync() error
		Close() error
	}
	buf    *bufio.Writer
	writer *segment.Writer
}

func (i *Ingester) createSegment(g *generation, td tenantDay, rows, streams int) (*segmentFile, error) {
	id := ulid.Make().String()
	f := &segmentFile{newSegment: newSegment{tenantDay: td, path: i.localPath(td.tenant, td.day, g.seq, id)}}
	// An upload may remove the directory, as empty, before the file is in it.
	err := fs.ErrNotExist
	for try := 0; try < 3 && errors.Is(err, fs.ErrNotExist); try++ {
		if err = i.disk.MkdirAll(filepath.Dir(f.path)); err == nil {
			f.file, err = i.disk.Create(f.path + extTemp)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("flushing a memtable: %w", err)
	}
	f.buf = bufio.NewWriterSize(f.file, min(4<<10+64*rows, 256<<10)) // a row takes about that
	f.writer = segment.NewWriter(f.buf, segment.WriterOptions{
		ID: id, Tenant: td.tenant, RowHash: i.cfg.RowHash, Streams: streams,
		// A local segment lives for minutes, until a merge packs its rows for good. Packing
		// them well twice would cost 3 CPU-seconds per GB, and indexing them twice as many.
		Codec: segment.CodecS2, NoNeedles: !i.cfg.LocalNeedles,
	})
	return f, nil
}

// finish completes the file and makes its content durable.
func (f *segmentFile) finish() error {
	_, err := f.writer.Close()
	if err == nil {
		err = f.buf.Flush()
	}
	if err == nil {
		// Before the rename: a name must never stand for a file that is not all there.
		err = f.file.Sync()
	}
	if err = errors.Join(err, f.close()); err != nil {
		return fmt.Errorf("writing segment %s: %w", f.path, err)
	}
	return nil
}

func (f *segmentFile) close() error {
	if f.file == nil {
		return nil
	}
	file := f.file
	f.file = nil
	return file.Close()
}

func closeAll(writers map[string]*segmentFile) (err error) {
	for _, w := range writers {
		err = errors.Join(err, w.close())
	}
	return err
}

// days returns the UTC days that have rows.
func (r sortedRows) days() []string {
	found := make(map[string]bool)
	var day utcDay
	for _, run := range r.runs {
		for at := run.Start; at < run.End; {
			if day.move(r.snap.time(r.refs[at])) {
				found[day.name] = true
			}
			at = r.endOfDay(&day, at, run.End)
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// utcDay is the day of a timestamp. Those of the next stream are mostly of the same day.
type utcDay struct {
	name   string
	limits model.TimeRange
}

// move makes it the day of ts, and reports whether that is another one than before.
func (d *utcDay) move(ts int64) bool {
	if d.name != "" && d.limits.Contains(ts) {
		return false
	}
	d.name = catalog.DayOf(ts)
	var err error
	if d.limits, err = catalog.DayRange(d.name); err != nil {
		d.limits = allTime // cannot be: the name is that of a timestamp's day
	}
	return true
}

// endOfDay returns the first row after the given one, in the same run, that is of
// another day.
func (r sortedRows) endOfDay(day *utcDay, from, end int) int {
	if r.snap.time(r.refs[end-1]) < day.limits.Through {
		return end
	}
	n, _ := slices.BinarySearchFunc(r.refs[from:end], day.limits.Through, func(row ref, through int64) int {
		return cmp.Compare(r.snap.time(row), through)
	})
	return from + max(n, 1)
}

// write appends the rows to the writers of their days; rows of other days are left out.
func (r sortedRows) write(ctx context.Context, writers map[string]*segmentFile) error {
	metadata := newMetadataDecoder(r.snap.names)
	touched := 0
	var day utcDay
	for _, run := range r.runs {
		if err := ctx.Err(); err != nil {
			return err
		}
		for at := run.Start; at < run.End; {
			day.move(r.snap.time(r.refs[at]))
			end := r.endOfDay(&day, at, run.End)
			w := writers[day.name]
			for ; at < end && w != nil; at++ {
				if at >= touched {
					r.touch(at, at+touchRows)
					touched = at + touchRows
				}
				line, md := r.snap.row(r.refs[at])
				if err := w.writer.Append(run.Labels, run.Hash, r.snap.time(r.refs[at]), line, metadata.labels(md)); err != nil {
					return fmt.Errorf("writing segment %s: %w", w.path, err)
				}
			}
			at = end
		}
	}
	return nil
}

const (
	touchRows  = 32
	touchBytes = 512 // of a row; what follows the processor fetches by itself
	cacheLine  = 64
)

// touch reads a byte of each cache line of the rows. With many streams, rows of one order lie
// anywhere in the slabs, and one after the other would wait for memory: these waits overlap.
//
//go:noinline
func (r sortedRows) touch(from, to int) (sum byte) {
	for _, row := range r.refs[from:min(to, len(r.refs))] {
		sl, i := r.snap.at(row)
		start := sl.start(i)
		data := sl.data[start:min(sl.rowEnd[i], start+touchBytes)]
		for at := 0; at < len(data); at += cacheLine {
			sum += data[at]
		}
	}
	return sum // so that the reads are none that a compiler leaves out
}
