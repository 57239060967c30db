package ingester

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skaldlog/skald/ingester/wal"
	"github.com/skaldlog/skald/internal/model"
)

// powerDisk remembers what has been synced, so that a test can take the rest away, as a
// power cut does: the ends of files, and the latest changes of each directory.
type powerDisk struct {
	osDisk
	mu      sync.Mutex
	files   map[string]*powerFile
	changes map[string][]func() // per directory, what undoes each change that is not synced
	off     bool                // the power is gone, no sync has an effect
}

type powerFile struct {
	wal.File
	disk         *powerDisk
	path         string // follows renames
	size, synced int64
}

func newPowerDisk() *powerDisk {
	return &powerDisk{files: make(map[string]*powerFile), changes: make(map[string][]func())}
}

func (d *powerDisk) undo(path string, fn func()) {
	d.changes[filepath.Dir(path)] = append(d.changes[filepath.Dir(path)], fn)
}

func (d *powerDisk) Create(path string) (wal.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, err := d.osDisk.Create(path)
	if err != nil {
		return nil, err
	}
	pf := &powerFile{File: f, disk: d, path: path}
	d.files[path] = pf
	d.undo(path, func() { _ = os.Remove(path) })
	return pf, nil
}

func (d *powerDisk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.osDisk.Rename(from, to); err != nil {
		return err
	}
	if f := d.files[from]; f != nil {
		delete(d.files, from)
		d.files[to], f.path = f, to
	}
	d.undo(to, func() { _ = os.Rename(to, from) })
	return nil
}

func (d *powerDisk) Remove(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	kept, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := d.osDisk.Remove(path); err != nil {
		return err
	}
	if f := d.files[path]; f != nil {
		kept = kept[:f.synced]
		delete(d.files, path)
	}
	d.undo(path, func() {
		_ = os.MkdirAll(filepath.Dir(path), 0o700)
		_ = os.WriteFile(path, kept, 0o600)
	})
	return nil
}

func (d *powerDisk) SyncDir(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.changes, path)
	return nil
}

func (f *powerFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.size += int64(n)
	return n, err
}

func (f *powerFile) Truncate(size int64) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.size, f.synced = size, min(size, f.synced)
	return f.File.Truncate(size)
}

func (f *powerFile) Sync() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if !f.disk.off {
		f.synced = f.size
	}
	return nil
}

// cut takes away a random part of what is not synced.
func (d *powerDisk) cut(rng *rand.Rand) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for path, f := range d.files {
		_ = os.Truncate(path, f.synced+rng.Int64N(f.size-f.synced+1))
	}
	for _, undo := range d.changes {
		for n := len(undo) - 1; n >= 0; n-- { // nothing promises that they persist in order
			if rng.IntN(2) == 0 {
				undo[n]()
			}
		}
	}
}

// The power goes at any moment, and takes with it what was not synced: every acknowledged
// entry is there afterwards, once.
func TestPowerCut(t *testing.T) {
	seeds := uint64(100)
	if testing.Short() {
		seeds = 20
	}
	for seed := range seeds {
		rng := rand.New(rand.NewPCG(seed, 7))
		r := newRig(t)
		var acked []model.Stream
		for life := range 3 {
			power := newPowerDisk()
			r.Ingester.disk = power
			r.Ingester.store = &faultyStore{Store: r.store, stores: rng.IntN(2) == 0, fail: func(string) error {
				if rng.IntN(2) == 0 {
					return errors.New("the store is away")
				}
				return nil
			}}
			s := logs("first", entry(day0, fmt.Sprint(seed, " ", life)))
			r.push("t", s)
			acked = append(acked, s)
			r.must(r.freeze()) // onto the disk that forgets
			for step := range 1 + rng.IntN(12) {
				switch rng.IntN(5) {
				case 0:
					r.must(r.freeze())
				case 1:
					r.must(r.flushFrozen(context.Background()))
				case 2:
					r.Ingester.cfg.KeepAfterUpload = 0
					_ = r.send(context.Background(), rng.IntN(2) == 0)
				default:
					s := logs(fmt.Sprint("app-", rng.IntN(3)), entry(day0+rng.Int64N(3)-1, fmt.Sprint(seed, " ", life, " ", step)))
					r.push("t", s)
					acked = append(acked, s)
				}
			}
			power.mu.Lock()
			power.off = true
			power.mu.Unlock()
			r.crash()
			power.cut(rng)
			r.start()
			if diff := cmp.Diff(rendered(acked...), r.everywhere("t")); diff != "" {
				t.Fatalf("seed %d, life %d: rows differ (-acknowledged +found):\n%s\nfiles: %v", seed, life, diff, r.files())
			}
		}
		r.must(r.Close())
	}
}

// noMergeDisk has no room for a merged segment.
type noMergeDisk struct{ *powerDisk }

func (d noMergeDisk) Create(path string) (wal.File, error) {
	if filepath.Ext(path) == extMerging {
		return nil, syscall.ENOSPC
	}
	return d.powerDisk.Create(path)
}

// The name of a file is the decision for its object's key. When the object exists, no power
// cut may take the name back: the next attempt would decide for another key, and the rows
// be there under both.
func TestKeyIsDurableBeforeItsObject(t *testing.T) {
	r := newRig(t)
	ctx := context.Background()
	power := newPowerDisk()
	r.Ingester.disk = noMergeDisk{power}
	s := logs("a", entry(day0, "x"))
	r.push("t", s)
	r.must(r.freeze())
	r.must(r.flushFrozen(ctx))
	puts := 0
	r.Ingester.store = &faultyStore{Store: r.store, stores: true, fail: func(op string) error {
		if op != "put" {
			return nil
		}
		puts++
		// Whatever the cut can undo, it undoes.
		power.mu.Lock()
		defer power.mu.Unlock()
		for dir, undo := range power.changes {
			if filepath.Base(filepath.Dir(filepath.Dir(dir))) == "segments" && len(undo) > 0 {
				t.Errorf("an object is about to be, and %d changes of %s are not durable", len(undo), dir)
			}
		}
		return errors.New("and the answer is lost")
	}}
	if err := r.send(ctx, true); err == nil || puts != 1 {
		t.Fatalf("%d puts, error %v; want one that fails", puts, err)
	}
	r.crash()
	power.cut(rand.New(rand.NewPCG(1, 1)))
	r.start()
	r.must(r.send(ctx, true))
	if diff := cmp.Diff(rendered(s), r.stored("t")); diff != "" {
		t.Errorf("rows differ (-want +got):\n%s", diff)
	}
}
