package object

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/skaldlog/skald/storage/internal/lru"
)

// diskCache keeps ranges in files, one each, named by the hash of their key:
//
//	<dir>/<first 2 hex digits>/<16 hex digits>
//
//	magic     4  "SKR1"
//	checksum  8  XXH64 of everything after it
//	offset    8
//	length    4  of the data
//	key size  2
//	key
//	data
//
// Numbers are little-endian. Nothing is synced: what a crash damages fails its checksum.
//
// A new file costs as much as the range that it holds: a third of the CPU of a search that
// finds nothing here was for files. So they are written by run, when the search is over.
type diskCache struct {
	dir     string
	metrics cacheMetrics
	logger  *slog.Logger
	mu      struct {
		sync.Mutex
		files       *lru.Cache[uint64, uint64] // the file's name; its cost is its size
		pausedUntil time.Time
		// What run is to write. Without it, or beyond maxUnwritten, reads write themselves.
		running        bool
		unwritten      map[rangeKey][]byte
		unwrittenBytes int
	}
	wanted chan struct{} // has an item when something is unwritten
}

const (
	diskMagic  = "SKR1"
	diskHeader = 4 + 8 + 8 + 4 + 2
	diskBlock  = 4096 // what a file system gives out at least
	// diskPause is how long nothing is written after a failure.
	diskPause = time.Minute
	// writeDelay is how long ranges wait for their files: as long as a search takes.
	writeDelay = time.Second
	// maxUnwritten bounds the bytes that wait.
	maxUnwritten = 8 << 20
)

func diskCost(size int64) int64 { return (size + diskBlock - 1) / diskBlock * diskBlock }

// openDiskCache takes over what an earlier process left, oldest first, and removes files
// that it had not finished.
func openDiskCache(dir string, max int64, metrics cacheMetrics, logger *slog.Logger) (*diskCache, error) {
	d := &diskCache{dir: dir, metrics: metrics, logger: logger, wanted: make(chan struct{}, 1)}
	d.mu.files = lru.New[uint64, uint64](max)
	d.mu.unwritten = map[rangeKey][]byte{}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cache directory: %w", err)
	}
	type file struct {
		name     uint64
		size     int64
		modified time.Time
	}
	var files []file
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		if strings.HasPrefix(e.Name(), tempPrefix) {
			return os.Remove(path)
		}
		name, err := strconv.ParseUint(e.Name(), 16, 64)
		if err != nil || path != d.path(name) {
			return nil // not ours
		}
		if info, err := e.Info(); err == nil {
			files = append(files, file{name, info.Size(), info.ModTime()})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cache directory: %w", err)
	}
	slices.SortFunc(files, func(a, b file) int { return a.modified.Compare(b.modified) })
	for _, f := range files {
		d.remember(f.name, f.size)
	}
	return d, nil
}

func (d *diskCache) path(name uint64) string {
	hex := fmt.Sprintf("%016x", name)
	return filepath.Join(d.dir, hex[:2], hex)
}

// remember accounts for a file and removes those that must go.
func (d *diskCache) remember(name uint64, size int64) {
	d.mu.Lock()
	d.mu.files.Remove(name)
	out := d.mu.files.Put(name, name, diskCost(size))
	d.metrics.held.WithLabelValues("disk").Set(float64(d.mu.files.Cost()))
	d.mu.Unlock()
	for _, name := range out {
		_ = os.Remove(d.path(name))
	}
}

// forget removes a file that turned out to be useless.
func (d *diskCache) forget(name uint64) {
	d.mu.Lock()
	d.mu.files.Remove(name)
	d.metrics.held.WithLabelValues("disk").Set(float64(d.mu.files.Cost()))
	d.mu.Unlock()
	_ = os.Remove(d.path(name))
}

// get returns a range, if it is there and whole.
func (d *diskCache) get(k rangeKey) ([]byte, bool) {
	name := k.hash()
	d.mu.Lock()
	data, waits := d.mu.unwritten[k]
	_, ok := d.mu.files.Get(name)
	d.mu.Unlock()
	if waits {
		return data, true
	}
	if !ok {
		return nil, false
	}
	data, err := d.read(name, k)
	if err != nil {
		d.forget(name)
		if !errors.Is(err, fs.ErrNotExist) {
			d.metrics.corrupt.Inc()
			d.logger.Warn("cached range is unusable and was removed", "file", d.path(name), "object", k.key, "err", err)
		}
		return nil, false
	}
	return data, true
}

var errOtherRange = errors.New("it holds another range")

func (d *diskCache) read(name uint64, k rangeKey) ([]byte, error) {
	f, err := os.Open(d.path(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	want := diskHeader + len(k.key) + k.len
	if info.Size() != int64(want) { // before allocating for it
		return nil, fmt.Errorf("it has %d bytes, want %d", info.Size(), want)
	}
	buf := make([]byte, want)
	if _, err := f.ReadAt(buf, 0); err != nil {
		return nil, err
	}
	if string(buf[:4]) != diskMagic || binary.LittleEndian.Uint64(buf[4:]) != xxhash.Sum64(buf[12:]) {
		return nil, errors.New("its checksum is wrong")
	}
	header := appendDiskHeader(nil, k)
	if string(buf[12:diskHeader+len(k.key)]) != string(header[12:]) {
		return nil, errOtherRange
	}
	return buf[diskHeader+len(k.key):], nil
}

// appendDiskHeader appends everything before the data, with no checksum yet.
func appendDiskHeader(b []byte, k rangeKey) []byte {
	b = append(b, diskMagic...)
	b = binary.LittleEndian.AppendUint64(b, 0)
	b = binary.LittleEndian.AppendUint64(b, uint64(k.off))
	b = binary.LittleEndian.AppendUint32(b, uint32(k.len))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(k.key)))
	return append(b, k.key...)
}

// put stores a range if it can, now or soon; failing is no error of the read that brought it.
// The data must not change.
func (d *diskCache) put(ctx context.Context, k rangeKey, data []byte) {
	d.mu.Lock()
	later := d.mu.running && d.mu.unwrittenBytes+len(data) <= maxUnwritten
	if later {
		d.mu.unwrittenBytes += len(data) - len(d.mu.unwritten[k])
		d.mu.unwritten[k] = data
	}
	d.mu.Unlock()
	if !later {
		d.store(ctx, k, data)
		return
	}
	select {
	case d.wanted <- struct{}{}:
	default:
	}
}

// run writes what reads have left for it until ctx ends, and then the rest.
func (d *diskCache) run(ctx context.Context) {
	d.mu.Lock()
	d.mu.running = true
	d.mu.Unlock()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-d.wanted:
			select {
			case <-ctx.Done():
			case <-time.After(writeDelay):
				d.writeOut(ctx)
			}
		}
	}
	d.mu.Lock()
	d.mu.running = false
	d.mu.Unlock()
	d.writeOut(ctx)
}

// writeOut writes the ranges that wait, each of which is found until its file is there.
func (d *diskCache) writeOut(ctx context.Context) {
	d.mu.Lock()
	waiting := maps.Clone(d.mu.unwritten)
	d.mu.Unlock()
	for k, data := range waiting {
		d.store(ctx, k, data)
		d.mu.Lock()
		d.mu.unwrittenBytes -= len(d.mu.unwritten[k])
		delete(d.mu.unwritten, k)
		d.mu.Unlock()
	}
}

// store writes a range, unless that has failed just now.
func (d *diskCache) store(ctx context.Context, k rangeKey, data []byte) {
	d.mu.Lock()
	paused := time.Now().Before(d.mu.pausedUntil)
	d.mu.Unlock()
	if paused {
		return
	}
	name := k.hash()
	size, err := d.write(name, k, data)
	if err != nil {
		d.mu.Lock()
		d.mu.pausedUntil = time.Now().Add(diskPause)
		d.mu.Unlock()
		d.metrics.failures.Inc()
		d.logger.WarnContext(ctx, "cannot write to the cache directory; going on without for a minute", "dir", d.dir, "err", err)
		return
	}
	d.remember(name, size)
}

// write makes the file under a temporary name first, so that a reader never sees a part.
func (d *diskCache) write(name uint64, k rangeKey, data []byte) (size int64, err error) {
	buf := make([]byte, 0, diskHeader+len(k.key)+len(data))
	buf = append(appendDiskHeader(buf, k), data...)
	binary.LittleEndian.PutUint64(buf[4:], xxhash.Sum64(buf[12:]))
	path := d.path(name)
	f, err := os.CreateTemp(filepath.Dir(path), tempPrefix+"*")
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return 0, err
		}
		f, err = os.CreateTemp(filepath.Dir(path), tempPrefix+"*")
	}
	if err != nil {
		return 0, err
	}
	_, err = f.Write(buf)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return 0, err
	}
	return int64(len(buf)), nil
}
