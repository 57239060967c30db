package tail

import (
	"context"
	"os"
	"path/filepath"
	"sync"

	"github.com/fsnotify/fsnotify"
)

// watcher turns inotify events on directories into work. Without it, or for directories
// that cannot be watched, the tailer scans more often.
type watcher struct {
	t  *Tailer
	fs *fsnotify.Watcher
	mu struct {
		sync.Mutex
		dirs map[string]bool // value: the watch works
	}
}

func newWatcher(t *Tailer) *watcher {
	w := &watcher{t: t}
	w.mu.dirs = map[string]bool{}
	if t.cfg.NoWatch {
		return w
	}
	fs, err := fsnotify.NewBufferedWatcher(4096)
	if err != nil {
		t.Stats.WatchErrors.Add(1)
		t.log.Warn("inotify is not available; files are looked at periodically", "period", t.cfg.Poll, "err", err)
		return w
	}
	w.fs = fs
	return w
}

// set makes the watched directories these, or, for those that do not exist, the nearest
// ones above them.
func (w *watcher) set(want map[string]bool) {
	if w.fs == nil {
		return
	}
	dirs := map[string]bool{}
	for d := range want {
		for d != "/" && !isDir(d) {
			d = filepath.Dir(d)
		}
		dirs[d] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	fresh := false
	for d := range dirs {
		if w.mu.dirs[d] {
			continue
		}
		err := w.fs.Add(d)
		if _, known := w.mu.dirs[d]; err != nil && !known {
			w.t.Stats.WatchErrors.Add(1)
			w.t.log.Warn("a directory cannot be watched; files are looked at periodically", "dir", d, "period", w.t.cfg.Poll, "err", err)
		} else if err == nil && known {
			w.t.Stats.WatchErrors.Add(-1)
		}
		w.mu.dirs[d] = err == nil
		fresh = fresh || err == nil
	}
	for d, ok := range w.mu.dirs {
		if !dirs[d] {
			if ok {
				_ = w.fs.Remove(d) // it may be gone already
			} else {
				w.t.Stats.WatchErrors.Add(-1)
			}
			delete(w.mu.dirs, d)
		}
	}
	w.t.Stats.Watches.Store(int64(len(w.mu.dirs)))
	if fresh {
		// Something may have been created between the scan and the watch.
		w.t.askScan()
	}
}

func isDir(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}

func (w *watcher) run(ctx context.Context) {
	if w.fs == nil {
		return
	}
	defer w.fs.Close()
	for {
		select {
		case <-ctx.Done():
			return
		case ev, ok := <-w.fs.Events:
			if !ok {
				return
			}
			w.event(ev)
		case _, ok := <-w.fs.Errors:
			if !ok {
				return
			}
			// Most likely the queue of events overflowed: look at everything.
			w.t.askScan()
		}
	}
}

func (w *watcher) event(ev fsnotify.Event) {
	t := w.t
	t.mu.Lock()
	logs := t.mu.names[ev.Name]
	check := !ev.Has(fsnotify.Write)
	for _, l := range logs {
		t.wakeLocked(l, check)
	}
	t.mu.Unlock()
	switch {
	case ev.Has(fsnotify.Remove) || ev.Has(fsnotify.Rename):
		w.gone(ev.Name)
	case len(logs) == 0 && ev.Has(fsnotify.Create):
		w.created(ev.Name)
	case len(logs) == 0 && ev.Has(fsnotify.Write):
		// Mostly a file that is followed under an old name and looked at by its deadlines; but
		// one that was empty when it was found has no log yet.
		for _, tg := range t.allTargets() {
			if tg.wants(ev.Name) {
				t.askScan()
				break
			}
		}
	}
}

// gone forgets the watch of a directory that was removed or renamed.
func (w *watcher) gone(name string) {
	w.mu.Lock()
	_, ok := w.mu.dirs[name]
	if ok {
		_ = w.fs.Remove(name) // it may be gone already
		delete(w.mu.dirs, name)
	}
	w.mu.Unlock()
	if ok {
		w.t.askScan()
	}
}

// created handles a new name that no log has.
func (w *watcher) created(name string) {
	t := w.t
	fi, err := os.Lstat(name)
	switch {
	case err != nil:
		t.born(name) // and renamed at once
	case !fi.Mode().IsRegular():
		t.askScan() // a directory or a link
	default:
		targets := t.allTargets()
		for _, tg := range targets {
			if tg.wants(name) {
				t.askScan()
				return
			}
		}
		t.stranger(name, targets)
	}
}
