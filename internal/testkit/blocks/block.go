package blocks

import (
	"context"
	"fmt"
	"slices"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

// block is one selection's view of a data. It implements model.Block.
type block struct {
	*data
	source   *Source
	selected []model.Run
	columns  model.Columns
	// What was handed out, to be overwritten by Release.
	handedTimes []int64
	handedLines []byte
	released    bool
}

func (b *block) Name() string           { return b.name }
func (b *block) Rows() int              { return len(b.times) }
func (b *block) Bounds() (int64, int64) { return b.first, b.last }
func (b *block) RawBytes() int64        { return int64(len(b.lines)) }
func (b *block) Runs() []model.Run      { return b.selected }
func (b *block) Dead() model.Bitmap     { return b.dead }
func (b *block) MetadataNames() []string {
	return b.names
}

func (b *block) check(what string, announced bool) error {
	switch {
	case b.released:
		return fmt.Errorf("%s: %s read after Release", b.name, what)
	case !announced && !b.source.opts.Lenient:
		return fmt.Errorf("%s: %s read, but the request announced %+v", b.name, what, b.columns)
	}
	return nil
}

func (b *block) Times(context.Context) ([]int64, error) {
	if err := b.check("timestamps", true); err != nil || b.source.opts.Lenient {
		return b.times, err
	}
	if b.handedTimes == nil {
		b.handedTimes = slices.Clone(b.times)
	}
	return b.handedTimes, nil
}

func (b *block) Offsets(context.Context) ([]uint32, error) {
	return b.offsets, b.check("lengths", b.columns.Lengths || b.columns.Lines)
}

func (b *block) Lines(context.Context) ([]byte, error) {
	b.source.LineReads.Add(1)
	if err := b.check("lines", b.columns.Lines); err != nil || b.source.opts.Lenient {
		return b.lines, err
	}
	if b.handedLines == nil {
		b.handedLines = slices.Clone(b.lines)
	}
	return b.handedLines, nil
}

func (b *block) Packed(context.Context) (model.Packed, error) { return nil, nil }

// Fetch returns nil: rows are in memory.
func (b *block) Fetch() func(context.Context) error { return nil }

func (b *block) Metadata(_ context.Context, name string) (model.Column, error) {
	if err := b.check("metadata "+name, b.columns.AllMetadata || slices.Contains(b.columns.Metadata, name)); err != nil {
		return model.Column{}, err
	}
	if c, ok := b.data.columns[name]; ok {
		return c, nil
	}
	return model.Column{Values: []string{""}}, nil
}

func (b *block) Hashes(context.Context) ([]uint64, error) {
	out := make([]uint64, len(b.times))
	for i := range out {
		out[i] = model.RowHash(b.lines[b.offsets[i]:b.offsets[i+1]], b.metadata(i))
	}
	return out, b.check("hashes", true)
}

func (b *block) metadata(row int) labels.Labels {
	sb := labels.NewScratchBuilder(len(b.names))
	for _, name := range b.names {
		if v := b.data.columns[name].Value(row); v != "" {
			sb.Add(name, v)
		}
	}
	return sb.Labels()
}

func (b *block) Release() {
	if b.released {
		panic(b.name + ": released twice")
	}
	b.released = true
	b.source.Open.Add(-1)
	for i := range b.handedTimes {
		b.handedTimes[i] = -1
	}
	for i := range b.handedLines {
		b.handedLines[i] = 0xfe
	}
}
