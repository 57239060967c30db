package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/prometheus/prometheus/model/labels"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/skaldlog/skald/internal/cores"
	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/rpc"
)

// Reader is the reading verbs of an ingester.
type Reader interface {
	Select(ctx context.Context, tenant model.Tenant, req *model.Request) (*model.Selection, error)
	Series(ctx context.Context, tenant model.Tenant, req *model.Request) ([]model.Series, error)
	Tail(ctx context.Context, tenant model.Tenant, matchers []*labels.Matcher) (model.Tail, error)
}

// readServer answers the calls that read.
type readServer struct {
	Reader
	memory readMemory
}

// streams are the calls.
func (h *readServer) streams() []grpc.StreamDesc {
	serve := func(f func(*readServer, grpc.ServerStream) error) grpc.StreamHandler {
		return func(_ any, stream grpc.ServerStream) error { return rpc.Status(f(h, stream)) }
	}
	return []grpc.StreamDesc{
		{StreamName: "Select", Handler: serve(serveSelect), ServerStreams: true, ClientStreams: true},
		{StreamName: "Series", Handler: serve(serveSeries), ServerStreams: true},
		{StreamName: "Tail", Handler: serve(serveTail), ServerStreams: true},
	}
}

// request receives the request of a call, which holds more besides. The caller must call free
// when the call ends.
func (h *readServer) request(stream grpc.ServerStream, verb string, more int64) (req *selectRequest, free func(), err error) {
	var msg rpc.RawMessage
	if err := stream.RecvMsg(&msg); err != nil {
		return nil, nil, err
	}
	n := more + memoryOf(msg, 4, 5)
	if err := h.memory.take(n); err != nil {
		return nil, nil, err
	}
	if req, err = readSelectRequest(msg); err != nil {
		h.memory.give(n)
		return nil, nil, fault.New(fault.Invalid, "%s: %w", verb, err)
	}
	return req, func() { h.memory.give(n) }, nil
}

// frames gathers the fields of frames and sends them when there is enough.
type frames struct {
	stream grpc.ServerStream
	mu     struct {
		sync.Mutex
		buf []byte
	}
}

// write appends fields, and sends the frame when it is large enough or has to go. Fields
// that are given together stand together.
func (f *frames) write(now bool, fields func(b []byte) []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.buf = fields(f.mu.buf)
	if len(f.mu.buf) < maxFrame && !now {
		return nil
	}
	msg := rpc.RawMessage(f.mu.buf)
	f.mu.buf = nil // it is gRPC's now
	return f.stream.SendMsg(&msg)
}

// selectServer answers one Select call.
type selectServer struct {
	frames
	memory *readMemory
	req    *selectRequest
	stats  model.Stats
	blocks []*served
}

// served is a block on offer.
type served struct {
	mu struct {
		sync.Mutex
		block model.Block // nil when it has been released
	}
	kept []span
	rows int
}

// serveSelect describes what the holder has for the request, and then sends the columns
// that the client fetches, several blocks at a time, until the client has done.
func serveSelect(h *readServer, stream grpc.ServerStream) error {
	req, free, err := h.request(stream, "select", selectMemory)
	if err != nil {
		return err
	}
	defer free()
	ctx := stream.Context()
	s := &selectServer{frames: frames{stream: stream}, memory: &h.memory, req: req}
	inner := req.Request
	// Columns are read when they are fetched, one by one.
	inner.Columns, inner.Stats = model.Columns{}, &s.stats
	sel, err := h.Select(ctx, req.tenant, &inner)
	if err != nil {
		return err
	}
	defer s.release()
	if err := s.describe(ctx, sel); err != nil {
		return err
	}
	return s.serve(ctx)
}

// serve starts the work on each fetch, until the client closes its side of the stream or
// something fails. When it returns, no work is left.
func (s *selectServer) serve(ctx context.Context) error {
	messages := make(chan fetchMessage)
	end := make(chan error, 1)
	go func() { // ends with the stream at the latest
		for {
			var m fetchMessage
			err := s.stream.RecvMsg(&m.msg)
			if err == nil {
				m.memory = memoryOf(m.msg, 5)
				err = s.memory.take(m.memory)
			}
			if err != nil {
				end <- err
				return
			}
			select {
			case messages <- m:
			case <-ctx.Done():
				s.memory.give(m.memory)
				return
			}
		}
	}()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(cores.Count())
	err := s.dispatch(gctx, g, messages, end)
	if failed := g.Wait(); failed != nil {
		return failed
	}
	return err
}

// fetchMessage is a fetch as it came, with what was taken for it.
type fetchMessage struct {
	msg    rpc.RawMessage
	memory int64
}

func (s *selectServer) dispatch(ctx context.Context, g *errgroup.Group, messages <-chan fetchMessage, end <-chan error) error {
	for {
		select {
		case m := <-messages:
			if err := s.begin(ctx, g, m); err != nil {
				return err
			}
		case err := <-end:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// begin starts the work on a fetch, once there is a place for it.
func (s *selectServer) begin(ctx context.Context, g *errgroup.Group, m fetchMessage) error {
	f, err := readFetch(m.msg)
	if err == nil && f.asks() && f.block >= len(s.blocks) {
		err = fmt.Errorf("block %d of %d", f.block, len(s.blocks))
	}
	if err != nil {
		s.memory.give(m.memory)
		return fault.New(fault.Invalid, "fetch: %w", err)
	}
	for _, n := range f.released {
		if n < len(s.blocks) {
			s.blocks[n].release()
		}
	}
	if !f.asks() {
		s.memory.give(m.memory)
		return nil
	}
	g.Go(func() error {
		defer s.memory.give(m.memory)
		return s.answer(ctx, f)
	})
	return nil
}

func (s *selectServer) release() {
	for _, b := range s.blocks {
		b.release()
	}
}

func (b *served) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.block != nil {
		b.mu.block.Release()
		b.mu.block = nil
	}
}

// describe sends parts and blocks. It takes the blocks over.
func (s *selectServer) describe(ctx context.Context, sel *model.Selection) error {
	parts := sel.Parts
	sel.Parts = nil
	first := make([]int, len(parts)+1)
	for i := range parts {
		for _, b := range parts[i].Blocks {
			one := &served{}
			one.mu.block = b
			s.blocks = append(s.blocks, one)
		}
		first[i+1] = len(s.blocks)
	}
	// Only now are all blocks certain to be released.
	left := s.blocks[:0:0]
	for i := range parts {
		kept, err := s.describePart(ctx, &parts[i], s.blocks[first[i]:first[i+1]])
		if err != nil {
			return err
		}
		left = append(left, kept...)
	}
	s.blocks = left
	return s.write(true, func(b []byte) []byte {
		var warnings []byte
		for _, w := range sel.Warnings {
			warnings = rpc.AppendText(warnings, w)
		}
		b = rpc.AppendString(b, 7, rpc.AppendCounters(nil, s.stats.Counters(), true))
		return rpc.AppendElement(b, 4, warnings)
	})
}

// describePart sends a part with those of its blocks that have rows of the request, and
// returns these.
func (s *selectServer) describePart(ctx context.Context, p *model.Part, blocks []*served) ([]*served, error) {
	err := s.write(false, func(b []byte) []byte {
		head := rpc.AppendString(nil, 1, p.Segment)
		for _, id := range p.MergedFrom {
			head = rpc.AppendElement(head, 2, id)
		}
		return rpc.AppendElement(b, 1, head)
	})
	table := map[uint64][]tableEntry{}
	sets := 0
	var left []*served
	for _, one := range blocks {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, err
		}
		block := one.mu.block
		head, err := s.keep(ctx, one, block)
		if err != nil {
			return nil, err
		}
		if head.rows == 0 {
			one.release()
			continue
		}
		left = append(left, one)
		var fresh []byte
		head.table = make([]int, len(head.runs))
		for i, run := range head.runs {
			n, known := findSet(table[run.Hash], run.Labels)
			if !known {
				n, sets = sets, sets+1
				table[run.Hash] = append(table[run.Hash], tableEntry{run.Labels, n})
				fresh = rpc.AppendLabels(fresh, run.Labels)
			}
			head.table[i] = n
		}
		if err = s.write(false, func(b []byte) []byte {
			b = rpc.AppendString(b, 2, fresh)
			return rpc.AppendElement(b, 3, head.append(nil))
		}); err != nil {
			return nil, err
		}
	}
	return left, err
}

type tableEntry struct {
	labels labels.Labels
	number int
}

func findSet(same []tableEntry, l labels.Labels) (int, bool) {
	for _, e := range same {
		if labels.Equal(e.labels, l) {
			return e.number, true
		}
	}
	return 0, false
}

// answer sends the columns of one fetch.
func (s *selectServer) answer(ctx context.Context, f *fetch) error {
	one := s.blocks[f.block]
	one.mu.Lock()
	defer one.mu.Unlock()
	block := one.mu.block
	if block == nil {
		return fault.New(fault.Invalid, "fetch of block %d, which was released", f.block)
	}
	if f.columns&wantTimes != 0 {
		times, err := block.Times(ctx)
		if err != nil {
			return err
		}
		first, _ := block.Bounds()
		if err := s.column(f.block, kindTimes, "", appendTimes(nil, times, one.kept, first), first); err != nil {
			return err
		}
	}
	if f.columns&wantHashes != 0 {
		hashes, err := block.Hashes(ctx)
		if err != nil {
			return err
		}
		if err := s.column(f.block, kindHashes, "", appendHashes(nil, hashes, one.kept), 0); err != nil {
			return err
		}
	}
	for _, name := range f.metadata {
		c, err := block.Metadata(ctx, name)
		if err != nil {
			return err
		}
		if err := s.column(f.block, kindMetadata, name, appendMetadata(nil, c, one.kept), 0); err != nil {
			return err
		}
	}
	if f.columns&(wantLengths|wantLines) != 0 {
		if err := s.text(ctx, f, one, block); err != nil {
			return err
		}
	}
	return s.write(true, func(b []byte) []byte {
		b = rpc.AppendString(b, 7, rpc.AppendCounters(nil, s.stats.Counters(), true))
		return rpc.AppendElement(b, 6, rpc.AppendUint(nil, 1, uint64(f.block)))
	})
}

// text sends lengths and lines.
func (s *selectServer) text(ctx context.Context, f *fetch, one *served, block model.Block) error {
	offsets, err := block.Offsets(ctx)
	if err != nil {
		return err
	}
	if f.columns&wantLengths != 0 {
		if err := s.column(f.block, kindLengths, "", appendLengths(nil, offsets, one.kept), 0); err != nil {
			return err
		}
	}
	if f.columns&wantLines == 0 {
		return nil
	}
	lines, err := block.Lines(ctx)
	if err != nil {
		return err
	}
	wanted, err := s.wanted(ctx, f, one, block, lines, offsets)
	if err != nil {
		return err
	}
	return s.column(f.block, kindLines, "", appendLines(nil, lines, offsets, one.kept, wanted), 0)
}

// wanted marks the rows whose lines the query can want; nil means all.
func (s *selectServer) wanted(ctx context.Context, f *fetch, one *served, block model.Block, lines []byte, offsets []uint32) (model.Bitmap, error) {
	test, err := newRowTest(ctx, s.req.Needles, block)
	if err != nil || test == nil && f.dead == nil {
		return nil, err
	}
	if f.dead != nil && len(f.dead) != (one.rows+63)/64 {
		return nil, fault.New(fault.Invalid, "a bitmap of %d words for %d rows", len(f.dead), one.rows)
	}
	wanted := model.NewBitmap(one.rows)
	n := 0
	for _, sp := range one.kept {
		for row := sp.start; row < sp.end; row++ {
			if !f.dead.Has(n) && (test == nil || test.passes(row, lines[offsets[row]:offsets[row+1]])) {
				wanted.Set(n)
			}
			if n++; n%4096 == 0 && ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
	}
	return wanted, nil
}

// column sends an encoded column in pieces.
func (s *selectServer) column(block int, k kind, name string, raw []byte, first int64) error {
	c := s.req.compression
	if k == kindHashes {
		c = None
	}
	c, packed := packColumn(raw, c)
	for {
		piece := packed[:min(len(packed), maxFrame)]
		packed = packed[len(piece):]
		err := s.write(false, func(b []byte) []byte {
			head := rpc.AppendUint(nil, 1, uint64(block))
			head = rpc.AppendUint(head, 2, uint64(k))
			head = rpc.AppendString(head, 3, name)
			head = rpc.AppendUint(head, 4, uint64(len(raw)))
			head = rpc.AppendUint(head, 5, uint64(c))
			head = rpc.AppendBool(head, 7, len(packed) > 0)
			head = rpc.AppendInt(head, 8, first)
			head = rpc.AppendString(head, 6, piece)
			return rpc.AppendElement(b, 5, head)
		})
		if err != nil || len(packed) == 0 {
			return err
		}
	}
}
