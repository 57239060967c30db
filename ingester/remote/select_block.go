package remote

import (
	"context"
	"fmt"
	"slices"

	"github.com/skaldlog/skald/internal/model"
)

// block is a model.Block whose columns are fetched when they are first asked for: those
// that the request announced together, any other one by itself. Timestamps come alone when
// lines were announced, because they often tell that the lines are not needed.
type block struct {
	sel    *selection
	number int
	head   *blockHead
	dead   model.Bitmap // rows that a reader has marked; see Skip

	asked    bool // what was announced has been fetched
	released bool
	times    []int64
	offsets  []uint32
	lines    []byte
	hashes   []uint64
	metadata map[string]model.Column
}

func (b *block) Name() string { return b.head.name + " of ingester " + b.sel.addr }

func (b *block) Rows() int { return b.head.rows }

func (b *block) Bounds() (int64, int64) { return b.head.first, b.head.last }

func (b *block) RawBytes() int64 { return b.head.raw }

func (b *block) Runs() []model.Run { return b.head.runs }

func (b *block) Dead() model.Bitmap { return nil }

func (b *block) MetadataNames() []string { return b.head.names }

// Skip announces rows that nobody will look at, so that their lines need not travel.
func (b *block) Skip(dead model.Bitmap) { b.dead = dead }

func (b *block) Times(ctx context.Context) ([]int64, error) {
	if b.times == nil {
		if err := b.load(ctx, wantTimes, nil); err != nil {
			return nil, err
		}
	}
	return b.times, nil
}

func (b *block) Offsets(ctx context.Context) ([]uint32, error) {
	if b.offsets == nil {
		if err := b.load(ctx, wantLengths, nil); err != nil {
			return nil, err
		}
	}
	return b.offsets, nil
}

func (b *block) Lines(ctx context.Context) ([]byte, error) {
	if b.lines == nil {
		if err := b.load(ctx, wantLines, nil); err != nil {
			return nil, err
		}
	}
	return b.lines, nil
}

// Packed returns nil: lines travel whole, and only those that may be wanted.
func (b *block) Packed(context.Context) (model.Packed, error) { return nil, nil }

// Fetch brings what Times brings.
func (b *block) Fetch() func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := b.Times(ctx)
		return err
	}
}

func (b *block) Hashes(ctx context.Context) ([]uint64, error) {
	if b.hashes == nil {
		if err := b.load(ctx, wantHashes, nil); err != nil {
			return nil, err
		}
	}
	return b.hashes, nil
}

func (b *block) Metadata(ctx context.Context, name string) (model.Column, error) {
	if _, found := slices.BinarySearch(b.head.names, name); !found {
		return model.Column{Values: []string{""}}, nil
	}
	c, known := b.metadata[name]
	if !known {
		if err := b.load(ctx, 0, []string{name}); err != nil {
			return c, err
		}
		c = b.metadata[name]
	}
	return c, nil
}

// Release gives the columns up and, with the last block, ends the call.
func (b *block) Release() {
	if !b.released {
		b.released = true
		b.times, b.offsets, b.lines, b.hashes, b.metadata = nil, nil, nil, nil, nil
		b.sel.release(b.number)
	}
}

// load fetches columns, and what was announced unless that has been done.
func (b *block) load(ctx context.Context, columns uint64, names []string) error {
	want := &b.sel.want
	early := columns == wantTimes || columns == wantHashes
	if !b.asked && !(early && want.Lines) {
		b.asked = true
		columns |= wantTimes | columnBits(*want)
		for _, name := range b.head.names {
			if (want.AllMetadata || slices.Contains(want.Metadata, name)) && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	f := &fetch{dead: b.dead}
	if columns&wantLines != 0 {
		columns |= wantLengths
	} else {
		f.dead = nil
	}
	have := func(bit uint64, there bool) {
		if there {
			columns &^= bit
		}
	}
	have(wantTimes, b.times != nil)
	have(wantLengths, b.offsets != nil)
	have(wantLines, b.lines != nil)
	f.columns = columns &^ wantAllMetadata
	for _, name := range names {
		if _, known := b.metadata[name]; !known {
			f.metadata = append(f.metadata, name)
		}
	}
	got, err := b.sel.fetch(ctx, b, f)
	if err == nil {
		err = b.decode(f, got)
	}
	return err
}

// decode reads what a fetch has brought, which must be what it asked for.
func (b *block) decode(f *fetch, got map[columnKey]*column) (err error) {
	read := func(k kind, name string, decode func(raw []byte, first int64) error) {
		if err != nil {
			return
		}
		c := got[columnKey{k, name}]
		if c == nil || !c.whole {
			err = fmt.Errorf("%s: %s %s did not come", b.Name(), k, name)
			return
		}
		raw, bad := unpackColumn(c.bytes, c.compression, c.size)
		if bad == nil {
			bad = decode(raw, c.first)
		}
		if bad != nil {
			err = fmt.Errorf("%s: %s %s: %w", b.Name(), k, name, bad)
		}
	}
	if f.columns&wantTimes != 0 {
		read(kindTimes, "", func(raw []byte, first int64) (err error) {
			b.times, err = readTimes(raw, b.head.rows, first)
			return err
		})
	}
	if f.columns&wantHashes != 0 {
		read(kindHashes, "", func(raw []byte, _ int64) (err error) { b.hashes, err = readHashes(raw, b.head.rows); return err })
	}
	if f.columns&wantLengths != 0 {
		read(kindLengths, "", func(raw []byte, _ int64) (err error) {
			b.offsets, err = readLengths(raw, b.head.rows, maxBlockRaw)
			return err
		})
	}
	if f.columns&wantLines != 0 {
		read(kindLines, "", func(raw []byte, _ int64) (err error) { b.lines, err = readLines(raw, b.offsets); return err })
	}
	for _, name := range f.metadata {
		read(kindMetadata, name, func(raw []byte, _ int64) error {
			c, err := readMetadata(raw, b.head.rows)
			if b.metadata == nil {
				b.metadata = map[string]model.Column{}
			}
			b.metadata[name] = c
			return err
		})
	}
	return err
}
