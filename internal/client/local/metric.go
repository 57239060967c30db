package local

import (
	"context"
	"fmt"
	"io"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/logql/engine"
	"github.com/skaldlog/skald/logql/syntax"
)

// MaxKept bounds the text that Metric keeps, in bytes.
const MaxKept = 1 << 30

// Metric evaluates a metric query over the lines of r, all with the timestamp now, in
// nanoseconds, as an instant query at that time. More than MaxKept bytes are an error.
func Metric(ctx context.Context, r io.Reader, expr syntax.Expr, now int64) (*engine.Result, error) {
	var kept lines
	var size int64
	err := read(ctx, r, func(b *batch) error {
		if size += int64(len(b.lines)) + 4*int64(b.rows()); size > MaxKept {
			return fmt.Errorf("a metric query keeps the input in memory, and it is larger than %d MiB; filter it first: skald query --stdin '|= \"…\"' | skald query --stdin …", MaxKept>>20)
		}
		kept.add(b, now)
		return nil
	})
	if err != nil {
		return nil, err
	}
	lim := engine.Limits{MaxSeries: -1, Variants: true, ApproxTopK: true}
	return engine.New(engine.Options{}).Evaluate(ctx, &kept, lim, engine.Params{Instant: true, End: now}, expr)
}

// lines are blocks of text. They implement scan.Selector.
type lines struct{ blocks []*block }

// blockBytes is the size up to which batches are joined, so that few blocks hold much.
const blockBytes = 1 << 20

func (l *lines) add(b *batch, now int64) {
	var last *block
	if n := len(l.blocks); n > 0 && len(l.blocks[n-1].text) < blockBytes {
		last = l.blocks[n-1]
	} else {
		last = &block{name: fmt.Sprintf("input, part %d", n+1), now: now, offsets: []uint32{0}}
		l.blocks = append(l.blocks, last)
	}
	base := uint32(len(last.text))
	last.text = append(last.text, b.lines...)
	for _, o := range b.offsets[1:] {
		last.offsets = append(last.offsets, base+o)
	}
}

// Select returns everything: the request describes a superset, and matchers are not
// looked at.
func (l *lines) Select(context.Context, *model.Request) (*model.Selection, error) {
	sel := &model.Selection{Parts: make([]model.Part, 1)}
	for _, b := range l.blocks {
		sel.Parts[0].Blocks = append(sel.Parts[0].Blocks, b)
	}
	return sel, nil
}

// block is text in memory. It implements model.Block.
type block struct {
	name    string
	now     int64
	text    []byte
	offsets []uint32
}

func (b *block) Name() string           { return b.name }
func (b *block) Rows() int              { return len(b.offsets) - 1 }
func (b *block) Bounds() (int64, int64) { return b.now, b.now }
func (b *block) RawBytes() int64        { return int64(len(b.text)) }
func (b *block) Dead() model.Bitmap     { return nil }
func (b *block) MetadataNames() []string {
	return nil
}
func (b *block) Release() {}

func (b *block) Runs() []model.Run {
	return []model.Run{{Labels: Stream, Hash: Stream.Hash(), End: b.Rows()}}
}

func (b *block) Times(context.Context) ([]int64, error) {
	times := make([]int64, b.Rows())
	for i := range times {
		times[i] = b.now
	}
	return times, nil
}

func (b *block) Offsets(context.Context) ([]uint32, error) { return b.offsets, nil }
func (b *block) Lines(context.Context) ([]byte, error)     { return b.text, nil }

func (b *block) Packed(context.Context) (model.Packed, error) { return nil, nil }

// Fetch returns nil: rows are in memory.
func (b *block) Fetch() func(context.Context) error { return nil }

func (b *block) Metadata(context.Context, string) (model.Column, error) {
	return model.Column{Values: []string{""}}, nil
}

func (b *block) Hashes(context.Context) ([]uint64, error) {
	hashes := make([]uint64, b.Rows())
	for i := range hashes {
		hashes[i] = model.RowHash(b.text[b.offsets[i]:b.offsets[i+1]], labels.EmptyLabels())
	}
	return hashes, nil
}
