package remote

import (
	"context"
	"encoding/binary"
	"errors"
	"io"

	"github.com/prometheus/prometheus/model/labels"
	"google.golang.org/grpc"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/rpc"
)

// # Series on the wire
//
// The client sends a selectRequest; the server sends frames:
//
//	frame   1 series   packed: labels, entries, bytes, blocks, first, last (zigzag) of each
//	        7 stats    as in Select

const (
	selectMethod = "/" + serviceName + "/Select"
	seriesMethod = "/" + serviceName + "/Series"
	tailMethod   = "/" + serviceName + "/Tail"
)

var seriesDesc = grpc.StreamDesc{StreamName: "Series", ServerStreams: true}

// Select asks the ingester for what it holds, with the meaning of the ingester's own
// Select. Columns are fetched over the same call when they are asked for, so ctx must live
// until the blocks are released.
func (c *Client) Select(ctx context.Context, tenant model.Tenant, req *model.Request) (*model.Selection, error) {
	if c.err != nil {
		return nil, &Lost{c.addr, c.err}
	}
	return selectOver(ctx, c.conn, c.addr, c.compression, tenant, req)
}

// Series describes the ingester's streams, with the meaning of its own Series.
func (c *Client) Series(ctx context.Context, tenant model.Tenant, req *model.Request) ([]model.Series, error) {
	if c.err != nil {
		return nil, &Lost{c.addr, c.err}
	}
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	msg := rpc.RawMessage(appendSelectRequest(nil, tenant, req, c.compression))
	stream, err := openStream(inner, c.conn, &seriesDesc, seriesMethod, msg)
	if err != nil {
		return nil, failure(ctx, c.addr, err)
	}
	var out []model.Series
	stats := req.Stats
	if stats == nil {
		stats = &model.Stats{}
	}
	for {
		var msg rpc.RawMessage
		switch err := stream.RecvMsg(&msg); {
		case errors.Is(err, io.EOF):
			return out, nil
		case err != nil:
			return nil, failure(ctx, c.addr, err)
		}
		if out, err = readSeries(msg, out, stats); err != nil {
			return nil, failure(ctx, c.addr, err)
		}
	}
}

// openStream begins a call with one message from here.
func openStream(ctx context.Context, conn grpc.ClientConnInterface, desc *grpc.StreamDesc, method string, msg rpc.RawMessage) (grpc.ClientStream, error) {
	stream, err := conn.NewStream(ctx, desc, method)
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(&msg); err != nil {
		return nil, stream.RecvMsg(&msg) // the reason
	}
	return stream, stream.CloseSend()
}

func appendOneSeries(b []byte, s *model.Series) []byte {
	b = rpc.AppendLabels(b, s.Labels)
	b = binary.AppendUvarint(b, uint64(s.Entries))
	b = binary.AppendUvarint(b, uint64(s.Bytes))
	b = binary.AppendUvarint(b, uint64(s.Blocks))
	return rpc.AppendVarint(rpc.AppendVarint(b, s.First), s.Last)
}

func readSeries(msg []byte, out []model.Series, stats *model.Stats) ([]model.Series, error) {
	scratch := labels.NewScratchBuilder(8)
	f := rpc.Read(msg)
	for f.Next() {
		switch f.Num() {
		case 1:
			for d := rpc.Unpack(f.Bytes()); d.Len() > 0; {
				s := model.Series{Labels: d.Labels(&scratch)}
				s.Entries, s.Bytes, s.Blocks = int64(d.Uvarint()), int64(d.Uvarint()), int64(d.Uvarint())
				s.First, s.Last = d.Varint(), d.Varint()
				if d.Err() != nil {
					return nil, d.Err()
				}
				out = append(out, s)
			}
		case 7:
			if err := rpc.AddCounters(stats.Counters(), f.Bytes()); err != nil {
				return nil, err
			}
		}
	}
	return out, f.Err()
}

// serveSeries answers a Series call.
func serveSeries(h *readServer, stream grpc.ServerStream) error {
	req, free, err := h.request(stream, "series", 0)
	if err != nil {
		return err
	}
	defer free()
	var stats model.Stats
	req.Stats = &stats
	list, err := h.Series(stream.Context(), req.tenant, &req.Request)
	if err != nil {
		return err
	}
	out := frames{stream: stream}
	for len(list) > 0 {
		var packed []byte
		for len(list) > 0 && len(packed) < maxFrame {
			packed = appendOneSeries(packed, &list[0])
			list = list[1:]
		}
		if err := out.write(true, func(b []byte) []byte { return rpc.AppendString(b, 1, packed) }); err != nil {
			return err
		}
	}
	return out.write(true, func(b []byte) []byte { return rpc.AppendString(b, 7, rpc.AppendCounters(nil, stats.Counters(), true)) })
}
