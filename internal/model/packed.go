package model

import "context"

// Packed is the lines of a block before the last step of their decoding, which costs more
// than the others: some parts are still taken out. Package internal/packed says by which
// rules, so that most rows can be judged without that step. It is valid until the block's
// Release.
type Packed interface {
	// Text is the packed lines of all rows, end to end.
	Text() []byte
	// Offsets returns Rows()+1 positions: row i's packed line is Text()[Offsets[i]:Offsets[i+1]].
	Offsets(ctx context.Context) ([]uint32, error)
	// IDs is the digits that have been taken out of all rows, end to end, two a byte.
	IDs() []byte
	// IDOffsets returns Rows()+1 positions of the rows' digits in IDs.
	IDOffsets(ctx context.Context) ([]uint32, error)
	// Lines makes the lines of some rows, given in ascending order. They stand where the
	// block's Lines has them, by the block's Offsets; what stands elsewhere is undefined. The
	// result is valid until the next call.
	Lines(ctx context.Context, rows []uint32) ([]byte, error)
}
