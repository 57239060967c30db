package segment

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// How the parts of a block come from the file.

// The parts of a block in the order of the file: times, lengths, the metadata columns,
// hashes, lines.
const (
	partTimes = iota
	partLengths
	partMetadata
)

func (b *block) partHashes() int { return partMetadata + len(b.meta.metadata) }
func (b *block) partLines() int  { return b.partHashes() + 1 }

// at returns the place of a part, for its checksum, and where it lies.
func (b *blockMeta) at(number, part int) (at place, off int64, n int) {
	at.block = uint32(number)
	off = b.offset
	if at.kind, n = kindTimes, b.times; part == partTimes {
		return at, off, n
	}
	off += int64(n)
	if at.kind, n = kindLengths, b.lengths; part == partLengths {
		return at, off, n
	}
	off += int64(n)
	at.kind = kindMetadata
	for i, c := range b.metadata {
		if n = c.length; part == partMetadata+i {
			at.ordinal = uint32(i)
			return at, off, n
		}
		off += int64(n)
	}
	if at.kind, n = kindHashes, b.hashes; part == partMetadata+len(b.metadata) {
		return at, off, n
	}
	return place{kind: kindLines, block: uint32(number)}, off + int64(n), b.lines
}

// wanted lists the parts that the request named, but for the lines.
func (b *block) wanted() []int {
	parts := []int{partTimes}
	if b.want.Lengths || b.want.Lines {
		parts = append(parts, partLengths)
	}
	for i, c := range b.meta.metadata {
		if b.want.AllMetadata || slices.Contains(b.want.Metadata, b.r.index.names[c.name]) {
			parts = append(parts, partMetadata+i)
		}
	}
	return parts
}

// frame returns the bytes of a part, which it fetches when needed. Lines, which are most of a
// block, come when they are asked for, here or by Fetch: a query that looks for rows that stand
// twice has the times of many blocks in memory.
func (b *block) frame(ctx context.Context, part int) ([]byte, error) {
	if b.frames == nil || b.frames[part] == nil {
		parts := []int{part}
		if !b.asked {
			parts = append(parts, b.wanted()...)
		}
		if err := b.bring(ctx, parts); err != nil {
			return nil, err
		}
	}
	return b.frames[part], nil
}

// bring fetches those of the parts that are not there, neighbours in one read. It is called with
// the wanted ones the first time.
func (b *block) bring(ctx context.Context, parts []int) error {
	if b.frames == nil {
		b.frames = make([][]byte, b.partLines()+1)
	}
	slices.Sort(parts)
	parts = slices.DeleteFunc(slices.Compact(parts), func(p int) bool { return b.frames[p] != nil })
	for len(parts) > 0 {
		_, start, n := b.meta.at(b.number, parts[0])
		end := start + int64(n)
		k := 1
		for ; k < len(parts); k++ {
			_, off, n := b.meta.at(b.number, parts[k])
			if off-end > int64(b.r.opts.MaxGap) {
				break
			}
			end = off + int64(n)
		}
		buf := pooled[byte](&framePool, int(end-start))
		b.buffers = append(b.buffers, buf)
		if err := b.r.read(ctx, *buf, start, b.stats); err != nil {
			b.dropFrames()
			return err
		}
		for _, p := range parts[:k] {
			_, off, n := b.meta.at(b.number, p)
			b.frames[p] = (*buf)[off-start:][:n:n]
		}
		parts = parts[k:]
	}
	b.asked = true
	return nil
}

// open returns the raw bytes of a part in a buffer, at most so many.
func (b *block) open(ctx context.Context, part, most int, pool *sync.Pool) (*[]byte, error) {
	frame, err := b.frame(ctx, part)
	if err != nil {
		return nil, err
	}
	at, _, _ := b.meta.at(b.number, part)
	buf := pool.Get().(*[]byte)
	raw, err := openFrame((*buf)[:0], frame, at, most)
	if err != nil {
		pool.Put(buf)
		return nil, b.corrupt(part, err)
	}
	*buf = raw
	return buf, nil
}

func (b *block) corrupt(part int, err error) error {
	if err == nil {
		return nil
	}
	at, _, _ := b.meta.at(b.number, part)
	where := fmt.Sprintf("block %d, %s", b.number, at.kind)
	if at.kind == kindMetadata {
		where += fmt.Sprintf(" %q", b.r.index.names[b.meta.metadata[at.ordinal].name])
	}
	return b.r.corrupt(where, err)
}

// Fetch implements model.Block.
func (b *block) Fetch() func(context.Context) error {
	if !b.far() {
		return nil
	}
	return func(ctx context.Context) error {
		parts := b.wanted()
		if b.want.Lines {
			parts = append(parts, b.partLines())
		}
		return b.bring(ctx, parts)
	}
}

func (b *block) far() bool {
	far, ok := b.r.src.(interface{ Far() bool })
	return ok && far.Far()
}
