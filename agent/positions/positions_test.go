package positions

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(filepath.Join(dir, "positions.yaml"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// A position moves over a span when it and all before it are released, in whatever order.
func TestOrderOfRelease(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 0))
	s := open(t, t.TempDir())
	l := s.Track(Record{Key: Key{Job: "j", Path: "/p"}})
	const n = 1000
	spans := make([]*Span, n)
	for i := range spans {
		spans[i] = l.Begin(int64(i), 0, false)
		spans[i].Seal(int64(i+1), Tail{}, rng.IntN(4) == 0)
	}
	released := make([]bool, n)
	for _, i := range rng.Perm(n) {
		spans[i].Retain()
		spans[i].Release()
		spans[i].Release()
		released[i] = true
		want := 0
		for want < n && released[want] {
			want++
		}
		if got := l.Record().Offset; got != int64(want) {
			t.Fatalf("seed %d: position %d, want %d", seed, got, want)
		}
	}
}

// A kill after Flush loses nothing; the journal alone tells it.
func TestJournal(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	key := Key{Job: "j", Path: "/p"}
	l := s.Track(Record{Key: key, ID: ID{1, 2}})
	a, b := l.Begin(0, 100, false), l.Begin(10, 200, false)
	a.Seal(10, Tail{}, true)
	b.Seal(20, Tail{}, true)
	a.Release()
	gone := s.Track(Record{Key: key, ID: ID{1, 3}})
	gone.Forget()
	done := s.Track(Record{Key: key, ID: ID{1, 4}})
	done.Finish()
	s.SetCursor("journal", "c")
	s.Flush()

	again := open(t, dir)
	var got []Record
	for _, l := range again.Claim(key) {
		got = append(got, l.Record())
	}
	want := []Record{
		{Key: key, ID: ID{1, 2}, N: 1, Offset: 10, Stamps: []Stamp{{10, 20, 200}}},
		{Key: key, ID: ID{1, 4}, N: 3, Finished: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if c := again.Cursor("journal"); c != "c" {
		t.Errorf("cursor %q", c)
	}
	if n := again.Track(Record{Key: key}).Record().N; n != 4 {
		t.Errorf("next generation has number %d, want 4", n)
	}
}

// Every byte of the snapshot and of the journal is damaged in turn: the store opens, and a
// position is never ahead of what was acknowledged.
func TestEveryByteDamaged(t *testing.T) {
	src := t.TempDir()
	s := open(t, src)
	key := Key{Job: "j", Path: "/p"}
	l := s.Track(Record{Key: key, ID: ID{1, 2}})
	for i := range int64(4) {
		sp := l.Begin(i*10, 0, false)
		sp.Seal(i*10+10, Tail{}, false)
		sp.Release()
		if i == 1 {
			if err := s.Save(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(src, "*"))
	if err != nil || len(names) < 3 {
		t.Fatalf("files: %v, %v", names, err)
	}
	files := map[string][]byte{}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		files[filepath.Base(name)] = b
	}
	for victim, content := range files {
		for i := range content {
			dir := t.TempDir()
			for name, b := range files {
				if name == victim {
					b = append([]byte(nil), b...)
					b[i] ^= 0x15
				}
				if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			again, err := Open(filepath.Join(dir, "positions.yaml"), Options{ReadOnly: true})
			if err != nil {
				t.Fatalf("byte %d of %s: %v", i, victim, err)
			}
			for _, l := range again.Claim(key) {
				if off := l.Record().Offset; off > 40 || off%10 != 0 {
					t.Fatalf("byte %d of %s: position %d", i, victim, off)
				}
			}
		}
	}
}

func TestOldJournalsGo(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	for i := range 10 {
		s.SetCursor("c", fmt.Sprint(i))
		if err := s.Save(); err != nil {
			t.Fatal(err)
		}
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.journal.*"))
	if err != nil || len(names) > 2 {
		t.Errorf("journals left: %v, %v", names, err)
	}
}

// Text that reaches over a border of spans, or of generations, moves the position from
// before its beginning to after its end at once.
func TestContinuedSpans(t *testing.T) {
	s := open(t, t.TempDir())
	a := s.Track(Record{Key: Key{Job: "j", Path: "/p"}, ID: ID{1, 1}})
	b := s.Track(Record{Key: Key{Job: "j", Path: "/p"}, ID: ID{1, 2}})
	one := a.Begin(0, 0, false)
	two := one.Split(10, 0) // text from 10 on is kept back
	two.Seal(20, Tail{}, false)
	three := b.Begin(0, 0, true) // and ends here
	three.After(a)
	four := three.Split(5, 0)
	four.Seal(9, Tail{}, false)
	want := func(what string, inA, inB int64) {
		t.Helper()
		if x, y := a.Record().Offset, b.Record().Offset; x != inA || y != inB {
			t.Errorf("%s: positions %d and %d, want %d and %d", what, x, y, inA, inB)
		}
	}
	one.Release()
	want("what came before is delivered", 10, 0)
	two.Release()
	want("the joined text is delivered, not all of its last span", 10, 0)
	four.Release()
	want("what comes later is delivered", 10, 0)
	three.Release()
	want("all is delivered", 20, 9)
}
