package remote

import (
	"encoding/binary"
	"fmt"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/rpc"
)

// # Select on the wire
//
// Select is a stream in both directions. The client sends one selectRequest and then, as
// columns are asked for, fetches; the server sends first what it has (parts, blocks, but
// no rows) and then the columns of each fetch. So rows travel only when they are read: a
// query that stops early leaves the rest where it is, and neither side holds more than the
// blocks being worked on. When the client cancels the call, all of it ends.
//
//	selectRequest   1 tenant  2 from  3 through  4 matcher*  5 needles*  6 columns
//	                7 metadata name*  8 compression
//	matcher         1 type  2 name  3 value
//	needles         1 needle*                a disjunction
//	needle          1 name  2 text  3 fold
//	fetch           1 block  2 columns  3 metadata name*  4 dead  5 released (packed)
//
// The server's messages are frames, each a list of fields that are to be read in order:
//
//	frame   1 part     begins a part: 1 segment  2 merged from*
//	        2 labels   more entries of the part's table of label sets (packed)
//	        3 block    the part's next block, see below
//	        4 ready    the end of the description; a packed list of warnings
//	        5 column   a piece of a column, see column
//	        6 done     the number of a block whose fetch has been answered
//	        7 stats    counters that have grown: pairs of number and growth (packed)
//	block   1 name  2 rows  3 first  4 last  5 raw bytes  6 runs (packed: index into the
//	        table of label sets, rows)  7 metadata name*
//	column  1 block  2 kind  3 metadata name  4 raw size  5 compression  6 bytes  7 more
//	        8 what times are counted from
//
// Blocks are numbered over all parts, from 0. They hold the rows that the request selects
// and no others: rows of other streams, or of other times, are left out and the rest
// numbered anew. Times are signed, so they travel in zigzag.

// maxFrame is about the size of a frame at which the next one is begun, and the size of
// the pieces of a column.
const maxFrame = 256 << 10

// Bounds of what a peer may say about a block, before anything is allocated for it. A
// memtable's and a segment's blocks have at most 64 Ki rows and, unless a single line is
// longer, a megabyte of lines.
const (
	maxBlockRows = 1 << 20
	maxBlockRaw  = 256 << 20
	maxBlocks    = 1 << 24
)

// Columns as bits of a request or a fetch.
const (
	wantTimes = 1 << iota
	wantLengths
	wantLines
	wantHashes
	wantAllMetadata
)

type selectRequest struct {
	tenant      model.Tenant
	compression Compression
	model.Request
}

func appendSelectRequest(b []byte, tenant model.Tenant, req *model.Request, c Compression) []byte {
	b = rpc.AppendString(b, 1, string(tenant))
	b = rpc.AppendInt(b, 2, req.Range.From)
	b = rpc.AppendInt(b, 3, req.Range.Through)
	b = appendMatchers(b, 4, req.Matchers)
	for _, group := range req.Needles {
		var g []byte
		for _, n := range group {
			var one []byte
			one = rpc.AppendString(one, 1, n.Name)
			one = rpc.AppendString(one, 2, n.Text)
			one = rpc.AppendBool(one, 3, n.Fold)
			g = rpc.AppendElement(g, 1, one)
		}
		b = rpc.AppendElement(b, 5, g)
	}
	b = rpc.AppendUint(b, 6, columnBits(req.Columns))
	for _, name := range req.Columns.Metadata {
		b = rpc.AppendElement(b, 7, name)
	}
	return rpc.AppendUint(b, 8, uint64(c))
}

func columnBits(c model.Columns) uint64 {
	var bits uint64
	if c.Lengths {
		bits |= wantLengths
	}
	if c.Lines {
		bits |= wantLines
	}
	if c.AllMetadata {
		bits |= wantAllMetadata
	}
	return bits
}

func appendMatchers(b []byte, num int, matchers []*labels.Matcher) []byte {
	for _, m := range matchers {
		var one []byte
		one = rpc.AppendUint(one, 1, uint64(m.Type))
		one = rpc.AppendString(one, 2, m.Name)
		one = rpc.AppendString(one, 3, m.Value)
		b = rpc.AppendElement(b, rpc.Number(num), one)
	}
	return b
}

func readMatcher(msg []byte) (*labels.Matcher, error) {
	var kind uint64
	var name, value string
	f := rpc.Read(msg)
	for f.Next() {
		switch f.Num() {
		case 1:
			kind = uint64(f.Count(int(labels.MatchNotRegexp)))
		case 2:
			name = f.Text()
		case 3:
			value = f.Text()
		}
	}
	if f.Err() != nil {
		return nil, f.Err()
	}
	return labels.NewMatcher(labels.MatchType(kind), name, value)
}

func readSelectRequest(msg []byte) (*selectRequest, error) {
	req := &selectRequest{}
	f := rpc.Read(msg)
	for f.Next() {
		switch f.Num() {
		case 1:
			var err error
			if req.tenant, err = model.ParseTenant(f.Text()); err != nil {
				f.Fail(err)
			}
		case 2:
			req.Range.From = f.Int()
		case 3:
			req.Range.Through = f.Int()
		case 4:
			m, err := readMatcher(f.Bytes())
			if err != nil {
				f.Fail(err)
			}
			req.Matchers = append(req.Matchers, m)
		case 5:
			group, err := readNeedles(f.Bytes())
			if err != nil {
				f.Fail(err)
			}
			req.Needles = append(req.Needles, group)
		case 6:
			bits := f.Uint()
			req.Columns.Lines = bits&wantLines != 0
			req.Columns.Lengths = bits&wantLengths != 0
			req.Columns.AllMetadata = bits&wantAllMetadata != 0
		case 7:
			req.Columns.Metadata = append(req.Columns.Metadata, f.Text())
		case 8:
			req.compression = Compression(f.Count(int(Zstd)))
		}
	}
	if f.Err() == nil && req.tenant == "" {
		f.Fail(fmt.Errorf("the request names no tenant"))
	}
	return req, f.Err()
}

func readNeedles(msg []byte) (model.Needles, error) {
	var group model.Needles
	f := rpc.Read(msg)
	for f.Next() {
		if f.Num() != 1 {
			continue
		}
		var n model.Needle
		g := rpc.Read(f.Bytes())
		for g.Next() {
			switch g.Num() {
			case 1:
				n.Name = g.Text()
			case 2:
				n.Text = g.Text()
			case 3:
				n.Fold = g.Bool()
			}
		}
		if g.Err() != nil {
			return nil, g.Err()
		}
		group = append(group, n)
	}
	return group, f.Err()
}

// fetch asks for columns of one block.
type fetch struct {
	block    int
	columns  uint64
	metadata []string
	// dead marks rows whose lines nobody will read.
	dead model.Bitmap
	// released are blocks that the client has done with.
	released []int
}

// asks reports whether there is anything to answer.
func (f *fetch) asks() bool { return f.columns != 0 || len(f.metadata) > 0 }

func (f *fetch) append(b []byte) []byte {
	b = rpc.AppendUint(b, 1, uint64(f.block))
	b = rpc.AppendUint(b, 2, f.columns)
	for _, name := range f.metadata {
		b = rpc.AppendElement(b, 3, name)
	}
	if f.dead != nil {
		words := make([]byte, 0, 8*len(f.dead))
		for _, w := range f.dead {
			words = binary.LittleEndian.AppendUint64(words, w)
		}
		b = rpc.AppendString(b, 4, words)
	}
	if len(f.released) > 0 {
		var packed []byte
		for _, n := range f.released {
			packed = binary.AppendUvarint(packed, uint64(n))
		}
		b = rpc.AppendString(b, 5, packed)
	}
	return b
}

func readFetch(msg []byte) (*fetch, error) {
	out := &fetch{}
	f := rpc.Read(msg)
	for f.Next() {
		switch f.Num() {
		case 1:
			out.block = f.Count(maxBlocks)
		case 2:
			out.columns = f.Uint()
		case 3:
			out.metadata = append(out.metadata, f.Text())
		case 4:
			words := f.Bytes()
			if len(words)%8 != 0 {
				f.Fail(fmt.Errorf("a bitmap of %d bytes, want a multiple of 8", len(words)))
				break
			}
			out.dead = make(model.Bitmap, len(words)/8)
			for i := range out.dead {
				out.dead[i] = binary.LittleEndian.Uint64(words[8*i:])
			}
		case 5:
			for d := rpc.Unpack(f.Bytes()); d.Len() > 0; {
				n := d.Uvarint()
				if d.Err() != nil || n > maxBlocks {
					f.Fail(fmt.Errorf("a released block has no sensible number"))
					break
				}
				out.released = append(out.released, int(n))
			}
		}
	}
	return out, f.Err()
}

// blockHead describes a block.
type blockHead struct {
	name        string
	rows        int
	first, last int64
	raw         int64
	runs        []model.Run // labels by index into the table while on the way
	table       []int       // of each run
	names       []string    // metadata columns
}

func (h *blockHead) append(b []byte) []byte {
	b = rpc.AppendString(b, 1, h.name)
	b = rpc.AppendUint(b, 2, uint64(h.rows))
	b = rpc.AppendInt(b, 3, h.first)
	b = rpc.AppendInt(b, 4, h.last)
	b = rpc.AppendUint(b, 5, uint64(h.raw))
	var packed []byte
	for i, r := range h.runs {
		packed = binary.AppendUvarint(packed, uint64(h.table[i]))
		packed = binary.AppendUvarint(packed, uint64(r.End-r.Start))
	}
	b = rpc.AppendString(b, 6, packed)
	for _, name := range h.names {
		b = rpc.AppendElement(b, 7, name)
	}
	return b
}

// labelSet is an entry of a part's table.
type labelSet struct {
	labels labels.Labels
	hash   uint64
}

func readBlockHead(msg []byte, table []labelSet) (*blockHead, error) {
	h := &blockHead{}
	var runs []byte
	f := rpc.Read(msg)
	for f.Next() {
		switch f.Num() {
		case 1:
			h.name = f.Text()
		case 2:
			h.rows = f.Count(maxBlockRows)
		case 3:
			h.first = f.Int()
		case 4:
			h.last = f.Int()
		case 5:
			h.raw = int64(f.Count(maxBlockRaw))
		case 6:
			runs = f.Bytes()
		case 7:
			h.names = append(h.names, f.Text())
		}
	}
	if f.Err() != nil {
		return nil, f.Err()
	}
	d := rpc.Unpack(runs)
	at := 0
	for d.Len() > 0 {
		set, n := d.Uvarint(), d.Uvarint()
		if d.Err() != nil {
			return nil, d.Err()
		}
		if set >= uint64(len(table)) || n == 0 || n > uint64(h.rows-at) {
			return nil, fmt.Errorf("a run of %d rows of stream %d does not fit a block of %d rows, %d streams", n, set, h.rows, len(table))
		}
		l := table[set]
		h.runs = append(h.runs, model.Run{Labels: l.labels, Hash: l.hash, Start: at, End: at + int(n)})
		at += int(n)
	}
	if at != h.rows || d.Err() != nil || h.first > h.last {
		return nil, fmt.Errorf("runs of %d rows in a block of %d rows from %d to %d", at, h.rows, h.first, h.last)
	}
	return h, nil
}
