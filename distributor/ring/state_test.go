package ring

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
)

// someInstance returns one of few, so that equal and nearly equal ones meet often.
func someInstance(rng *rand.Rand) Instance {
	return Instance{
		ID: string(rune('a' + rng.IntN(2))), Roles: Role(rng.IntN(2)), Addr: string(rune('p' + rng.IntN(2))), State: State(rng.IntN(4)),
		Started: int64(rng.IntN(2)), Process: uint64(rng.IntN(2)), Heartbeat: int64(rng.IntN(3)), Seed: uint64(rng.IntN(2)),
	}
}

func someState(rng *rand.Rand) state {
	s := state{}
	for range rng.IntN(4) {
		s.merge(someInstance(rng))
	}
	return s
}

func merged(states ...state) state {
	result := state{}
	for _, s := range states {
		for _, in := range s {
			result.merge(in)
		}
	}
	return result
}

func TestLawsOfMerging(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 3_000 {
		a, b, c := someState(rng), someState(rng), someState(rng)
		law := func(name string, x, y state) {
			t.Helper()
			if d := cmp.Diff(x, y); d != "" {
				t.Fatalf("%s fails for\na %v\nb %v\nc %v\n%s", name, a, b, c, d)
			}
		}
		law("idempotent: a∨a = a", merged(a, a), a)
		law("commutative: a∨b = b∨a", merged(a, b), merged(b, a))
		law("associative: (a∨b)∨c = a∨(b∨c)", merged(merged(a, b), c), merged(a, merged(b, c)))
		ab := merged(a, b)
		law("monotone: a∨(a∨b) = a∨b", merged(a, ab), ab)
		for id, in := range a {
			if up := ab[id]; compare(&up, &in) < 0 {
				t.Fatalf("monotone: merging took %v back to %v", in, up)
			}
		}
		for _, in := range b {
			before := a[in.ID]
			_, had := a[in.ID]
			if news := merged(a).merge(in); news != (!had || compare(&in, &before) > 0) {
				t.Fatalf("merge(%v) into %v says news=%v", in, a, news)
			}
		}
	}
}

func TestWireRoundTrip(t *testing.T) {
	want := []Instance{
		{ID: "ingester-0", Roles: All, Addr: "10.0.0.1:9095", HTTP: "10.0.0.1:3100", Zone: "a", State: Leaving, Seed: 1 << 63, TokenCount: 256, Started: 5, Process: 7, Heartbeat: -1, Registered: 9, Lost: 3, Flushed: 4},
		{ID: "x"},
	}
	b := appendState(nil, want)
	// A later version's field must not matter.
	b = protowire.AppendVarint(protowire.AppendTag(b, 99, protowire.VarintType), 1)
	b = protowire.AppendFixed32(protowire.AppendTag(b, 98, protowire.Fixed32Type), 1)
	got, err := parseState(b)
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("%v %s", err, d)
	}
	if n := len(appendState(nil, want[:1])); n > 200 {
		t.Errorf("an instance takes %d bytes, want at most 200", n)
	}
	for name, in := range map[string]Instance{
		"no ID": {}, "long": {ID: string(make([]byte, maxName+1))}, "state": {ID: "x", State: Left + 1}, "tokens": {ID: "x", TokenCount: MaxTokens + 1},
	} {
		if _, err := parseState(appendState(nil, []Instance{in})); !errors.Is(err, errWire) {
			t.Errorf("%s: got %v, want %v", name, err, errWire)
		}
	}
}

func FuzzState(f *testing.F) {
	f.Add(appendState(nil, []Instance{{ID: "a", State: Left, TokenCount: 3}, {ID: "b", Addr: "x", Heartbeat: 5}}))
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := parseState(b)
		if err != nil {
			return
		}
		again, err := parseState(appendState(nil, list))
		if d := cmp.Diff(list, again); err != nil || d != "" {
			t.Errorf("%v %s", err, d)
		}
	})
}
