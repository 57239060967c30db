package segment

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/packed"
)

// tokenLines are lines with timestamps, ids and words in every neighbourhood, of which most
// are of a kind that a writer takes out.
func tokenLines(rng *rand.Rand, n int) (times []int64, lines [][]byte) {
	c := &corpus{rng: rng}
	layouts := []string{time.RFC3339Nano, "2006-01-02 15:04:05.000", "02/Jan/2006:15:04:05 -0700", "0102 15:04:05.000000", time.Stamp, "2006/01/02 15:04:05"}
	words := []string{"error", "feed", "dead beef", "succeeded", "x", "0x", "Nov", "T", "a1", "=", "[", " ", "-", ":", ".", "e", "\n", "\xf9", "é", "Mar 1", "I"}
	for range n {
		c.ts = corpusStart + rng.Int64N(300*24*int64(time.Hour))
		var line []byte
		for range rng.IntN(9) {
			switch rng.IntN(5) {
			case 0:
				line = append(line, c.time(layouts[rng.IntN(len(layouts))])...)
			case 1:
				line = append(line, c.hex(1+rng.IntN(32))...)
			case 2:
				line = append(line, c.uuid()...)
			default:
				line = append(line, words[rng.IntN(len(words))]...)
			}
		}
		times, lines = append(times, c.ts), append(lines, line)
	}
	return times, lines
}

// What package packed says of needles holds for every line that a writer packs: a line with
// the needle has its core in the packed text, and a needle found there verbatim is in the line.
func TestPackedTextKeepsCores(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	cores, verbatim, ids, idTexts := 0, 0, 0, 0
	for range 300 {
		times, lines := tokenLines(rng, 40)
		b, e, _, ok := encodeFields(times, lines...)
		if !ok {
			continue
		}
		textAt, idAt := make([]uint32, len(b.offsets)), make([]uint32, len(b.offsets))
		if err := locateRows(e.text, len(e.ids), b.offsets, textAt, idAt); err != nil {
			t.Fatal(err)
		}
		for range 60 {
			from := lines[rng.IntN(len(lines))]
			if len(from) == 0 {
				continue
			}
			i := rng.IntN(len(from))
			needle := from[i:min(len(from), i+1+rng.IntN(40))]
			fold := rng.IntN(2) == 0
			same := func(p []byte) []byte { return p }
			if fold {
				same, needle = asciiLower, asciiLower(needle)
			}
			lo, hi := packed.Core(needle, fold)
			core := needle[lo:hi]
			id, isID := packed.FindID(needle)
			for row, line := range lines {
				text := same(e.text[textAt[row]:textAt[row+1]])
				has := bytes.Contains(same(line), needle)
				if has && !bytes.Contains(text, core) {
					t.Fatalf("%q contains %q, but %q lacks its core %q", line, needle, text, core)
				}
				if has && isID {
					ids++
					rowIDs := e.ids[idAt[row]:idAt[row+1]]
					if !slices.ContainsFunc(id.Bytes, func(b []byte) bool { return bytes.Contains(rowIDs, b) }) {
						idTexts++
						if !bytes.Contains(text, id.Text) {
							t.Fatalf("%q contains %q, but has neither of %x in %x nor %q in %q", line, needle, id.Bytes, rowIDs, id.Text, text)
						}
					}
				}
				if has && len(core) > 3 {
					cores++
				}
				if at := bytes.Index(text, needle); at >= 0 && !slices.ContainsFunc(needle, func(b byte) bool { return b >= packed.First }) && packed.Verbatim(text, at) {
					verbatim++
					if !has {
						t.Fatalf("%q is in %q at %d but not in %q", needle, text, at, line)
					}
				}
			}
		}
	}
	if cores < 1000 || verbatim < 1000 || ids-idTexts < 500 || idTexts < 100 {
		t.Errorf("%d cores, %d hits, %d ids, %d of them in the text: the test tests nothing", cores, verbatim, ids, idTexts)
	}
}

func asciiLower(p []byte) []byte {
	p = bytes.Clone(p)
	for i, b := range p {
		if b >= 'A' && b <= 'Z' {
			p[i] += 'a' - 'A'
		}
	}
	return p
}

// Any rows, in any order of calls, come out as Lines has them.
func TestPackedLinesAreLines(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	data := write(t, WriterOptions{}, corpusEntries(1<<20, 9))
	r := open(t, data)
	part, err := r.Select(t.Context(), &model.Request{Range: allTime, Columns: allColumns})
	if err != nil {
		t.Fatal(err)
	}
	want, err := r.Select(t.Context(), &model.Request{Range: allTime, Columns: allColumns})
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range part.Blocks {
		lines, err := want.Blocks[i].Lines(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p, err := b.Packed(t.Context())
		if err != nil || p == nil {
			t.Fatalf("%v, %v", p, err)
		}
		offsets, err := b.Offsets(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, share := range []int{1, 3, 200} {
			var rows []uint32
			for row := range b.Rows() {
				if rng.IntN(share) == 0 {
					rows = append(rows, uint32(row))
				}
			}
			got, err := p.Lines(t.Context(), rows)
			if err != nil {
				t.Fatal(err)
			}
			for _, row := range rows {
				from, to := offsets[row], offsets[row+1]
				if !bytes.Equal(got[from:to], lines[from:to]) {
					t.Fatalf("row %d: %q, want %q", row, got[from:to], lines[from:to])
				}
			}
		}
		all, err := b.Lines(t.Context())
		if err != nil || !slices.Equal(all, lines) {
			t.Fatalf("all lines after packed ones differ: %v", err)
		}
		b.Release()
		want.Blocks[i].Release()
	}
}

// Verify looks at the rules of package packed; a reader relies on them.
func TestVerifyChecksTokens(t *testing.T) {
	f := func(token, line string, from, to int, want bool) {
		t.Helper()
		if got := mayStand([]byte(token), []byte(line), from, to); got != want {
			t.Errorf("%q for %q of %q: %v", token, line[from:to], line, got)
		}
	}
	f("\xf9\x06", "id=4bf92f3577b3 ok", 3, 15, true)
	f("\xf9\x06", "id4bf92f3577b3 ok", 2, 14, false)
	f("\xf9\x06", "id=4bf92f3577b3ok", 3, 15, false)
	f("\xf9\x06", "id=4bf92f3577b30 ok", 3, 15, true)
	f("\xf8\x40", "Mar  4 05:06:07", 0, 15, true)
	f("\xf8\x40", " Mar  4 05:06:07", 1, 16, false)
}
