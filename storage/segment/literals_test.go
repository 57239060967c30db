package segment

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// checkLiterals makes sure that a decoder of zstd reads what was written, behind other bytes.
func checkLiterals(t *testing.T, raw []byte) (shrunk bool) {
	t.Helper()
	before := []byte("before")
	out, ok := appendLiterals(before, raw)
	if !bytes.HasPrefix(out, before) || !ok && len(out) > len(before) {
		t.Fatalf("%d bytes: what is there has been changed", len(raw))
	}
	if !ok {
		return false
	}
	frame := out[len(before):]
	if len(frame) > len(raw)+16 {
		t.Fatalf("%d bytes became %d", len(raw), len(frame))
	}
	got, err := decompress(nil, CodecZstd, len(raw), frame)
	if err != nil || !bytes.Equal(got, raw) {
		t.Fatalf("%d bytes: %x decodes to %x, %v; want %x", len(raw), frame, got, err, raw)
	}
	return true
}

// Noise of every entropy and length comes back, and what has a pattern is left to others.
func TestLiterals(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	shrunk := 0
	lengths := []int{minLiterals, 255, 256, 257, 1<<10 - 1, 1 << 10, 1<<14 - 1, 1 << 14, 1<<16 + 255, 1<<16 + 256, maxLiterals}
	for i := range 400 {
		n := rng.IntN(1 << (6 + rng.IntN(12)))
		if i < 4*len(lengths) {
			n = lengths[i/4]
		}
		raw := make([]byte, n)
		values := 1 + rng.IntN(200)
		for k := range raw {
			raw[k] = byte(min(rng.IntN(values), rng.IntN(values)))
		}
		if checkLiterals(t, raw) {
			shrunk++
		}
	}
	if shrunk < 200 {
		t.Errorf("only %d were written", shrunk)
	}
	if _, ok := appendLiterals(nil, bytes.Repeat([]byte("0123456789abcdef"), 100)); ok {
		t.Error("a pattern was written as literals")
	}
}

func FuzzLiterals(f *testing.F) {
	f.Add(make([]byte, 300))
	f.Add([]byte("the quick brown fox jumps over the lazy dog; pack my box with five dozen liquor jugs"))
	f.Fuzz(func(t *testing.T, raw []byte) { checkLiterals(t, raw) })
}
