package querier

import (
	"flag"
	"io"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skaldlog/skald/ingester"
	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/testkit/logqltest"
	"github.com/skaldlog/skald/logql/scan"
	"github.com/skaldlog/skald/storage"
	"github.com/skaldlog/skald/storage/catalog"
	"github.com/skaldlog/skald/storage/compact"
	objects "github.com/skaldlog/skald/storage/object"
)

// TestScripts runs the LogQL scripts over every place where rows can be: they must give
// the same answers everywhere. Each body also holds rows twice, as after retried pushes.
func TestScripts(t *testing.T) {
	for name, open := range map[string]func(w *scriptWorld){
		"memtable":       func(w *scriptWorld) { w.push(0, 1); w.push(0, 2) },
		"local segments": func(w *scriptWorld) { w.push(0, 2); w.restart(); w.push(1, 2); w.push(0, 3); w.restart() },
		"object store":   func(w *scriptWorld) { w.push(0, 1); w.flush(); w.push(0, 2); w.flush(); w.forget() },
		"compacted": func(w *scriptWorld) {
			w.push(0, 2)
			w.flush()
			w.push(0, 1)
			w.flush()
			w.compact()
			w.forget()
		},
		"everywhere": func(w *scriptWorld) {
			w.push(0, 3)
			w.flush()
			w.push(1, 3)
			w.flush()
			w.compact()
			w.push(0, 2)
			w.restart()
			w.push(2, 3)
			w.push(0, 4)
		},
	} {
		t.Run(name, func(t *testing.T) {
			logqltest.Run(t, func(t *testing.T, streams []model.Stream) scan.Selector {
				w := newScriptWorld(t, streams)
				open(w)
				if slices.Contains(w.left, true) {
					t.Fatal("some entries were not pushed")
				}
				return boundSelector{q: w.querier(), tenants: []model.Tenant{model.DefaultTenant}}
			})
		})
	}
}

// scriptWorld is an ingester and an object store, into which a script's entries come.
type scriptWorld struct {
	t       *testing.T
	dir     string
	lim     limits.Source
	store   objects.Store
	ing     *ingester.Ingester
	entries []model.Stream // of one entry each
	left    []bool         // not pushed yet
}

func newScriptWorld(t *testing.T, streams []model.Stream) *scriptWorld {
	lim := limits.Defaults()
	lim.PerStreamRateLimit, lim.MaxGlobalStreamsPerUser, lim.RetentionPeriod = 0, 0, 0
	w := &scriptWorld{t: t, dir: t.TempDir(), lim: limits.Static(lim), store: objects.NewMem()}
	for _, s := range streams {
		for i := range s.Entries {
			w.entries = append(w.entries, model.Stream{Labels: s.Labels, Entries: s.Entries[i : i+1]})
			w.left = append(w.left, true)
		}
	}
	w.start()
	t.Cleanup(func() { w.check(w.ing.Close()) })
	return w
}

func (w *scriptWorld) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

var quietLog = slog.New(slog.NewTextHandler(io.Discard, nil))

func (w *scriptWorld) start() {
	cfg := ingester.DefaultConfig(w.dir)
	cfg.FreezeAge, cfg.KeepAfterUpload = time.Hour, time.Hour
	ing, err := ingester.New(cfg, w.store, w.lim, prometheus.NewRegistry(), quietLog)
	w.check(err)
	w.ing = ing
}

// push pushes every entry whose number leaves k when divided by n.
func (w *scriptWorld) push(k, n int) {
	w.t.Helper()
	var batch []model.Stream
	for i, e := range w.entries {
		if i%n == k {
			batch = append(batch, e)
			w.left[i] = false
		}
	}
	slices.Reverse(batch) // the order of arrival does not matter
	w.check(w.ing.Push(w.t.Context(), model.DefaultTenant, batch))
}

// restart makes local segments of what is in memory.
func (w *scriptWorld) restart() {
	w.t.Helper()
	w.check(w.ing.Close())
	w.start()
}

func (w *scriptWorld) flush() {
	w.t.Helper()
	w.check(w.ing.Flush(w.t.Context()))
}

// forget leaves nothing outside of the object store.
func (w *scriptWorld) forget() {
	w.t.Helper()
	w.check(w.ing.Close())
	w.dir = w.t.TempDir()
	w.start()
}

func (w *scriptWorld) compact() {
	w.t.Helper()
	var cfg compact.Config
	cfg.RegisterFlags(flag.NewFlagSet("", flag.ContinueOnError))
	cfg.Dir = w.t.TempDir()
	c := compact.New(cfg, w.store, nil, w.lim, compact.NewDeletes(cfg, w.store, w.lim, quietLog), CompileDelete, prometheus.NewRegistry(), quietLog)
	sum, err := c.Once(w.t.Context(), compact.Filter{Full: true}, nil)
	w.check(err)
	if sum.Merges == 0 {
		w.t.Fatalf("nothing was compacted: %s", sum)
	}
}

func (w *scriptWorld) querier() *Querier {
	var stored storage.Config
	var listed catalog.Config
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	stored.RegisterFlags(fs)
	listed.RegisterFlags(fs)
	cat := catalog.New(w.store, listed, prometheus.NewRegistry(), quietLog)
	reader := storage.NewReader(w.store, cat, stored, prometheus.NewRegistry(), quietLog)
	return New(Config{MaxConcurrent: 2}, []Source{w.ing, reader}, nil, w.lim, prometheus.NewRegistry(), quietLog)
}
