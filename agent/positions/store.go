package positions

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options say how a store behaves. The zero value works.
type Options struct {
	// Logger is told what went wrong with the files. Nil discards.
	Logger *slog.Logger
	// ReadOnly reads what is there and never writes.
	ReadOnly bool
	// Failed is called when the state could not be written. Nil ignores.
	Failed func(error)
	// Step is called at places where a kill would be worst, with a name for the place; it is
	// for tests. Nil ignores.
	Step func(place string)
}

// Store holds all positions of an agent.
type Store struct {
	opts     Options
	promtail string // the file named in the configuration
	base     string // of our own files

	// imported has what Promtail's file said; read-only after Open.
	imported   map[string]string
	promtailAt int64 // when it was written

	mu       sync.Mutex // guards all below, and the ledgers
	ledgers  map[uint64]*Ledger
	byID     map[ID][]*Ledger
	byKey    map[Key][]*Ledger
	claimed  map[uint64]bool
	cursors  map[string]string
	scanned  map[string]int64 // by client
	next     uint64
	pending  []byte // journal lines not yet written
	changed  bool   // since the last snapshot
	journalN uint64

	file struct { // taken before mu when both are needed
		sync.Mutex
		f     *os.File
		size  int64
		dirty bool // the last write failed and may have left half a line
		prevN uint64

		failed error // what went wrong since the last snapshot
		told   time.Time
	}
}

// fail notes that the state could not be written, and says so, once a minute while it stays
// so; file is held.
func (s *Store) fail(err error) {
	s.opts.Failed(err)
	if s.file.failed == nil || time.Since(s.file.told) > time.Minute {
		s.file.told = time.Now()
		s.opts.Logger.Error("positions cannot be written; the last good state stays, and a restart now would repeat lines", "file", s.base, "err", err)
	}
	s.file.failed = err
}

// Open reads the state kept beside filename, the positions file of the configuration. When
// there is none, Promtail's positions are taken over. A damaged snapshot is replaced by the
// one before it, with a message; Open fails only when files cannot be read or created.
func Open(filename string, opts Options) (*Store, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Failed == nil {
		opts.Failed = func(error) {}
	}
	if opts.Step == nil {
		opts.Step = func(string) {}
	}
	s := &Store{
		opts: opts, promtail: filename, next: 1,
		base:    strings.TrimSuffix(strings.TrimSuffix(filename, ".yaml"), ".yml") + ".skald",
		ledgers: map[uint64]*Ledger{}, byID: map[ID][]*Ledger{}, byKey: map[Key][]*Ledger{}, claimed: map[uint64]bool{}, cursors: map[string]string{},
		scanned: map[string]int64{},
	}
	if !opts.ReadOnly {
		if err := os.MkdirAll(filepath.Dir(filename), 0o755); err != nil {
			return nil, fmt.Errorf("positions: %w", err)
		}
	}
	found, err := s.load()
	if err != nil {
		return nil, fmt.Errorf("positions: %w", err)
	}
	if !found {
		if err := s.importPromtail(); err != nil {
			opts.Logger.Error("Promtail's positions cannot be read; all files are read from the start", "file", filename, "err", err)
		}
	}
	if opts.ReadOnly {
		return s, nil
	}
	if err := s.Save(); err != nil {
		return nil, fmt.Errorf("positions: the directory of %s must be writable: %w", filename, err)
	}
	return s, nil
}

// Imported returns the offset that Promtail left for a path.
func (s *Store) Imported(path string) (string, bool) {
	v, ok := s.imported[path]
	return v, ok
}

// Scanned is when an earlier run of the client last looked for files, in nanoseconds since
// 1970: a file that was born later and has been renamed since has been seen by nobody. It is
// when Promtail's positions were written if these were taken over, and 0 at the first start.
func (s *Store) Scanned(client string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, ok := s.scanned[client]; ok {
		return at
	}
	return s.promtailAt
}

// SetScanned stores when a client's files were looked for.
func (s *Store) SetScanned(client string, at int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.scanned[client]; ok && at >= old && at-old < int64(scannedEvery) {
		return // an older time is as good; but the clock may have been set back
	}
	s.scanned[client] = at
	b, _ := json.Marshal(client) // strings always marshal
	s.logf("w %d %s", at, b)
}

// scannedEvery keeps SetScanned from filling the journal.
const scannedEvery = 5 * time.Second

// Claim returns the ledgers stored for a log, oldest first. Each is given out once.
func (s *Store) Claim(key Key) []*Ledger {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*Ledger
	for _, l := range s.byKey[key] {
		if !s.claimed[l.rec.N] {
			s.claimed[l.rec.N] = true
			out = append(out, l)
		}
	}
	slices.SortFunc(out, func(a, b *Ledger) int { return cmp.Compare(a.rec.N, b.rec.N) })
	return out
}

// Unclaim lets a log's ledgers be claimed again, by one that follows the same path later.
func (s *Store) Unclaim(key Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.byKey[key] {
		delete(s.claimed, l.rec.N)
	}
}

// Ledgers returns all ledgers of a log, oldest first.
func (s *Store) Ledgers(key Key) []*Ledger {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := slices.Clone(s.byKey[key])
	slices.SortFunc(out, func(a, b *Ledger) int { return cmp.Compare(a.rec.N, b.rec.N) })
	return out
}

// Find returns the records of a client's job for files with the given identity. Finished
// includes those that are read to their end and not yet acknowledged.
func (s *Store) Find(client, job string, id ID) []Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Record
	for _, l := range s.byID[id] {
		if l.rec.Client == client && l.rec.Job == job {
			r := l.record()
			r.Finished = r.Finished || l.finishing
			out = append(out, r)
		}
	}
	return out
}

// Records returns all records of a client, oldest first.
func (s *Store) Records(client string) []Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Record
	for _, n := range slices.Sorted(maps.Keys(s.ledgers)) {
		if l := s.ledgers[n]; l.rec.Client == client {
			out = append(out, l.record())
		}
	}
	return out
}

// Track begins a generation; the record's N is assigned.
func (s *Store) Track(rec Record) *Ledger {
	s.mu.Lock()
	defer s.mu.Unlock()
	rec.N = s.next
	s.next++
	l := &Ledger{store: s, rec: rec}
	s.put(l)
	s.claimed[rec.N] = true
	s.logRecord(l)
	return l
}

// Purge forgets finished records for which keep is false.
func (s *Store) Purge(client string, keep func(Record) bool) {
	for _, r := range s.Records(client) {
		if !r.Finished || keep(r) {
			continue
		}
		s.mu.Lock()
		if l := s.ledgers[r.N]; l != nil {
			s.forget(l)
		}
		s.mu.Unlock()
	}
}

func (s *Store) forget(l *Ledger) {
	if l.gone {
		return
	}
	l.gone = true
	s.drop(l)
	delete(s.claimed, l.rec.N)
	s.logf("d %d", l.rec.N)
}

// put enters a ledger, in place of one with the same number.
func (s *Store) put(l *Ledger) {
	if old := s.ledgers[l.rec.N]; old != nil {
		s.drop(old)
	}
	s.ledgers[l.rec.N] = l
	s.byID[l.rec.ID] = append(s.byID[l.rec.ID], l)
	s.byKey[l.rec.Key] = append(s.byKey[l.rec.Key], l)
}

func (s *Store) drop(l *Ledger) {
	delete(s.ledgers, l.rec.N)
	without(s.byID, l.rec.ID, l)
	without(s.byKey, l.rec.Key, l)
}

func without[K comparable](m map[K][]*Ledger, k K, l *Ledger) {
	list := slices.DeleteFunc(m[k], func(o *Ledger) bool { return o == l })
	if m[k] = list; len(list) == 0 {
		delete(m, k)
	}
}

// Cursor returns the position of a source that is no file, "" when there is none.
func (s *Store) Cursor(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cursors[name]
}

// SetCursor stores the position of a source that is no file; an empty one is forgotten.
func (s *Store) SetCursor(name, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.putCursor(name, value)
	b, _ := json.Marshal([2]string{name, value}) // strings always marshal
	s.logf("c %s", b)
}

func (s *Store) putCursor(name, value string) {
	if value == "" {
		delete(s.cursors, name)
		return
	}
	s.cursors[name] = value
}

// Run writes snapshots until the context ends, and then a last one.
func (s *Store) Run(ctx context.Context, period time.Duration) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return s.Save()
		case <-tick.C:
		}
		s.Flush()
		if s.due(time.Since(last), period) {
			last = time.Now()
			_ = s.Save() // it has said what is wrong, and is tried again
		}
	}
}

// Close writes what the journal's buffer holds and closes it, without a snapshot.
func (s *Store) Close() error {
	s.Flush()
	s.file.Lock()
	defer s.file.Unlock()
	if s.file.f == nil {
		return nil
	}
	err := s.file.f.Close()
	s.file.f = nil
	return err
}
