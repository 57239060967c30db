package wal

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
)

func stream(app string, lines ...string) model.Stream {
	s := model.Stream{Labels: labels.FromStrings("app", app)}
	for i, line := range lines {
		en := model.Entry{Timestamp: int64(1000 - 7*i), Line: []byte(line)}
		if i%2 == 1 {
			en.Metadata = labels.FromStrings("detected_level", "info", "trace_id", line)
		}
		s.Entries = append(s.Entries, en)
	}
	return s
}

func encode(t testing.TB, tenant model.Tenant, streams ...model.Stream) []byte {
	t.Helper()
	var e Encoder
	b, err := e.Encode(tenant, streams, model.Arrival{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// flat renders a batch with all that matters, so that batches compare by text.
func flat(tenant model.Tenant, streams []model.Stream) []string {
	var out []string
	for _, s := range streams {
		for _, e := range s.Entries {
			out = append(out, fmt.Sprintf("%s %s %d %q %s", tenant, s.Labels, e.Timestamp, e.Line, e.Metadata))
		}
	}
	return out
}

// readAll returns the entries of a file.
func readAll(path string, opts ReadOptions) (lines []string, res Result, err error) {
	res, err = Read(path, opts, func(b Batch) error {
		lines = append(lines, flat(b.Tenant, b.Streams)...)
		return nil
	})
	return lines, res, err
}

func TestRecordRoundTrip(t *testing.T) {
	f := func(name string, streams ...model.Stream) {
		t.Helper()
		got, rest := []string(nil), encode(t, "tenant-1", streams...)
		for n := 0; len(rest) > 0; n++ {
			var d decoder
			batch, r, err := d.record(rest)
			if err != nil {
				t.Fatalf("%s: record %d: %v", name, n, err)
			}
			got, rest = append(got, flat(batch.Tenant, batch.Streams)...), r
		}
		if diff := cmp.Diff(flat("tenant-1", streams), got); diff != "" {
			t.Errorf("%s: what was read differs (-written +read):\n%s", name, diff)
		}
	}
	big := strings.Repeat("x", 3<<20)
	f("nothing")
	f("one", stream("a", "hello"))
	f("empty line and bytes that are not text", stream("a", "", "\x00\xff\n"))
	f("compressible", stream("a", strings.Repeat("all work and no play ", 500)))
	f("no labels", model.Stream{Entries: []model.Entry{{Timestamp: -5, Line: []byte("x")}}})
	f("a stream without entries is left out", stream("a"), stream("b", "x"))
	many := make([]string, 0, 600)
	for i := range 300 {
		many = append(many, fmt.Sprintf("name_%d", i), "value")
	}
	wide := labels.FromStrings(many...)
	f("more pairs than a byte counts", model.Stream{Labels: wide, Entries: []model.Entry{{Line: []byte("x"), Metadata: wide}}}, stream("b", "y"))
	f("cut into records", stream("a", big, "s", big, big), stream("b", big, "t"))
	f("larger than a record's target", stream("a", "s", strings.Repeat("y", 9<<20), "t"))
}

// The example in the package comment is what the code writes.
func TestWorkedExample(t *testing.T) {
	got := encode(t, "a", model.Stream{Labels: labels.FromStrings("x", "y"), Entries: []model.Entry{{Timestamp: 5, Line: []byte("hi")}}})
	want := "00" + "12" + "0161" + "8180808000" + "0101780179" + "01" + "0a" + "026869" + "00"
	if hex.EncodeToString(got) != want {
		t.Errorf("got  %x\nwant %s", got, want)
	}
}

func TestEntryTooLarge(t *testing.T) {
	var e Encoder
	_, err := e.Encode("a", []model.Stream{stream("a", string(make([]byte, MaxEntry)))}, model.Arrival{})
	if fault.Of(err) != fault.TooLarge {
		t.Errorf("got %v, want a fault of kind TooLarge", err)
	}
}

// writeLog writes batches 0…n-1, one frame each, and returns the path, the offset of each
// frame, and the entries of each.
func writeLog(t testing.TB, n int) (path string, offsets []int64, batches [][]string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "1.active")
	l, err := Create(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		s := stream("app", fmt.Sprintf("batch %d", i), strings.Repeat("padding that packs ", 20*i))
		offsets = append(offsets, l.Size())
		if err := l.Append(encode(t, "t", s)); err != nil {
			t.Fatal(err)
		}
		batches = append(batches, flat("t", []model.Stream{s}))
	}
	offsets = append(offsets, l.Size())
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return path, offsets, batches
}

func TestDamage(t *testing.T) {
	const n = 6
	cut := func(at func(o []int64) int64) func([]byte, []int64) []byte {
		return func(b []byte, o []int64) []byte { return b[:at(o)] }
	}
	flip := func(at func(o []int64) int64) func([]byte, []int64) []byte {
		return func(b []byte, o []int64) []byte { b[at(o)] ^= 0x10; return b }
	}
	cases := []struct {
		name    string
		damage  func(b []byte, offsets []int64) []byte
		sealed  bool
		want    []int  // batches read without an error
		err     string // else part of the error
		salvage []int  // batches that Salvage keeps; nil when even that is an error
	}{
		{name: "whole", damage: cut(func(o []int64) int64 { return o[6] }), want: []int{0, 1, 2, 3, 4, 5}, salvage: []int{0, 1, 2, 3, 4, 5}},
		{name: "whole and sealed", sealed: true, damage: cut(func(o []int64) int64 { return o[6] }), want: []int{0, 1, 2, 3, 4, 5}, salvage: []int{0, 1, 2, 3, 4, 5}},
		{name: "empty file", damage: cut(func(o []int64) int64 { return 0 }), want: []int{}, salvage: []int{}},
		{name: "torn header", damage: cut(func(o []int64) int64 { return 11 }), want: []int{}, salvage: []int{}},
		{name: "header only", damage: cut(func(o []int64) int64 { return o[0] }), want: []int{}, salvage: []int{}},
		{name: "torn in a frame's header", damage: cut(func(o []int64) int64 { return o[5] + 3 }), want: []int{0, 1, 2, 3, 4}, salvage: []int{0, 1, 2, 3, 4}},
		{name: "torn in a frame's body", damage: cut(func(o []int64) int64 { return o[6] - 1 }), want: []int{0, 1, 2, 3, 4}, salvage: []int{0, 1, 2, 3, 4}},
		{name: "last frame holed", damage: flip(func(o []int64) int64 { return o[6] - 9 }), want: []int{0, 1, 2, 3, 4}, salvage: []int{0, 1, 2, 3, 4}},
		{name: "zeros at the end", damage: func(b []byte, o []int64) []byte { return append(b, make([]byte, 5000)...) }, want: []int{0, 1, 2, 3, 4, 5}, salvage: []int{0, 1, 2, 3, 4, 5}},
		{name: "torn though sealed", sealed: true, damage: cut(func(o []int64) int64 { return o[6] - 1 }), err: "closed in good order", salvage: []int{0, 1, 2, 3, 4}},
		{name: "bit flipped in the middle", damage: flip(func(o []int64) int64 { return o[3] - 2 }), err: "its checksum is", salvage: []int{0, 1, 3, 4, 5}},
		{name: "mark flipped", damage: flip(func(o []int64) int64 { return o[1] }), err: "no frame mark", salvage: []int{0, 2, 3, 4, 5}},
		{name: "length flipped", damage: flip(func(o []int64) int64 { return o[1] + markSize + 3 }), err: "it claims", salvage: []int{0, 2, 3, 4, 5}},
		{name: "bytes lost in the middle", damage: func(b []byte, o []int64) []byte { return append(b[:o[2]+20:o[2]+20], b[o[3]+5:]...) }, err: "damaged at offset", salvage: []int{0, 1, 4, 5}},
		{name: "sector of zeros", damage: func(b []byte, o []int64) []byte { clear(b[o[0]:o[1]]); return b }, err: "offset 24", salvage: []int{1, 2, 3, 4, 5}},
		{name: "header flipped", damage: flip(func([]int64) int64 { return 14 }), err: "header has checksum"},
		{name: "another kind of file", damage: flip(func([]int64) int64 { return 0 }), err: `want "SKALDWAL"`},
		{name: "another version", damage: flip(func([]int64) int64 { return 8 }), err: "format version 17, want 1"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			path, offsets, batches := writeLog(t, n)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, tc.damage(b, offsets), 0o600); err != nil {
				t.Fatal(err)
			}
			pick := func(which []int) (want []string) {
				for _, i := range which {
					want = append(want, batches[i]...)
				}
				return want
			}
			got, _, err := readAll(path, ReadOptions{Sealed: tc.sealed})
			switch {
			case tc.err == "" && err != nil:
				t.Errorf("got error %v, want none", err)
			case tc.err == "":
				if diff := cmp.Diff(pick(tc.want), got); diff != "" {
					t.Errorf("entries differ (-want +got):\n%s", diff)
				}
			case err == nil:
				t.Errorf("got no error, want one with %q", tc.err)
			default:
				var c *CorruptError
				if !errors.As(err, &c) || fault.Of(err) != fault.Corrupt || !strings.Contains(err.Error(), tc.err) || !strings.Contains(err.Error(), path) {
					t.Errorf("got error %q of kind %v, want a CorruptError with %q and the path", err, fault.Of(err), tc.err)
				}
			}
			got, _, err = readAll(path, ReadOptions{Sealed: tc.sealed, Salvage: true})
			if tc.salvage == nil {
				if err == nil {
					t.Error("salvage read a file without a header it can trust")
				}
				return
			}
			if err != nil {
				t.Fatalf("salvage: %v", err)
			}
			if diff := cmp.Diff(pick(tc.salvage), got); diff != "" {
				t.Errorf("salvaged entries differ (-want +got):\n%s", diff)
			}
		})
	}
}

// A frame quoted inside a log line is not found by the search for whole frames.
func TestFrameInALineIsNoFrame(t *testing.T) {
	path, offsets, _ := writeLog(t, 2)
	foreign, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "2.active")
	l, err := Create(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, 300) // keeps S2 from packing the line
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	line := append(noise, foreign[offsets[0]:]...)
	if err := l.Append(encode(t, "t", model.Stream{Entries: []model.Entry{{Line: line}}})); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, l.Size()-1); err != nil {
		t.Fatal(err)
	}
	got, res, err := readAll(path, ReadOptions{})
	if err != nil || len(got) != 0 || res.Torn == 0 {
		t.Errorf("got %d entries, %+v, %v; want a torn tail and nothing else", len(got), res, err)
	}
}

// flakyFile is a file in memory on which things go wrong.
type flakyFile struct {
	mu                             sync.Mutex
	data, synced                   []byte
	room                           int // bytes until the disk is full; -1 for ever
	failSync, failTruncate, closed bool
	syncs                          int
	onSync                         func()
}

func (f *flakyFile) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.room >= 0 && len(p) > f.room {
		f.data = append(f.data, p[:f.room]...)
		f.room = 0
		return 0, syscall.ENOSPC
	}
	if f.room >= 0 {
		f.room -= len(p)
	}
	f.data = append(f.data, p...)
	return len(p), nil
}

func (f *flakyFile) Sync() error {
	if f.onSync != nil {
		f.onSync()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failSync {
		return syscall.EIO
	}
	f.syncs++
	f.synced = bytes.Clone(f.data)
	return nil
}

func (f *flakyFile) Truncate(n int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failTruncate {
		return syscall.EIO
	}
	f.data = f.data[:n]
	return nil
}

func (f *flakyFile) Close() error { f.closed = true; return nil }

func (f *flakyFile) entries(t *testing.T) (lines []string) {
	t.Helper()
	_, err := read("mem", bytes.NewReader(f.synced), int64(len(f.synced)), ReadOptions{}, func(b Batch) error {
		lines = append(lines, flat(b.Tenant, b.Streams)...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func openFlaky(t *testing.T, f *flakyFile) *Log {
	t.Helper()
	l, err := Create("mem", Options{Create: func(string) (File, error) { return f, nil }})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestDiskFullIsRefusedAndRecovers(t *testing.T) {
	f := &flakyFile{room: -1}
	l := openFlaky(t, f)
	first, second := stream("a", "first"), stream("a", "second")
	if err := l.Append(encode(t, "t", first)); err != nil {
		t.Fatal(err)
	}
	f.room = 21
	err := l.Append(encode(t, "t", second))
	if fault.Of(err) != fault.Unavailable || !errors.Is(err, syscall.ENOSPC) || l.Broken() {
		t.Fatalf("got %v (broken: %v), want a retryable refusal that names the full disk", err, l.Broken())
	}
	f.room = -1
	if err := l.Append(encode(t, "t", second)); err != nil {
		t.Fatalf("with room again: %v", err)
	}
	if diff := cmp.Diff(flat("t", []model.Stream{first, second}), f.entries(t)); diff != "" {
		t.Errorf("entries differ (-want +got):\n%s", diff)
	}
}

func TestFailureInDoubtEndsTheLog(t *testing.T) {
	for name, f := range map[string]*flakyFile{
		"sync":   {room: -1},
		"repair": {room: -1, failTruncate: true},
	} {
		t.Run(name, func(t *testing.T) {
			l := openFlaky(t, f)
			if err := l.Append(encode(t, "t", stream("a", "safe"))); err != nil {
				t.Fatal(err)
			}
			f.failSync = name == "sync"
			if name == "repair" {
				f.room = 3
			}
			err := l.Append(encode(t, "t", stream("a", "refused")))
			if !errors.Is(err, ErrBroken) || fault.Of(err) != fault.Unavailable {
				t.Fatalf("got %v, want ErrBroken", err)
			}
			f.failSync, f.room = false, -1
			if err := l.Append(encode(t, "t", stream("a", "too late"))); !errors.Is(err, ErrBroken) {
				t.Errorf("after the failure: got %v, want ErrBroken", err)
			}
			if got := f.entries(t); len(got) != 1 {
				t.Errorf("got %q, want the acknowledged entry alone", got)
			}
		})
	}
}

// Batches that arrive while a sync is under way share the next one, and every batch that
// was acknowledged had been synced by then.
func TestGroupCommit(t *testing.T) {
	const writers, each = 16, 50
	entered, release := make(chan struct{}, 1), make(chan struct{})
	f := &flakyFile{room: -1}
	l := openFlaky(t, f)
	f.onSync = func() {
		select {
		case entered <- struct{}{}:
		default:
		}
		<-release
	}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range each {
				s := stream(fmt.Sprint(w), fmt.Sprint(i))
				if err := l.Append(encode(t, "t", s)); err != nil {
					t.Error(err)
				}
				f.mu.Lock()
				durable := bytes.Contains(f.synced, encode(t, "t", s))
				f.mu.Unlock()
				if !durable {
					t.Errorf("writer %d: batch %d was acknowledged before it was synced", w, i)
				}
			}
		}()
	}
	<-entered
	for { // all others queue behind the first sync
		l.mu.Lock()
		n := len(l.mu.queue)
		l.mu.Unlock()
		if n >= writers-1 {
			break
		}
	}
	close(release)
	wg.Wait()
	if got := len(f.entries(t)); got != writers*each {
		t.Errorf("got %d entries, want %d", got, writers*each)
	}
	if f.syncs >= writers*each {
		t.Errorf("%d syncs for %d batches: nothing was grouped", f.syncs, writers*each)
	}
}
