package ingester

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skaldlog/skald/ingester/wal"
	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/storage/catalog"
	"github.com/skaldlog/skald/storage/object"
)

// recover brings the ingester to the state in which the last process ended, whenever and
// however that was.
func (i *Ingester) recover() error {
	start := time.Now()
	// 1. The directory is ours alone.
	for _, dir := range []string{"wal", "segments"} {
		if err := i.disk.MkdirAll(filepath.Join(i.cfg.Dir, dir)); err != nil {
			return fmt.Errorf("making the data directory: %w", err)
		}
	}
	if err := i.lockDir(); err != nil {
		return err
	}
	// 2. Local segments, without leftovers and without what a merge has made void.
	segments, err := i.loadSegments()
	if err != nil {
		return err
	}
	i.mu.Lock()
	i.addSegments(segments)
	i.mu.Unlock()
	// 3. Logs, each to a frozen memtable of its own, but for what is in segments already.
	last, err := i.replay(flushed(segments))
	if err != nil {
		return err
	}
	// 4. A fresh log for what comes now.
	i.lastSeq = last
	current, err := i.startGeneration()
	if err != nil {
		return err
	}
	i.mu.Lock()
	i.mu.current = current
	frozen := len(i.mu.frozen)
	i.mu.Unlock()
	if frozen > 0 {
		i.wakeFlush()
	}
	i.metrics.recovery.Set(time.Since(start).Seconds())
	i.logger.Info("ingester recovered", "memtables", frozen, "segments", len(segments), "seconds", time.Since(start).Seconds())
	return nil
}

func (i *Ingester) lockDir() error {
	path := filepath.Join(i.cfg.Dir, "LOCK")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("locking the data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return fmt.Errorf("data directory %s is in use by another process (%s: %w); stop it, or give this one a directory of its own", i.cfg.Dir, path, err)
	}
	i.lock = f
	return nil
}

// flushed returns which tenant-days of which generations are in segments, by the names of
// the files.
func flushed(segments []*localSegment) map[uint64]map[tenantDay]bool {
	found := make(map[uint64]map[tenantDay]bool)
	for _, s := range segments {
		seq, _, ok := parseLocal(filepath.Base(s.path))
		if !ok {
			continue
		}
		if found[seq] == nil {
			found[seq] = make(map[tenantDay]bool)
		}
		found[seq][s.tenantDay] = true
	}
	return found
}

// foundFile is a file below segments/ whose name says that it is a segment.
type foundFile struct {
	tenantDay
	path, state string
	id          string
	key         object.Key
}

// loadSegments opens the local segments and removes leftovers.
func (i *Ingester) loadSegments() ([]*localSegment, error) {
	files, err := i.findSegments()
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var opened []*localSegment
	eg, ctx := errgroup.WithContext(context.Background())
	eg.SetLimit(8)
	for _, f := range files {
		eg.Go(func() error {
			s, err := i.openLocal(ctx, f.tenantDay, f.path, f.state, f.key)
			if err != nil {
				return i.damagedSegment(f.path, err)
			}
			mu.Lock()
			defer mu.Unlock()
			opened = append(opened, s)
			return nil
		})
	}
	if err := eg.Wait(); err != nil {
		for _, s := range opened {
			s.unpin()
		}
		return nil, err
	}
	return i.dropVoid(opened)
}

// damagedSegment decides about a segment that cannot be opened.
func (i *Ingester) damagedSegment(path string, err error) error {
	if !i.cfg.Salvage || fault.Of(err) != fault.Corrupt {
		return fmt.Errorf("local segment %s cannot be opened: %w; restore it from a backup, or start once with -ingester.salvage to go on without its entries (the file is kept as *%s)", path, err, extDamaged)
	}
	i.logger.Error("going on without a damaged segment", "path", path, "kept", path+extDamaged, "err", err)
	return i.disk.Rename(path, path+extDamaged)
}

// dropVoid removes segments that another one was merged from: the process ended between
// the rename of the merged one and the removal of its inputs.
func (i *Ingester) dropVoid(opened []*localSegment) ([]*localSegment, error) {
	void := make(map[string]bool)
	for _, s := range opened {
		if s.state != extLocal {
			for _, id := range s.info.MergedFrom {
				void[id] = true
			}
		}
	}
	var kept, dropped []*localSegment
	for _, s := range opened {
		if s.state == extLocal && void[s.info.ID] {
			dropped = append(dropped, s)
		} else {
			kept = append(kept, s)
		}
	}
	return kept, i.removeFiles(dropped)
}

// findSegments walks segments/<tenant>/<day>, removes temporary files, and says what of
// the rest are segments.
func (i *Ingester) findSegments() (files []foundFile, err error) {
	root := filepath.Join(i.cfg.Dir, "segments")
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if ext := filepath.Ext(path); ext == extTemp || ext == extMerging {
			return i.disk.Remove(path)
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		f, ok := parseSegmentPath(rel)
		if !ok {
			if filepath.Ext(path) != extDamaged {
				i.logger.Warn("file in the segments directory is not ours, leaving it alone", "path", path)
			}
			return nil
		}
		f.path = path
		files = append(files, f)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("looking for local segments: %w", err)
	}
	return files, nil
}

// parseSegmentPath reads <tenant>/<day>/<name>.
func parseSegmentPath(rel string) (f foundFile, ok bool) {
	parts := strings.Split(filepath.ToSlash(rel), "/")
	if len(parts) != 3 {
		return f, false
	}
	name, err := model.ParseTenant(parts[0])
	if err != nil {
		return f, false
	}
	if _, err := catalog.DayRange(parts[1]); err != nil {
		return f, false
	}
	f.tenantDay = tenantDay{name, parts[1]}
	if _, id, ok := parseLocal(parts[2]); ok {
		f.state, f.id = extLocal, id
		return f, true
	}
	ref, ok := parseObject(name, parts[1], parts[2])
	f.state, f.id, f.key = filepath.Ext(parts[2]), ref.ID, ref.Key
	return f, ok
}

// replay reads the logs into frozen generations and returns the highest number in use.
func (i *Ingester) replay(skip map[uint64]map[tenantDay]bool) (last uint64, err error) {
	dir := filepath.Join(i.cfg.Dir, "wal")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("looking for write-ahead logs: %w", err)
	}
	type file struct {
		seq uint64
		ext string
	}
	var files []file
	for _, e := range entries {
		seq, ext, ok := parseWAL(e.Name())
		if !ok {
			i.logger.Warn("file in the write-ahead log directory is not ours, leaving it alone", "path", filepath.Join(dir, e.Name()))
			continue
		}
		last = max(last, seq)
		if ext != extDamaged {
			files = append(files, file{seq, ext})
		}
	}
	for seq := range skip {
		last = max(last, seq)
	}
	slices.SortFunc(files, func(a, b file) int { return cmp.Compare(a.seq, b.seq) })
	for _, f := range files {
		if err := i.replayFile(f.seq, f.ext, skip[f.seq]); err != nil {
			return 0, err
		}
		// Memory may have been larger before. What does not fit goes to disk at once.
		if i.memory.used.Load() > i.cfg.MemtableBytes/2 {
			if err := i.flushFrozen(context.Background()); err != nil {
				return 0, err
			}
		}
	}
	if last == math.MaxUint64 {
		return 0, fmt.Errorf("write-ahead log numbers are used up in %s", dir)
	}
	return last, nil
}

// replayFile makes a log file a frozen generation.
func (i *Ingester) replayFile(seq uint64, ext string, skip map[tenantDay]bool) error {
	g := newGeneration(seq)
	g.skip, g.walPath = skip, i.walPath(seq, ext)
	r := replayer{ingester: i, to: g}
	res, err := wal.Read(g.walPath, wal.ReadOptions{Sealed: ext == extSealed, Salvage: i.cfg.Salvage}, r.batch)
	if err != nil {
		return err
	}
	if res.Skipped > 0 {
		kept := i.walPath(seq, extDamaged)
		i.logger.Error("write-ahead log is damaged, its whole batches were kept", "path", g.walPath, "kept", kept, "lost_bytes", res.Skipped, "batches", res.Batches)
		if err := os.Link(g.walPath, kept); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("keeping a damaged write-ahead log: %w", err)
		}
	}
	if ext == extActive {
		if err := i.sealReplayed(g, res); err != nil {
			return err
		}
	}
	close(g.complete)
	i.metrics.replayed.Add(float64(g.entries.Load()))
	i.mu.Lock()
	i.mu.frozen = append(i.mu.frozen, g)
	i.mu.Unlock()
	return nil
}

// sealReplayed cuts the torn tail off and seals the file, so that another crash before
// its entries are flushed finds the same batches again.
func (i *Ingester) sealReplayed(g *generation, res wal.Result) error {
	if res.Torn > 0 {
		i.logger.Info("cut an unfinished batch off the write-ahead log; it was not acknowledged", "path", g.walPath, "bytes", res.Torn)
	}
	if res.Good == 0 {
		return nil // not even a header; nothing to seal, and flush removes it
	}
	f, err := os.OpenFile(g.walPath, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("cutting a write-ahead log: %w", err)
	}
	err = nil
	if res.Torn > 0 {
		err = f.Truncate(res.Good)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("cutting a write-ahead log: %w", err)
	}
	sealed := i.walPath(g.seq, extSealed)
	if err := i.disk.Rename(g.walPath, sealed); err != nil {
		return fmt.Errorf("sealing a write-ahead log: %w", err)
	}
	g.walPath = sealed
	return nil
}

// replayer appends batches to a generation.
type replayer struct {
	ingester *Ingester
	to       *generation
	scratch  scratch
}

func (r *replayer) batch(b wal.Batch) error {
	sc := &r.scratch
	sc.streams, sc.hashes = sc.streams[:0], sc.hashes[:0]
	if len(r.to.skip) > 0 {
		for s := range b.Streams {
			b.Streams[s].Entries = slices.DeleteFunc(b.Streams[s].Entries, func(e model.Entry) bool {
				return r.to.skip[tenantDay{b.Tenant, catalog.DayOf(e.Timestamp)}]
			})
		}
	}
	// Limits were asked when the batch was pushed; without any, this notes the streams.
	t := r.ingester.lockTenant(b.Tenant)
	_ = t.admit(b.Streams, &limits.Limits{}, 1, time.Now().UnixNano(), sc, r.ingester.metrics)
	t.mu.Unlock()
	r.ingester.appendTo(r.to, t, sc.streams, sc.hashes)
	for s := range sc.streams {
		r.to.entries.Add(int64(len(sc.streams[s].Entries)))
	}
	return nil
}
