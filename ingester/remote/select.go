package remote

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"google.golang.org/grpc"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/rpc"
)

// answerWait is how long an ingester may give no sign of life while columns are awaited.
// It bounds what a query waits for a process that was stopped or cut off in its middle.
const answerWait = 10 * time.Second

var selectDesc = grpc.StreamDesc{StreamName: "Select", ServerStreams: true, ClientStreams: true}

// selection is an open Select call. Its blocks fetch their columns over it; it ends when
// the last block is released, or with the context.
type selection struct {
	addr   string
	ctx    context.Context
	cancel context.CancelFunc
	stream grpc.ClientStream
	want   model.Columns
	stats  *model.Stats
	ended  chan struct{} // the receiver is gone
	send   sync.Mutex
	mu     struct {
		sync.Mutex
		open     int // blocks not yet released
		released []int
		pending  map[int]*answer
		err      error // why nothing comes any more
	}
}

// answer is what has come of a fetch. It is the receiver's until done is closed.
type answer struct {
	block   *block
	columns map[columnKey]*column
	alive   chan struct{} // capacity 1: something came
	done    chan struct{}
}

type columnKey struct {
	kind kind
	name string
}

type column struct {
	compression Compression
	size        int
	first       int64
	bytes       []byte
	whole       bool
}

// selectOver asks an ingester for the parts and blocks of a request. Columns are fetched
// when they are asked for, so ctx must live until the blocks are released.
func selectOver(ctx context.Context, conn grpc.ClientConnInterface, addr string, c Compression, tenant model.Tenant, req *model.Request) (*model.Selection, error) {
	inner, cancel := context.WithCancel(ctx)
	s := &selection{addr: addr, ctx: inner, cancel: cancel, want: req.Columns, stats: req.Stats, ended: make(chan struct{})}
	s.mu.pending = map[int]*answer{}
	if s.stats == nil {
		s.stats = &model.Stats{}
	}
	var sel *model.Selection
	stream, err := conn.NewStream(inner, &selectDesc, selectMethod)
	if err == nil {
		s.stream = stream
		msg := rpc.RawMessage(appendSelectRequest(nil, tenant, req, c))
		if err = stream.SendMsg(&msg); err != nil {
			err = stream.RecvMsg(&msg) // the reason
		} else {
			sel, err = s.describe()
		}
	}
	if err != nil {
		cancel()
		return nil, failure(ctx, addr, err)
	}
	if s.mu.open == 0 {
		cancel()
		return sel, nil
	}
	go s.receive()
	return sel, nil
}

// describe reads parts and blocks.
func (s *selection) describe() (*model.Selection, error) {
	sel := &model.Selection{}
	var table []labelSet
	scratch := labels.NewScratchBuilder(8)
	for {
		var msg rpc.RawMessage
		if err := s.stream.RecvMsg(&msg); err != nil {
			return nil, err
		}
		f := rpc.Read(msg)
		for f.Next() {
			switch f.Num() {
			case 1:
				table = nil
				p, err := readPart(f.Bytes())
				if err != nil {
					return nil, err
				}
				sel.Parts = append(sel.Parts, p)
			case 2:
				for d := rpc.Unpack(f.Bytes()); d.Len() > 0 && f.Err() == nil; {
					l := d.Labels(&scratch)
					table = append(table, labelSet{l, l.Hash()})
					if d.Err() != nil {
						f.Fail(d.Err())
					}
				}
			case 3:
				head, err := readBlockHead(f.Bytes(), table)
				if err != nil || len(sel.Parts) == 0 || s.mu.open == maxBlocks {
					return nil, fmt.Errorf("block %d: %w", s.mu.open, errors.Join(err, f.Err()))
				}
				p := &sel.Parts[len(sel.Parts)-1]
				p.Blocks = append(p.Blocks, &block{sel: s, number: s.mu.open, head: head})
				s.mu.open++
			case 4:
				for d := rpc.Unpack(f.Bytes()); d.Len() > 0; {
					sel.Warnings = append(sel.Warnings, d.Text())
				}
				return sel, f.Err()
			case 7:
				if err := rpc.AddCounters(s.stats.Counters(), f.Bytes()); err != nil {
					return nil, err
				}
			}
		}
		if f.Err() != nil {
			return nil, f.Err()
		}
	}
}

func readPart(msg []byte) (p model.Part, err error) {
	f := rpc.Read(msg)
	for f.Next() {
		switch f.Num() {
		case 1:
			p.Segment = f.Text()
		case 2:
			p.MergedFrom = append(p.MergedFrom, f.Text())
		}
	}
	return p, f.Err()
}

// receive hands what comes in to whoever waits for it.
func (s *selection) receive() {
	defer close(s.ended)
	for {
		var msg rpc.RawMessage
		err := s.stream.RecvMsg(&msg)
		if err == nil {
			err = s.take(msg)
		}
		if err == nil {
			continue
		}
		s.cancel()
		s.mu.Lock()
		s.mu.err = err
		for _, a := range s.mu.pending {
			close(a.done)
		}
		s.mu.pending = nil
		s.mu.Unlock()
		return
	}
}

// take reads a frame.
func (s *selection) take(msg []byte) error {
	f := rpc.Read(msg)
	for f.Next() {
		switch f.Num() {
		case 5:
			if err := s.takeColumn(f.Bytes()); err != nil {
				return err
			}
		case 6:
			g := rpc.Read(f.Bytes())
			n := 0
			for g.Next() {
				if g.Num() == 1 {
					n = g.Count(maxBlocks)
				}
			}
			s.mu.Lock()
			if a := s.mu.pending[n]; a != nil {
				delete(s.mu.pending, n)
				close(a.done)
			}
			s.mu.Unlock()
		case 7:
			if err := rpc.AddCounters(s.stats.Counters(), f.Bytes()); err != nil {
				return err
			}
		}
	}
	return f.Err()
}

func (s *selection) takeColumn(msg []byte) error {
	var n, size int
	var key columnKey
	var c Compression
	var piece []byte
	var more bool
	var first int64
	f := rpc.Read(msg)
	for f.Next() {
		switch f.Num() {
		case 1:
			n = f.Count(maxBlocks)
		case 2:
			key.kind = kind(f.Count(int(kindMetadata)))
		case 3:
			key.name = f.Text()
		case 4:
			size = f.Count(maxBlockRaw)
		case 5:
			c = Compression(f.Count(int(Zstd)))
		case 6:
			piece = f.Bytes()
		case 7:
			more = f.Bool()
		case 8:
			first = f.Int()
		}
	}
	s.mu.Lock()
	a := s.mu.pending[n]
	s.mu.Unlock()
	if a == nil || f.Err() != nil {
		return f.Err() // whoever waited has gone
	}
	return a.add(key, c, size, first, piece, more)
}

// add puts a piece to its column. What a column may weigh is known before it comes.
func (a *answer) add(key columnKey, c Compression, size int, first int64, piece []byte, more bool) error {
	col := a.columns[key]
	if col == nil {
		col = &column{compression: c, size: size, first: first}
		a.columns[key] = col
	}
	if col.whole || len(col.bytes)+len(piece) > col.size || col.size > key.kind.maxRaw(a.block.head.rows, maxBlockRaw) {
		return fmt.Errorf("%s: %s of %d bytes for %d rows", a.block.Name(), key.kind, col.size, a.block.head.rows)
	}
	if col.bytes == nil && !more {
		col.bytes = piece // the frame is ours
	} else {
		col.bytes = append(col.bytes, piece...)
	}
	col.whole = !more
	select {
	case a.alive <- struct{}{}:
	default:
	}
	return nil
}

// fetch asks for columns of a block and waits for them.
func (s *selection) fetch(ctx context.Context, b *block, f *fetch) (map[columnKey]*column, error) {
	a := &answer{block: b, columns: map[columnKey]*column{}, alive: make(chan struct{}, 1), done: make(chan struct{})}
	s.mu.Lock()
	if err := s.mu.err; err != nil {
		s.mu.Unlock()
		return nil, failure(ctx, s.addr, err)
	}
	s.mu.pending[b.number] = a
	f.block, f.released = b.number, s.mu.released
	s.mu.released = nil
	s.mu.Unlock()
	msg := rpc.RawMessage(f.append(nil))
	s.send.Lock()
	_ = s.stream.SendMsg(&msg) // the receiver gets the reason of a failure
	s.send.Unlock()
	patience := time.NewTimer(answerWait)
	defer patience.Stop()
	for {
		select {
		case <-a.done:
			s.mu.Lock()
			err := s.mu.err
			s.mu.Unlock()
			if err != nil {
				return nil, failure(ctx, s.addr, err)
			}
			return a.columns, nil
		case <-a.alive:
			patience.Reset(answerWait)
			continue
		case <-patience.C:
			s.cancel()
			return nil, fault.Wrap(fault.Unavailable, &Lost{s.addr, fmt.Errorf("no answer within %s", answerWait)})
		case <-ctx.Done():
		}
		s.mu.Lock()
		if s.mu.pending[b.number] == a {
			delete(s.mu.pending, b.number)
		}
		s.mu.Unlock()
		return nil, context.Cause(ctx)
	}
}

// release notes that a block is done with; the server hears of it with the next fetch, or
// by the end of the call.
func (s *selection) release(number int) {
	s.mu.Lock()
	s.mu.released = append(s.mu.released, number)
	s.mu.open--
	last := s.mu.open == 0
	s.mu.Unlock()
	if last {
		s.cancel()
		<-s.ended
	}
}
