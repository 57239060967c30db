package segment

import (
	"context"
	"fmt"

	"github.com/skaldlog/skald/internal/model"
)

// The lines of a block, whole or up to the fields that were taken out of them.

// lineFrame checks the frame of the lines and returns its codec and body.
func (b *block) lineFrame(ctx context.Context) (Codec, []byte, error) {
	part := b.partLines()
	frame, err := b.frame(ctx, part)
	if err != nil {
		return 0, nil, err
	}
	at, _, _ := b.meta.at(b.number, part)
	codec, n, body, err := checkFrame(frame, at, int(b.meta.bytes))
	if err == nil && int64(n) != b.meta.bytes {
		err = fmt.Errorf("%d bytes, the block index says %d", n, b.meta.bytes)
	}
	return codec, body, b.corrupt(part, err)
}

// Lines decodes the lines.
func (b *block) Lines(ctx context.Context) ([]byte, error) {
	if b.lines != nil {
		return *b.lines, nil
	}
	if b.packed != nil {
		return b.expandAll(ctx)
	}
	codec, body, err := b.lineFrame(ctx)
	if err != nil {
		return nil, err
	}
	lines := linePool.Get().(*[]byte)
	var decoded []byte
	if codec == CodecFields {
		decoded, err = b.decodeFields(ctx, *lines, body)
	} else {
		decoded, err = decompress((*lines)[:0], codec, int(b.meta.bytes), body)
		err = b.corrupt(b.partLines(), err)
	}
	if err != nil {
		linePool.Put(lines)
		return nil, err
	}
	*lines = decoded
	b.stats.DecompressedLine.Add(b.meta.bytes)
	b.stats.LineBlocks.Add(1)
	b.lines = lines
	return *lines, nil
}

// decodeFields decodes lines whose timestamps stand in their own column.
func (b *block) decodeFields(ctx context.Context, dst, body []byte) ([]byte, error) {
	times, offsets, err := b.rowColumns(ctx)
	if err != nil {
		return nil, err
	}
	dst, err = decodeFields(dst, body, times, offsets)
	return dst, b.corrupt(b.partLines(), err)
}

// rowColumns are what lines are put together with.
func (b *block) rowColumns(ctx context.Context) ([]int64, []uint32, error) {
	times, err := b.Times(ctx)
	if err != nil {
		return nil, nil, err
	}
	offsets, err := b.Offsets(ctx)
	return times, offsets, err
}

// Packed decodes the lines up to the fields that have been taken out of them.
func (b *block) Packed(ctx context.Context) (model.Packed, error) {
	if b.packed != nil {
		return b.packed, nil
	}
	if b.lines != nil {
		return nil, nil
	}
	codec, body, err := b.lineFrame(ctx)
	if err != nil || codec != CodecFields {
		return nil, err
	}
	p, err := newPackedLines(b, body)
	if err != nil {
		return nil, b.corrupt(b.partLines(), err)
	}
	b.stats.DecompressedLine.Add(int64(len(*p.text) + len(p.ids)))
	b.stats.LineBlocks.Add(1)
	b.packed = p
	return p, nil
}

// expandAll makes all lines of the packed ones.
func (b *block) expandAll(ctx context.Context) ([]byte, error) {
	times, offsets, err := b.rowColumns(ctx)
	if err != nil {
		return nil, err
	}
	n := int(b.meta.bytes)
	lines := linePool.Get().(*[]byte)
	*lines = grow((*lines)[:0], n+expandSlack)[:n+expandSlack]
	p := b.packed
	if err := expandFields(*lines, n, *p.text, p.ids, &p.clock, times, offsets); err != nil {
		linePool.Put(lines)
		return nil, b.corrupt(b.partLines(), err)
	}
	*lines = (*lines)[:n]
	b.lines = lines
	return *lines, nil
}
