package segment

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
)

// readAll opens a segment and reads everything in it.
func readAll(ctx context.Context, data []byte) ([]row, error) {
	r, err := Open(ctx, &memory{data: data}, ReaderOptions{})
	if err != nil {
		return nil, err
	}
	part, err := r.Select(ctx, &model.Request{Range: allTime, Columns: allColumns})
	if err != nil {
		return nil, err
	}
	sel := model.Selection{Parts: []model.Part{part}}
	defer sel.Release()
	return rowsOf(ctx, part, allTime)
}

func corruptible(t testing.TB) ([]byte, []row) {
	rng := rand.New(rand.NewPCG(7, 7))
	entries := randomEntries(rng, 120)
	data := write(t, WriterOptions{ID: "x", Tenant: "t", BlockRows: 30, RowHash: true}, entries)
	return data, unique(sorted(entries))
}

// Whatever byte is damaged: Verify notices, and a reader gives an error that names file
// and remedy, or the right rows because it did not need that byte.
func TestEveryFlippedByteIsNoticed(t *testing.T) {
	data, want := corruptible(t)
	r := open(t, data)
	d := &dumper{ctx: t.Context(), r: r}
	for _, p := range d.parts() {
		for off := p.off; off < p.off+int64(p.n); off += 1 + int64(p.n)/60 {
			bad := slices.Clone(data)
			bad[off] ^= 1 << (off % 8)
			_, err := Verify(t.Context(), &memory{data: bad})
			if err == nil {
				t.Errorf("%s, byte %d: Verify does not notice", p.title, off)
				continue
			}
			if fault.Of(err) != fault.Corrupt {
				t.Errorf("%s, byte %d: kind of %v", p.title, off, err)
			}
			if !strings.Contains(err.Error(), "test.seg") || !strings.Contains(err.Error(), "skald verify") {
				t.Errorf("%s, byte %d: the error names neither file nor remedy: %v", p.title, off, err)
			}
			got, err := readAll(t.Context(), bad)
			if err == nil {
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s, byte %d: wrong rows (-want +got):\n%s", p.title, off, diff)
				}
			} else if fault.Of(err) != fault.Corrupt {
				t.Errorf("%s, byte %d: kind of %v", p.title, off, err)
			}
		}
	}
}

func TestEveryTruncationIsNoticed(t *testing.T) {
	data, _ := corruptible(t)
	for n := range len(data) {
		if _, err := readAll(t.Context(), data[:n]); fault.Of(err) != fault.Corrupt {
			t.Fatalf("first %d of %d bytes: %v", n, len(data), err)
		}
	}
	if _, err := readAll(t.Context(), append(slices.Clone(data), 0)); fault.Of(err) != fault.Corrupt {
		t.Errorf("one byte too many: %v", err)
	}
}

// A block that stands in another's place has right checksums for the wrong place.
func TestSwappedFramesAreNoticed(t *testing.T) {
	e := entry{ts: 1, line: "the same line"}
	e.stream = randomEntries(rand.New(rand.NewPCG(1, 1)), 1)[0].stream
	f := e
	f.ts, f.line = 2, "the same linf"
	data := write(t, WriterOptions{BlockRows: 1, Codec: CodecNone}, []entry{e, f})
	r := open(t, data)
	_, a, n := r.index.blocks[0].at(0, partMetadata+1)
	_, b, m := r.index.blocks[1].at(1, partMetadata+1)
	if n != m {
		t.Fatalf("frames of %d and %d bytes", n, m)
	}
	bad := slices.Clone(data)
	copy(bad[a:], data[b:b+int64(n)])
	if _, err := readAll(t.Context(), bad); fault.Of(err) != fault.Corrupt || !strings.Contains(err.Error(), "block 0, line column") {
		t.Errorf("got %v", err)
	}
}

// An id table that names other blocks has right checksums, and hides rows.
func TestWrongIDsAreNoticed(t *testing.T) {
	data, _ := corruptible(t)
	r := open(t, data)
	off, n := r.index.groups[0].idRange(0)
	for bit := 0; bit < 8*(n-6); bit += 11 { // all but the padding
		bad := slices.Clone(data)
		page := bad[off : off+int64(n)]
		page[bit/8] ^= 1 << (bit % 8)
		binary.LittleEndian.PutUint32(page[n-4:], idChecksum("x", r.index.groups[0].ids.Pages, place{kind: kindIDs}, page[:n-4]))
		if _, err := Verify(t.Context(), &memory{data: bad}); fault.Of(err) != fault.Corrupt || !strings.Contains(err.Error(), "id table") && !strings.Contains(err.Error(), "needle index") {
			t.Errorf("bit %d: %v", bit, err)
		}
		if _, err := readAll(t.Context(), bad); err != nil {
			t.Errorf("bit %d, not needed: %v", bit, err)
		}
	}
}

// FuzzRead feeds arbitrary files to everything that reads.
func FuzzRead(f *testing.F) {
	data, _ := corruptible(f)
	f.Add(data)
	f.Add(write(f, WriterOptions{}, nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = readAll(t.Context(), data)
		_, _ = Verify(t.Context(), &memory{data: data})
	})
}

// FuzzDecoders feeds arbitrary bytes to the decoders, as if their checksums were right.
func FuzzDecoders(f *testing.F) {
	data, _ := corruptible(f)
	r := open(f, data)
	d := &dumper{ctx: f.Context(), r: r}
	for _, p := range d.parts() {
		if p.isFrame && p.at.kind != kindLines {
			raw, err := openFrame(nil, data[p.off:p.off+int64(p.n)], p.at, maxSectionBytes)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(byte(p.at.kind), 30, raw)
		}
	}
	for i := range r.index.groups {
		off, n := r.index.groups[i].idRange(0)
		f.Add(byte(kindIDs), r.index.groups[i].ids.Pages, data[off:off+int64(n)-4])
	}
	f.Fuzz(func(t *testing.T, k byte, rows int, raw []byte) {
		if rows <= 0 || rows > 1000 {
			return
		}
		switch kind(k) {
		case kindTimes:
			_, _ = decodeTimes(make([]int64, rows), raw, nil)
		case kindLengths:
			_ = decodeLengths(make([]uint32, rows+1), raw, 1<<20)
		case kindMetadata:
			if c, err := decodeMetadata(nil, raw, rows); err == nil {
				for i := range rows {
					_ = c.Value(i)
				}
			}
		case kindPostings:
			if p, err := decodePostings(raw, rows); err == nil {
				for i := range p.values {
					_ = p.list(i)
				}
			}
		case kindStreams:
			if table, err := decodeStreams(raw, rows, 0); err == nil {
				for i := range rows {
					_ = table.get(i)
				}
			}
		case kindIndex:
			ft := *r.footer
			ft.blocks = rows % 20
			if x, err := decodeIndex(raw, &ft); err == nil && x.decodeBlocks(&ft) == nil {
				for i := range x.groups {
					_ = x.groups[i].size()
				}
			}
		case kindIDs:
			if page, err := decodeIDPage(raw, rows, rows%7); err == nil {
				_, _, _ = page.find(page.first + page.values/2)
				_ = page.each(func(uint64, int) bool { return true })
			}
		case kindIDLists:
			_ = eachList(raw, uint64(rows), 1+rows%300, func(uint64, int) {})
		case kindFooter:
			_, _ = decodeFooter(raw, rows, int64(len(data)))
		}
	})
}
