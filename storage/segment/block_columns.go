package segment

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/skaldlog/skald/internal/model"
)

// The columns of a block but for the lines: times, lengths, metadata, hashes.

// Times decodes the timestamps.
func (b *block) Times(ctx context.Context) ([]int64, error) {
	if b.times != nil {
		return *b.times, nil
	}
	frame, err := b.frame(ctx, partTimes)
	if err != nil {
		return nil, err
	}
	// The frame is not compressed: its bytes are read where they are.
	codec, _, body, err := checkFrame(frame, place{kind: kindTimes, block: uint32(b.number)}, len(frame))
	if err == nil && codec != CodecNone {
		err = fmt.Errorf("unexpected %s", codec)
	}
	if err != nil {
		return nil, b.corrupt(partTimes, err)
	}
	times := pooled[int64](&int64Pool, b.meta.rows)
	scratch := bytePool.Get().(*[]byte)
	*scratch, err = decodeTimes(*times, body, *scratch)
	bytePool.Put(scratch)
	if err != nil {
		int64Pool.Put(times)
		return nil, b.corrupt(partTimes, err)
	}
	b.stats.DecompressedTimestamp.Add(8 * int64(b.meta.rows))
	b.times = times
	return *times, nil
}

// Offsets decodes the lengths of the lines.
func (b *block) Offsets(ctx context.Context) ([]uint32, error) {
	if b.offsets != nil {
		return *b.offsets, nil
	}
	raw, err := b.open(ctx, partLengths, maxLengthsBytes(b.meta.rows), &bytePool)
	if err != nil {
		return nil, err
	}
	defer bytePool.Put(raw)
	offsets := pooled[uint32](&uint32Pool, b.meta.rows+1)
	if err := decodeLengths(*offsets, *raw, b.meta.bytes); err != nil {
		uint32Pool.Put(offsets)
		return nil, b.corrupt(partLengths, err)
	}
	b.stats.DecompressedLength.Add(4 * int64(b.meta.rows))
	b.offsets = offsets
	return *offsets, nil
}

// MetadataNames lists the block's metadata columns.
func (b *block) MetadataNames() []string {
	names := make([]string, len(b.meta.metadata))
	for i, c := range b.meta.metadata {
		names[i] = b.r.index.names[c.name]
	}
	return names
}

// Metadata decodes a metadata column.
func (b *block) Metadata(ctx context.Context, name string) (model.Column, error) {
	n, ok := slices.BinarySearch(b.r.index.names, name)
	if ok {
		n, ok = b.meta.find(n)
	}
	if !ok {
		return model.Column{Values: []string{""}}, nil
	}
	return b.metadataAt(ctx, n)
}

// metadataAt decodes the block's n-th metadata column.
func (b *block) metadataAt(ctx context.Context, n int) (model.Column, error) {
	if c, ok := b.metadata[n]; ok {
		return c.column, nil
	}
	raw, err := b.open(ctx, partMetadata+n, maxMetadataBytes, &bytePool)
	if err != nil {
		return model.Column{}, err
	}
	defer bytePool.Put(raw)
	codes := pooled[uint32](&uint32Pool, b.meta.rows)
	c, err := decodeMetadata(*codes, *raw, b.meta.rows)
	if err != nil {
		uint32Pool.Put(codes)
		return model.Column{}, b.corrupt(partMetadata+n, err)
	}
	*codes = c.Codes
	b.stats.DecompressedMetadata.Add(int64(len(*raw)))
	if b.metadata == nil {
		b.metadata = make(map[int]metadataColumn)
	}
	b.metadata[n] = metadataColumn{c, codes}
	return c, nil
}

// Hashes returns the hash column or, where there is none, computes it.
func (b *block) Hashes(ctx context.Context) ([]uint64, error) {
	if b.hashes != nil {
		return *b.hashes, nil
	}
	if b.meta.hashes == 0 {
		return b.computeHashes(ctx)
	}
	raw, err := b.open(ctx, b.partHashes(), 8*b.meta.rows, &bytePool)
	if err != nil {
		return nil, err
	}
	defer bytePool.Put(raw)
	if len(*raw) != 8*b.meta.rows {
		return nil, b.corrupt(b.partHashes(), fmt.Errorf("%d bytes for %d rows", len(*raw), b.meta.rows))
	}
	hashes := pooled[uint64](&uint64Pool, b.meta.rows)
	for i := range *hashes {
		(*hashes)[i] = binary.LittleEndian.Uint64((*raw)[8*i:])
	}
	b.stats.DecompressedHash.Add(int64(len(*raw)))
	b.hashes = hashes
	return *hashes, nil
}

// computeHashes is model.RowHash for every row. What hashes are made of is kept only if others have
// read some of it: who compares hashes has those of many blocks.
func (b *block) computeHashes(ctx context.Context) ([]uint64, error) {
	others := b.offsets != nil || b.lines != nil || b.packed != nil || b.metadata != nil || b.frames != nil && b.frames[b.partLines()] != nil
	offsets, err := b.Offsets(ctx)
	if err != nil {
		return nil, err
	}
	lines, err := b.Lines(ctx)
	if err != nil {
		return nil, err
	}
	columns := make([]model.Column, len(b.meta.metadata))
	for i := range columns {
		if columns[i], err = b.metadataAt(ctx, i); err != nil {
			return nil, err
		}
	}
	hashes := pooled[uint64](&uint64Pool, b.meta.rows)
	var d xxhash.Digest
	for row := range *hashes {
		d.Reset()
		_, _ = d.Write(lines[offsets[row]:offsets[row+1]])
		for i := range columns {
			if v := columns[i].Value(row); v != "" {
				_, _ = d.Write(hashSeparator)
				_, _ = d.WriteString(b.r.index.names[b.meta.metadata[i].name])
				_, _ = d.Write(hashSeparator)
				_, _ = d.WriteString(v)
			}
		}
		(*hashes)[row] = d.Sum64()
	}
	if !others {
		times := b.times
		b.times = nil
		b.Release()
		b.times = times
	}
	b.hashes = hashes
	return *hashes, nil
}
