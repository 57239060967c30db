package ingester

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/errgroup"

	"github.com/skaldlog/skald/storage/catalog"
	"github.com/skaldlog/skald/storage/object"
	"github.com/skaldlog/skald/storage/segment"
)

// Local segments come here from flush.go. They leave as objects, whose keys the catalog
// lists, and are removed when every querier must have seen them there.

// uploadLevel is the compaction level of what an ingester has merged.
const uploadLevel = 1

// sendLoop merges, uploads, and removes what was uploaded long enough ago. While the
// object store is away it tries again, ever more rarely; segments wait on disk.
func (i *Ingester) sendLoop(ctx context.Context) {
	ticker := time.NewTicker(max(min(10*time.Second, i.cfg.UploadAge/4, i.cfg.KeepAfterUpload/2), 10*time.Millisecond))
	defer ticker.Stop()
	retry := backoff{first: time.Second, last: time.Minute}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-i.sendWanted:
		}
		i.expireStreams(time.Now())
		err := i.send(ctx, false)
		if err == nil {
			retry.reset()
			continue
		}
		if isStop(ctx, err) {
			return
		}
		i.logger.Error("cannot upload segments, will try again; they are safe on local disk", "store", i.store, "err", err)
		if !retry.wait(ctx) {
			return
		}
	}
}

// send does one round: merge what has come together, upload what is merged, remove what
// is done with. With all set, everything has come together.
func (i *Ingester) send(ctx context.Context, all bool) error {
	if err := i.sending.lock(ctx); err != nil {
		return err
	}
	defer i.sending.unlock()
	if err := i.open(); err != nil {
		return err
	}
	if err := i.removeUploaded(time.Now()); err != nil {
		return err
	}
	if err := i.inParallel(ctx, i.groups(all, time.Now()), i.merge); err != nil {
		return err
	}
	var waiting [][]*localSegment
	for _, list := range i.inState(extUploading) {
		for _, s := range list {
			waiting = append(waiting, []*localSegment{s})
		}
	}
	return i.inParallel(ctx, waiting, func(ctx context.Context, one []*localSegment) error { return i.upload(ctx, one[0]) })
}

// inParallel calls fn for each group; the first failure ends the round.
func (i *Ingester) inParallel(ctx context.Context, groups [][]*localSegment, fn func(context.Context, []*localSegment) error) error {
	eg, egctx := errgroup.WithContext(ctx)
	eg.SetLimit(i.cfg.UploadWorkers)
	for _, group := range groups {
		eg.Go(func() error {
			if err := egctx.Err(); err != nil {
				return err
			}
			err := fn(egctx, group)
			if err != nil && egctx.Err() == nil {
				i.metrics.uploadFailure.Inc()
			}
			return err
		})
	}
	return eg.Wait()
}

// groups returns sets of local segments to be merged, each of one tenant and day.
func (i *Ingester) groups(all bool, now time.Time) (groups [][]*localSegment) {
	for _, list := range i.inState(extLocal) {
		slices.SortFunc(list, func(a, b *localSegment) int { return cmp.Compare(a.path, b.path) })
		for len(list) > 0 {
			// An object gets what has come together up to now, within reason.
			n, size, oldest := 0, int64(0), now
			for n < len(list) && (n == 0 || size < 2*i.cfg.UploadBytes && n < i.cfg.UploadSegments) {
				size += list[n].info.Size
				if list[n].since.Before(oldest) {
					oldest = list[n].since
				}
				n++
			}
			if !all && size < i.cfg.UploadBytes && n < i.cfg.UploadSegments && now.Sub(oldest) < i.cfg.UploadAge {
				break
			}
			groups = append(groups, list[:n:n])
			list = list[n:]
		}
	}
	return groups
}

// merge makes one segment of several, packed and indexed for good, ready for upload, and
// drops the several. A single one is merged with nothing, for the packing.
func (i *Ingester) merge(ctx context.Context, inputs []*localSegment) error {
	merged, err := i.writeMerged(ctx, inputs)
	if errors.Is(err, syscall.ENOSPC) {
		// No room for the merged segment. Uploading them one by one needs none, and
		// makes some.
		i.logger.Warn("disk is full, uploading segments without merging them", "tenant", inputs[0].tenant, "day", inputs[0].day)
		for _, s := range inputs {
			if err := i.promote(s); err != nil {
				return err
			}
		}
		return nil
	}
	if err != nil {
		return err
	}
	// The merged segment names its inputs, so recovery would drop them too.
	i.mu.Lock()
	i.removeSegments(inputs)
	i.addSegments([]*localSegment{merged})
	i.mu.Unlock()
	return i.removeFiles(inputs)
}

// promote marks a local segment for upload as it is; compaction will pack it. The new
// name fixes its key.
func (i *Ingester) promote(s *localSegment) error {
	key := catalog.KeyFor(s.tenant, s.day, s.info.Level, s.info.MinTime, s.info.MaxTime, s.info.ID, s.info.IDs)
	path := i.objectPath(key, extUploading)
	if err := i.disk.Rename(s.path, path); err != nil {
		return fmt.Errorf("marking a segment for upload: %w", err)
	}
	i.setState(s, path, extUploading, key)
	return nil
}

// writeMerged writes the merged segment under its final key and opens it.
func (i *Ingester) writeMerged(ctx context.Context, inputs []*localSegment) (_ *localSegment, err error) {
	td, id := inputs[0].tenantDay, ulid.Make().String()
	first, last := inputs[0].info.MinTime, inputs[0].info.MaxTime
	readers, size := make([]*segment.Reader, len(inputs)), int64(0)
	for n, s := range inputs {
		readers[n] = s.reader
		size += s.info.Size
		first, last = min(first, s.info.MinTime), max(last, s.info.MaxTime)
	}
	// Where its ids are is known when it is written.
	keyFor := func(ids segment.IDPages) object.Key {
		return catalog.KeyFor(td.tenant, td.day, uploadLevel, first, last, id, ids)
	}
	key := keyFor(segment.IDPages{})
	temp := i.objectPath(key, extMerging)
	path := temp

	file, err := i.disk.Create(temp)
	if err != nil {
		return nil, fmt.Errorf("merging segments: %w", err)
	}
	buf := bufio.NewWriterSize(file, int(min(4<<10+size, 256<<10)))
	info, err := segment.Merge(ctx, buf, readers, segment.MergeOptions{WriterOptions: segment.WriterOptions{ID: id, Tenant: td.tenant, Level: uploadLevel, RowHash: i.cfg.RowHash}})
	if err == nil {
		err = buf.Flush()
	}
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err == nil {
		key = keyFor(info.IDs)
		path = i.objectPath(key, extUploading)
		err = i.disk.Rename(temp, path)
	}
	if err == nil {
		// Before the inputs are removed: else a power cut could leave neither.
		err = i.disk.SyncDir(filepath.Dir(path))
	}
	var merged *localSegment
	if err == nil {
		merged, err = i.openLocal(ctx, td, path, extUploading, key)
	}
	if err != nil {
		// It must not stay under either name, for its inputs do.
		_, _ = i.disk.Remove(temp), i.disk.Remove(path)
		return nil, fmt.Errorf("merging %d segments of tenant %s, %s: %w", len(inputs), td.tenant, td.day, err)
	}
	return merged, nil
}

// upload puts a segment into the object store. The key is in the file's name, so that
// trying again, also after a crash, replaces the object instead of adding another.
func (i *Ingester) upload(ctx context.Context, s *localSegment) error {
	start := time.Now()
	// The name is the decision for the key. It has to be durable before the object exists,
	// or the next attempt might decide differently.
	if err := i.disk.SyncDir(filepath.Dir(s.path)); err != nil {
		return fmt.Errorf("uploading a segment: %w", err)
	}
	file, err := os.Open(s.path)
	if err != nil {
		return fmt.Errorf("uploading a segment: %w", err)
	}
	defer file.Close()
	if err := i.store.Put(ctx, s.key, file, s.info.Size); err != nil {
		return fmt.Errorf("uploading a segment: %w", err)
	}
	got, err := i.store.Stat(ctx, s.key)
	if err != nil {
		return fmt.Errorf("verifying an upload: %w", err)
	}
	if got.Size != s.info.Size {
		return fmt.Errorf("verifying an upload: object %s in %s has %d bytes, want %d", s.key, i.store, got.Size, s.info.Size)
	}
	path := i.objectPath(s.key, extUploaded)
	if err := i.disk.Rename(s.path, path); err != nil {
		return fmt.Errorf("noting an upload: %w", err)
	}
	i.setState(s, path, extUploaded, s.key)
	i.metrics.uploadSeconds.Observe(time.Since(start).Seconds())
	i.metrics.uploadedBytes.Add(float64(s.info.Size))
	return nil
}

// removeUploaded removes the segments that the object store has had for long enough.
//
// A merged segment is also what tells a restart that its inputs are void, so it stays
// until they are gone, durably; else they would come back and be uploaded once more.
func (i *Ingester) removeUploaded(now time.Time) error {
	if err := i.removeLeftovers(); err != nil {
		return err
	}
	var done []*localSegment
	for td, list := range i.inState(extUploaded) {
		synced := false
		for _, s := range list {
			if now.Sub(s.since) < i.cfg.KeepAfterUpload {
				continue
			}
			if !synced {
				if err := i.disk.SyncDir(i.segmentDir(td.tenant, td.day)); err != nil {
					return fmt.Errorf("removing uploaded segments: %w", err)
				}
				synced = true
			}
			done = append(done, s)
		}
	}
	if len(done) == 0 {
		return nil
	}
	i.mu.Lock()
	i.removeSegments(done)
	i.mu.Unlock()
	return i.removeFiles(done)
}

// removeFiles removes the files of segments that are no longer listed. Queries that still
// read them have them open. What cannot be removed is tried again before anything else is.
func (i *Ingester) removeFiles(segments []*localSegment) error {
	for _, s := range segments {
		s.unpin()
		i.leftovers = append(i.leftovers, s.path)
	}
	return i.removeLeftovers()
}

func (i *Ingester) removeLeftovers() error {
	for n, path := range i.leftovers {
		if err := i.disk.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			i.leftovers = i.leftovers[n:]
			return fmt.Errorf("removing a segment that is done with: %w", err)
		}
		// A day's directory goes with its last file, and a tenant's with its last day.
		if os.Remove(filepath.Dir(path)) == nil {
			_ = os.Remove(filepath.Dir(filepath.Dir(path)))
		}
	}
	i.leftovers = nil
	return nil
}
