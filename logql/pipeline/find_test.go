package pipeline

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// The search that does not trust in a rare byte finds what a plain search finds, from every
// position on.
func TestNextPair(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	random := func(n int) []byte {
		p := make([]byte, n)
		for i := range p {
			p[i] = "aAbB@`\x00\x80[{"[rng.IntN(10)]
		}
		return p
	}
	for range 3000 {
		fold := rng.IntN(2) == 0
		s, needle := random(rng.IntN(80)), random(2+rng.IntN(4))
		plain := s
		if fold {
			if needle = bytes.ToLower(bytes.ReplaceAll(needle, []byte{0x80}, []byte{'b'})); len(needle) < 2 {
				continue
			}
			plain = bytes.Clone(s)
			for i, c := range plain {
				if c >= 'A' && c <= 'Z' {
					plain[i] += 'a' - 'A'
				}
			}
		}
		f := newFinder(needle, fold)
		for from := range len(s) + 1 {
			want := bytes.Index(plain[from:], needle)
			if want >= 0 {
				want += from
			}
			if got := f.nextPair(s, from); got != want {
				t.Fatalf("%q in %q from %d, fold %v: %d, want %d", needle, s, from, fold, got, want)
			}
		}
	}
}
