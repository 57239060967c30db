package model

import (
	"context"
	"math/bits"

	"github.com/prometheus/prometheus/model/labels"
)

// Request says which rows a query wants, and which of their columns it will read.
// It describes a superset: whoever answers may return blocks that also hold rows of
// other times, and rows that no needle matches, but must not leave out a row that
// belongs to the request. The reader of the blocks applies the time range to the
// rows and the pipeline to the lines.
type Request struct {
	// Matchers select streams by their labels; a missing label equals "". No matcher
	// selects all streams of the tenant.
	Matchers []*labels.Matcher
	Range    TimeRange
	// Needles are necessary conditions on rows, all of which must hold. They only
	// allow blocks to be skipped.
	Needles []Needles
	Columns Columns
	// Held names segments for which the asker has a part already, from another source. A
	// source need not look for their rows; of their parts it may return what Part says
	// besides blocks.
	Held []string
	// Stats, when not nil, receives what answering cost. It is safe for concurrent use.
	Stats *Stats
	// Warn, when not nil, receives warnings about the answer to Series, which has no room
	// for them. A Selection carries its own. It must be safe for concurrent use.
	Warn func(text string)
}

// Needles is a disjunction: a row can only match the query if at least one of them occurs.
type Needles []Needle

// Needle is a piece of text that must occur in a row.
type Needle struct {
	// Name is empty for text that must occur in the line. Otherwise the row's structured
	// metadata must hold Name with exactly the value Text.
	Name string
	Text string
	// Fold says that ASCII letters match in either case. Text is then lower case.
	Fold bool
}

// Columns lists what a query reads besides streams and timestamps. It is a promise of
// the reader; a source that has everything at hand may ignore it.
type Columns struct {
	Lengths     bool // lengths of lines
	Lines       bool // implies Lengths
	AllMetadata bool
	Metadata    []string // names, when not AllMetadata
}

// Selection is the answer to a Request: one part for each memtable snapshot or segment
// that may hold wanted rows. Rows are unique inside a part; the same row may stand in
// several parts (replicas, retried pushes, a segment and the one it was merged into).
// The receiver must Release it, and must keep the context with which it was asked for alive
// until then.
type Selection struct {
	Parts []Part
	// Warnings are shown to the user, for example when a corrupt block was skipped.
	Warnings []string
}

// Release gives back every block. Blocks must not be used afterwards.
func (s *Selection) Release() {
	if s == nil {
		return
	}
	for i := range s.Parts {
		for _, b := range s.Parts[i].Blocks {
			b.Release()
		}
	}
	s.Parts = nil
}

// Part is what one memtable snapshot or one segment contributes. A segment in which nothing
// was found may contribute a part without blocks, which says that it was looked at.
type Part struct {
	// Segment is the segment's id, empty for a memtable.
	Segment string
	// MergedFrom names the segments whose rows this one holds; a reader that sees both
	// uses this one only.
	MergedFrom []string
	Blocks     []Block
}

// Run is a range of consecutive rows [Start, End) of one stream inside a block.
type Run struct {
	Labels labels.Labels
	// Hash is Labels.Hash(), so that grouping work can be cached by stream.
	Hash       uint64
	Start, End int
}

// Block is a batch of rows, sorted by stream and, inside a run, by time; rows of equal
// time keep their order of arrival. It is read by columns, and a column is fetched and
// decoded when it is first asked for. Returned slices are read-only and are valid until
// Release. One goroutine uses a block at a time; different blocks may be used in parallel.
type Block interface {
	// Name says where the block is, for error messages.
	Name() string
	// Rows is the number of rows, wanted or not.
	Rows() int
	// Bounds are the first and last timestamp of the block's rows.
	Bounds() (first, last int64)
	// RawBytes is the sum of the lengths of the block's lines.
	RawBytes() int64
	// Runs are the runs of the streams that the request's matchers select, in row order.
	Runs() []Run
	// Dead marks rows to be ignored (duplicates of another part); nil when there are none.
	Dead() Bitmap
	// Fetch returns what brings the columns that the request named from afar, so that reading
	// them does not wait; nil when they are at hand. It runs before anything of the block is
	// read, or not at all. When it fails, reading tries again, and says why.
	Fetch() func(ctx context.Context) error
	// Times returns one timestamp per row.
	Times(ctx context.Context) ([]int64, error)
	// Offsets returns Rows()+1 positions: row i's line is Lines()[Offsets[i]:Offsets[i+1]].
	Offsets(ctx context.Context) ([]uint32, error)
	// Lines returns all lines end to end, with nothing between them.
	Lines(ctx context.Context) ([]byte, error)
	// Packed returns the lines as they are before their last decoding step, for readers that
	// want few of them; nil when the block has whole lines only.
	Packed(ctx context.Context) (Packed, error)
	// MetadataNames lists the block's metadata columns, sorted.
	MetadataNames() []string
	// Metadata returns a column; for a name the block does not have, one without values.
	Metadata(ctx context.Context, name string) (Column, error)
	// Hashes returns RowHash of each row.
	Hashes(ctx context.Context) ([]uint64, error)
	Release()
}

// Column holds one metadata key's values in a block, as a dictionary.
type Column struct {
	// Values are the dictionary. Values[0] is always "", the absent value. A value may
	// stand there more than once when the column has too many to be worth deduplicating.
	Values []string
	// Codes has an index into Values per row; nil means that every row lacks the key.
	Codes []uint32
}

// Value returns the row's value, "" when the row lacks the key.
func (c Column) Value(row int) string {
	if c.Codes == nil {
		return ""
	}
	return c.Values[c.Codes[row]]
}

// Bitmap is a set of row numbers, one bit each.
type Bitmap []uint64

// NewBitmap returns an empty bitmap for n rows.
func NewBitmap(n int) Bitmap { return make(Bitmap, (n+63)/64) }

// Set adds row i.
func (b Bitmap) Set(i int) { b[i>>6] |= 1 << (i & 63) }

// Has reports whether row i is in the set. A nil bitmap is empty.
func (b Bitmap) Has(i int) bool { return b != nil && b[i>>6]&(1<<(i&63)) != 0 }

// Count returns the number of rows in the set.
func (b Bitmap) Count() int {
	n := 0
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}

// Series describes a stream inside a time range, from indexes alone.
type Series struct {
	Labels labels.Labels
	// Entries and Bytes count the stream's rows and line bytes. Where a block lies only
	// partly in the range they are scaled by the overlap.
	Entries, Bytes int64
	// Blocks is the number of blocks in which the stream has rows.
	Blocks int64
	// First and Last bound the timestamps of the stream's rows.
	First, Last int64
}

// Tail is one subscription to the entries that are acknowledged from now on. Next is for
// one goroutine; whoever got a Tail must Close it.
type Tail interface {
	// Next waits for entries. After Close, and when the source ends, it fails.
	Next(ctx context.Context) (TailBatch, error)
	Close()
}

// TailBatch is what has come in since the last call of Next.
type TailBatch struct {
	// Streams have entries in the order of their acknowledgement. One stream may stand
	// there more than once. The batch is the receiver's to keep.
	Streams []Stream
	// Dropped names entries that were left out because the reader was too slow.
	Dropped []Dropped
	// DroppedMore counts further ones that are not named.
	DroppedMore int
	// Warnings say why entries may be missing, also of those to come.
	Warnings []string
}

// Dropped is an entry that a tail has left out.
type Dropped struct {
	Timestamp int64
	Labels    labels.Labels
}
