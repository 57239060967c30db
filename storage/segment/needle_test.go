package segment

import (
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Every substring of a line must have only keys and items that the line has.
func FuzzNeedleKeys(f *testing.F) {
	f.Add([]byte("trace_id=4bf92f3577b34da6a3ce929d0e0e4736 GET /"), 3, 20)
	f.Add([]byte("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), 3, 50)
	f.Add([]byte("ABCDEF0123"), 0, 9)
	f.Fuzz(func(t *testing.T, line []byte, from, to int) {
		if from < 0 || to > len(line) || from > to {
			return
		}
		s := new(needleSet)
		s.addLine(line[from:]) // of which pieces are known then
		s.addLine(line)
		s.set()
		for _, key := range lineKeys(string(line[from:to])) {
			if s.words[key>>6]>>(key&63)&1 == 0 {
				t.Fatalf("%q lacks a key of %q", line, line[from:to])
			}
		}
		items := itemsOf(line)
		for _, item := range itemsOf(line[from:to]) {
			if !slices.Contains(items, item) {
				t.Fatalf("%q lacks an item of %q", line, line[from:to])
			}
		}
	})
}

// itemsOf returns the items of the lines of a block.
func itemsOf(lines ...[]byte) []uint32 {
	b, classes := new(blockBuilder), new(lineClasses)
	for _, line := range lines {
		b.add(0, line, nil, false)
	}
	classes.find(b.lines)
	return appendIDs(nil, b.lines, b.offsets, classes.long)
}

// The scan must find what the definition says: of each 32 digits, other than those in between
// dashes, the gram of 16 with the least hash.
func TestIDsAreTheMinima(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 1))
	alphabet := []byte("0123456789abcdefABCDEF----/gX \xff")
	runs := 0
	for range 10000 {
		var lines [][]byte
		want := make(map[uint32]bool)
		for range rng.IntN(5) {
			line := make([]byte, rng.IntN(150))
			ids := rng.IntN(40) * 4
			for i := range line {
				line[i] = alphabet[rng.IntN(22)]
				if rng.IntN(1+ids) == 0 {
					line[i] = alphabet[rng.IntN(len(alphabet))]
				}
			}
			lines = append(lines, line)
			for _, run := range strings.FieldsFunc(string(line), func(c rune) bool { return !strings.ContainsRune("0123456789abcdefABCDEF-", c) }) {
				digits := strings.ReplaceAll(run, "-", "")
				for i := 0; i+32 <= len(digits); i++ {
					least := undefined
					for k := i; k+16 <= i+32; k++ {
						v, err := strconv.ParseUint(digits[k:k+16], 16, 64)
						if err != nil {
							t.Fatal(err)
						}
						least = min(least, idHash(v))
					}
					want[itemOf(least)] = true
					runs++
				}
			}
		}
		got := make(map[uint32]bool)
		for _, item := range itemsOf(lines...) {
			got[item] = true
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%q (-want +got):\n%s", lines, diff)
		}
	}
	if runs < 10000 {
		t.Errorf("only %d ids", runs)
	}
}

// A table finds every entry, popular items too, and little else.
func TestIDTable(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	for range 25 {
		blocks := 1 + rng.IntN(3000)
		var b idBuilder
		want := make(map[idEntry]bool)
		popular := rng.Uint32()
		perBlock := rng.Float64() * 10
		for block := range blocks {
			for n := rng.ExpFloat64() * perBlock; n > 1; n-- {
				item := rng.Uint32()
				if rng.IntN(5) == 0 {
					item = popular
				}
				b.add(item, block)
				want[idEntry(item)<<32|idEntry(block)] = true
			}
			if rng.IntN(500) == 0 {
				b.endRun()
			}
		}
		if rng.IntN(2) == 0 {
			b.endRun()
		}
		find, _ := finder(t, &b, blocks)
		some := 0
		for e := range want {
			if some++; some > 1000 {
				break
			}
			if find(e.item())[e.block()>>6]>>(e.block()&63)&1 == 0 {
				t.Fatalf("%d blocks, %d entries: %x is missing", blocks, len(want), e)
			}
		}
		if len(want) == 0 {
			continue
		}
		wrong := 0
		for range 1000 {
			if slices.Max(find(rng.Uint32())) != 0 {
				wrong++
			}
		}
		if wrong > 40 { // 16 are to be expected
			t.Errorf("%d entries: %d of 1000 other items found blocks", len(want), wrong)
		}
	}
}

// finder builds a table, and returns it with a function that looks for items as a reader does.
func finder(t *testing.T, b *idBuilder, blocks int) (find func(item uint32) []uint64, n *needleRows) {
	table, pages, lists := b.build("x", 7, blocks, false)
	if int64(len(pages)+len(lists)) != table.size() || b.bytes() != 0 {
		t.Fatalf("%d and %d bytes, want %d; %d are left", len(pages), len(lists), table.size(), b.bytes())
	}
	n = newNeedleRows(&group{blocks: blocks, ids: table})
	for i := range table.Pages {
		n.ids[i] = pages[i*table.PageBytes:][:table.PageBytes]
		if _, err := openIDPage(n.ids[i], "x", table.Pages, place{kindIDs, 7, uint32(i)}); err != nil {
			t.Fatal(err)
		}
	}
	for i, l := range table.lists {
		n.lists[i] = lists[l.offset-table.lists[0].offset:][:l.bytes]
		if err := checkPage(n.lists[i], place{kindIDLists, 7, uint32(i)}); err != nil {
			t.Fatal(err)
		}
	}
	return func(item uint32) []uint64 {
		clear(n.found)
		if _, err := n.findAll([][]lookup{{{items: []uint32{item}}}}); err != nil {
			t.Fatal(err)
		}
		if err := n.readLists(); err != nil {
			t.Fatal(err)
		}
		return n.inAll([]uint32{item})
	}, n
}

// Items that somebody has chosen so that they fall on one page take room of their own: pages stay
// small, and those of other items full.
func TestCrowdedIDPage(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 6))
	var b idBuilder
	const blocks = 500
	want := make(map[idEntry]bool)
	for block := range blocks {
		for range 100 {
			want[idEntry(rng.Uint32())<<32|idEntry(block)] = true
			want[idEntry(0x12<<24+rng.Uint32N(1<<24))<<32|idEntry(block)] = true
		}
	}
	for e := range want {
		b.add(e.item(), e.block())
	}
	find, n := finder(t, &b, blocks)
	crowded, wrong := 0, 0
	for i := range n.ids {
		page, err := decodeIDPage(n.ids[i][:len(n.ids[i])-4], n.group.ids.Pages, i)
		if err != nil {
			t.Fatal(err)
		}
		if page.listed < page.first+page.values*9/10 {
			crowded++
		}
	}
	if table := n.group.ids; table.PageBytes > idPageMost || table.Pages < 20 || crowded < 1 || crowded > 2 || len(table.lists) < 10 {
		t.Errorf("%d pages of %d bytes, %d of them crowded, %d of lists", table.Pages, table.PageBytes, crowded, len(table.lists))
	}
	some := 0
	for e := range want {
		if some++; some > 5000 {
			break
		}
		if find(e.item())[e.block()>>6]>>(e.block()&63)&1 == 0 {
			t.Fatalf("%x is missing", e)
		}
	}
	for range 1000 {
		if item := rng.Uint32(); item>>24 != 0x12 && slices.Max(find(item)) != 0 {
			wrong++
		}
	}
	if wrong > 40 {
		t.Errorf("%d of 1000 other items found blocks", wrong)
	}
}

// eachWay runs a test with what the processor has and without its vectors.
func eachWay(t *testing.T, test func(t *testing.T)) {
	t.Run("without vectors", func(t *testing.T) {
		defer func(have bool) { haveVectors = have }(haveVectors)
		haveVectors = false
		test(t)
	})
	t.Run("with vectors", func(t *testing.T) {
		if !haveVectors {
			t.Skip("this processor has none that are used")
		}
		test(t)
	})
}

// What is found eight windows at a time, or without those seen in lines before, must be what the
// definition says, gram by gram.
func TestNeedleKeysAreTheMinima(t *testing.T) { eachWay(t, testMinima) }

func testMinima(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	alphabet := []byte("abcdefABCDEF0123456789ghXZ@[`{ /:\"\xc3\x84\xff\x00")
	random := func(n int) []byte {
		text := make([]byte, n)
		for i := range text {
			text[i] = alphabet[rng.IntN(len(alphabet))]
			if rng.IntN(3) == 0 {
				text[i] = alphabet[rng.IntN(22)] // runs of digits
			}
		}
		return text
	}
	set := new(needleSet)
	for i := range 1000 {
		phrases := [][]byte{make([]byte, 40), []byte(strings.Repeat("0", 40)), random(rng.IntN(70)), random(rng.IntN(70)), random(rng.IntN(30))}
		if i%10 == 0 {
			phrases = append(phrases, random(rng.IntN(3*vectorGrams)))
		}
		want := make(map[uint32]bool)
		var lines []string
		for range 1 + rng.IntN(6) {
			var line []byte
			for range rng.IntN(4) {
				line = append(append(line, phrases[rng.IntN(len(phrases))]...), random(rng.IntN(6))...)
			}
			lines = append(lines, string(line))
			for i := 0; i+windowSize <= len(line); i++ {
				least := undefined
				for k := range gramWindow {
					h, _ := gramAt(string(line[i+k:]))
					least = min(least, h)
				}
				want[gramKey(least)] = true
			}
			set.addLine(append(line, random(16)...)[:len(line)]) // what lies behind the line must not matter
		}
		if got := slices.Collect(set.all()); !slices.Equal(got, slices.Sorted(maps.Keys(want))) || set.count() != len(want) {
			t.Fatalf("%q have keys %x, want %x", lines, got, slices.Sorted(maps.Keys(want)))
		}
		if set.reset(); set.words != [len(set.words)]uint64{} || set.n > 0 {
			t.Fatalf("after %q the set is not empty", lines)
		}
	}
}

// A block's cells are those of its keys, however wide it is.
func TestCellsAreOfTheKeys(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	set := new(needleSet)
	for range 50 {
		keys := make(map[uint32]bool)
		for range rng.IntN(1 << rng.IntN(18)) {
			key := rng.Uint32() >> (32 - keyBits)
			keys[key] = true
			set.words[key>>6] |= 1 << (key & 63)
		}
		bitsPerKey := 0.1 + 10*rng.Float64()
		got := cellsOf(set, bitsPerKey)
		width := min(max(int(math.Round(float64(len(keys))*bitsPerKey/(1<<groupRowBits))), 1), maxWidth)
		want := make([]uint64, len(got.bits))
		for key := range keys {
			cell := cellOf(key, groupRowBits, width)
			want[cell>>6] |= 1 << (cell & 63)
		}
		if got.width != width || !slices.Equal(got.bits, want) {
			t.Fatalf("%d keys of %.1f bits: width %d, want %d, and %x, want %x", len(keys), bitsPerKey, got.width, width, got.bits, want)
		}
	}
}
