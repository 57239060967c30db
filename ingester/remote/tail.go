package remote

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/prometheus/prometheus/model/labels"
	"google.golang.org/grpc"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/rpc"
)

// # Tail on the wire
//
// The client sends a selectRequest, of which tenant and matchers count. The server
// answers with an empty frame when the subscription stands, and then with frames:
//
//	frame   1 stream*   packed: labels, number of entries, and of each entry the time
//	                    (zigzag, distance to the one before), line, metadata
//	        2 dropped*  packed: labels, time (zigzag)
//	        3 the number of entries dropped besides those named
//
// A reader that is slow fills the call's window; then the subscription's buffer, which is
// bounded, fills on the ingester, and what does not fit is dropped and reported.

var tailDesc = grpc.StreamDesc{StreamName: "Tail", ServerStreams: true}

// Tail subscribes to what the ingester acknowledges from now on, with the meaning of its
// own Tail. The subscription also ends with ctx.
func (c *Client) Tail(ctx context.Context, tenant model.Tenant, matchers []*labels.Matcher) (model.Tail, error) {
	if c.err != nil {
		return nil, &Lost{c.addr, c.err}
	}
	inner, cancel := context.WithCancel(ctx)
	t := &tail{addr: c.addr, ctx: ctx, cancel: cancel, batches: make(chan model.TailBatch), ended: make(chan struct{})}
	msg := rpc.RawMessage(appendSelectRequest(nil, tenant, &model.Request{Matchers: matchers}, None))
	var err error
	if t.stream, err = openStream(inner, c.conn, &tailDesc, tailMethod, msg); err == nil {
		err = t.stream.RecvMsg(&msg) // it stands
	}
	if err != nil {
		cancel()
		return nil, failure(ctx, c.addr, err)
	}
	go t.receive(inner)
	return t, nil
}

// tail is an open Tail call.
type tail struct {
	addr    string
	ctx     context.Context // the subscriber's
	cancel  context.CancelFunc
	stream  grpc.ClientStream
	batches chan model.TailBatch
	ended   chan struct{} // receive is gone, and err is set
	err     error
	once    sync.Once
}

// receive waits until a batch has been taken before it reads the next one.
func (t *tail) receive(ctx context.Context) {
	defer close(t.ended)
	for {
		var msg rpc.RawMessage
		if t.err = t.stream.RecvMsg(&msg); t.err != nil {
			return
		}
		var batch model.TailBatch
		if batch, t.err = readBatch(msg); t.err != nil {
			return
		}
		select {
		case t.batches <- batch:
		case <-ctx.Done():
			t.err = ctx.Err()
			return
		}
	}
}

// Next waits for entries.
func (t *tail) Next(ctx context.Context) (model.TailBatch, error) {
	select {
	case batch := <-t.batches:
		return batch, nil
	case <-t.ended:
		if errors.Is(t.err, io.EOF) {
			return model.TailBatch{}, fault.Wrap(fault.Unavailable, &Lost{t.addr, errors.New("the tail ended")})
		}
		return model.TailBatch{}, failure(t.ctx, t.addr, t.err)
	case <-ctx.Done():
		return model.TailBatch{}, ctx.Err()
	}
}

// Close ends the subscription, and waits until it has ended here.
func (t *tail) Close() {
	t.once.Do(t.cancel)
	<-t.ended
}

func appendBatch(b []byte, batch *model.TailBatch) []byte {
	for i := range batch.Streams {
		b = rpc.AppendElement(b, 1, appendTailStream(nil, &batch.Streams[i]))
	}
	for _, d := range batch.Dropped {
		b = rpc.AppendElement(b, 2, rpc.AppendVarint(rpc.AppendLabels(nil, d.Labels), d.Timestamp))
	}
	return rpc.AppendUint(b, 3, uint64(batch.DroppedMore))
}

func appendTailStream(b []byte, s *model.Stream) []byte {
	b = rpc.AppendLabels(b, s.Labels)
	b = binary.AppendUvarint(b, uint64(len(s.Entries)))
	last := int64(0)
	for i := range s.Entries {
		e := &s.Entries[i]
		b = rpc.AppendVarint(b, e.Timestamp-last)
		last = e.Timestamp
		b = rpc.AppendText(b, e.Line)
		b = rpc.AppendLabels(b, e.Metadata)
	}
	return b
}

// readBatch reads a frame; lines alias it.
func readBatch(msg []byte) (batch model.TailBatch, err error) {
	scratch := labels.NewScratchBuilder(8)
	f := rpc.Read(msg)
	for f.Next() {
		switch f.Num() {
		case 1:
			d := rpc.Unpack(f.Bytes())
			s := model.Stream{Labels: d.Labels(&scratch)}
			const least = 3 // bytes of an entry
			s.Entries = make([]model.Entry, d.Count(least))
			last := int64(0)
			for i := range s.Entries {
				last += d.Varint()
				s.Entries[i] = model.Entry{Timestamp: last, Line: d.Bytes(), Metadata: d.Labels(&scratch)}
			}
			if err := d.End(); err != nil {
				return batch, fmt.Errorf("stream of a tail: %w", err)
			}
			batch.Streams = append(batch.Streams, s)
		case 2:
			d := rpc.Unpack(f.Bytes())
			one := model.Dropped{Labels: d.Labels(&scratch), Timestamp: d.Varint()}
			if err := d.End(); err != nil {
				return batch, fmt.Errorf("dropped entry of a tail: %w", err)
			}
			batch.Dropped = append(batch.Dropped, one)
		case 3:
			batch.DroppedMore += f.Count(1 << 40)
		}
	}
	return batch, f.Err()
}

// serveTail answers a Tail call until the client goes.
func serveTail(h *readServer, stream grpc.ServerStream) error {
	req, free, err := h.request(stream, "tail", 0)
	if err != nil {
		return err
	}
	defer free()
	ctx := stream.Context()
	sub, err := h.Tail(ctx, req.tenant, req.Matchers)
	if err != nil {
		return err
	}
	defer sub.Close()
	if err := stream.SendMsg(&rpc.RawMessage{}); err != nil {
		return err
	}
	for {
		batch, err := sub.Next(ctx)
		if err != nil {
			return fault.Wrap(fault.Unavailable, err)
		}
		for rest := &batch; rest != nil; {
			var frame model.TailBatch
			frame, rest = cutBatch(rest)
			msg := rpc.RawMessage(appendBatch(nil, &frame))
			if err := stream.SendMsg(&msg); err != nil {
				return err
			}
		}
	}
}

// cutBatch takes about a frame from a batch; rest is nil when nothing is left.
func cutBatch(b *model.TailBatch) (frame model.TailBatch, rest *model.TailBatch) {
	size, n := 0, 0
	for ; n < len(b.Streams) && size < maxFrame; n++ {
		for i := range b.Streams[n].Entries {
			size += len(b.Streams[n].Entries[i].Line) + b.Streams[n].Entries[i].Metadata.Len()*16
		}
	}
	if n == len(b.Streams) {
		return *b, nil
	}
	return model.TailBatch{Streams: b.Streams[:n]}, &model.TailBatch{Streams: b.Streams[n:], Dropped: b.Dropped, DroppedMore: b.DroppedMore}
}
