package remote

import (
	"context"
	"encoding/binary"
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/prometheus/model/labels"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/gencache"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/rpc"
)

// Entries come here from the distributor's Replicator, encoded once for all replicas, and
// go on to the ingester of the receiving process. What Push acknowledged is durable there.

// PartialError says that some streams of a push were refused while all others are stored.
// Its text and kind are the ingester's.
type PartialError struct {
	// Refused numbers the streams, counted through all of the push, in rising order.
	Refused []int
	cause   error
}

func (e *PartialError) Error() string { return e.cause.Error() }

// Unwrap returns the ingester's error.
func (e *PartialError) Unwrap() error { return e.cause }

// RefusedStreams is Refused.
func (e *PartialError) RefusedStreams() []int { return e.Refused }

// partial is an error that knows which streams of a push were refused while all others
// are stored; both the ingester's and PartialError are.
type partial interface{ RefusedStreams() []int }

// Push stores streams on the ingester, with the meaning of the ingester's own Push.
func (c *Client) Push(ctx context.Context, tenant model.Tenant, streams []model.Stream) error {
	part := NewPart(streams, c.compression, false)
	defer part.Free()
	return c.PushParts(ctx, tenant, []*Part{part})
}

// PushParts is Push for streams that are encoded already. The parts must live until it
// returns.
func (c *Client) PushParts(ctx context.Context, tenant model.Tenant, parts []*Part) error {
	msg, err := request(tenant, parts)
	if err != nil {
		return err
	}
	var res rpc.RawMessage
	if err := c.invoke(ctx, "Push", &msg, &res); err != nil {
		return err
	}
	n := 0
	for _, p := range parts {
		n += p.Len()
	}
	return outcome(res, n)
}

type pushServer struct {
	ingester Ingester
	cfg      ServerConfig
	labels   *gencache.Cache[string, labels.Labels]
	inflight budget
	refused  *prometheus.CounterVec
}

// labelCacheBytes bounds the label sets that the server remembers.
const labelCacheBytes = 32 << 20

func newPushServer(ing Ingester, cfg ServerConfig, reg prometheus.Registerer) *pushServer {
	s := &pushServer{ingester: ing, cfg: cfg, labels: gencache.New[string, labels.Labels](labelCacheBytes), inflight: budget{most: cfg.MaxInflightBytes}}
	f := promauto.With(reg)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "skald_ingester_server_inflight_bytes", Help: "Memory of pushes from distributors that are being stored.",
	}, func() float64 { return float64(s.inflight.used.Load()) })
	s.refused = f.NewCounterVec(prometheus.CounterOpts{
		Name: "skald_ingester_server_refused_pushes_total", Help: "Pushes from distributors that were not passed to the ingester, by reason.",
	}, []string{"reason"})
	return s
}

func (s *pushServer) handle(_ any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
	var msg rpc.Pooled
	defer msg.Free()
	if err := decode(&msg); err != nil {
		return nil, err
	}
	call := func(ctx context.Context, _ any) (any, error) {
		res := appendOutcome(nil, s.push(ctx, msg.Bytes()))
		return &res, nil
	}
	if intercept == nil {
		return call(ctx, &msg)
	}
	return intercept(ctx, &msg, &grpc.UnaryServerInfo{Server: s, FullMethod: "/" + serviceName + "/Push"}, call)
}

func (s *pushServer) push(ctx context.Context, msg []byte) error {
	if s.cfg.Overloaded != nil {
		if err := s.cfg.Overloaded(); err != nil {
			s.refused.WithLabelValues("overload").Inc()
			return err
		}
	}
	taken := int64(0)
	defer func() { s.inflight.give(taken) }()
	d := pushDecoders.Get().(*pushDecoder)
	defer d.release()
	d.labels = s.labels
	d.reserve = func(n int64) error {
		most := s.cfg.MaxInflightBytes
		if most > 0 && taken+n > most {
			s.refused.WithLabelValues("size").Inc()
			return fault.New(fault.TooLarge, "push needs %d bytes of memory, more than the %d that all pushes may take on an ingester", taken+n, most)
		}
		if used, ok := s.inflight.take(n); !ok {
			s.refused.WithLabelValues("memory").Inc()
			return fault.New(fault.Unavailable, "ingester has %d bytes of pushes in work, at most %d are allowed, retry later", used, most)
		}
		taken += n
		return nil
	}
	if err := d.reserve(int64(len(msg)) + d.memory()); err != nil {
		return err
	}
	if err := d.request(msg); err != nil {
		if fault.Of(err) == fault.Corrupt {
			s.refused.WithLabelValues("malformed").Inc()
		}
		return err
	}
	if a := d.arrival(); len(a.Packed) > 0 {
		ctx = model.WithArrival(ctx, a)
	}
	return s.ingester.Push(ctx, d.tenant, d.streams)
}

// appendOutcome encodes the result of a push as a PushResponse.
func appendOutcome(dst rpc.RawMessage, err error) rpc.RawMessage {
	if err == nil {
		return dst
	}
	out := protowire.AppendVarint(protowire.AppendTag(dst, 1, protowire.VarintType), uint64(fault.Of(err)))
	out = protowire.AppendString(protowire.AppendTag(out, 2, protowire.BytesType), err.Error())
	var p partial
	if !errors.As(err, &p) {
		return out
	}
	out = protowire.AppendVarint(protowire.AppendTag(out, 3, protowire.VarintType), 1)
	var packed []byte
	for _, i := range p.RefusedStreams() {
		packed = binary.AppendUvarint(packed, uint64(i))
	}
	return protowire.AppendBytes(protowire.AppendTag(out, 4, protowire.BytesType), packed)
}

// outcome decodes a PushResponse for a push of n streams.
func outcome(msg []byte, n int) error {
	if len(msg) == 0 {
		return nil
	}
	var kind uint64
	var text string
	var some bool
	refused := []int{}
	f := fields{buf: msg}
	for f.next() {
		switch {
		case f.is(1, protowire.VarintType):
			kind = f.n
		case f.is(2, protowire.BytesType):
			text = string(f.value)
		case f.is(3, protowire.VarintType):
			some = f.n != 0
		case f.is(4, protowire.BytesType):
			for b := f.value; len(b) > 0; {
				i, size := uvarint(b)
				if size < 0 || i >= uint64(n) {
					return errors.New("answer of an ingester names a stream that was not sent")
				}
				b = b[size:]
				refused = append(refused, int(i))
			}
		}
	}
	if f.err != nil {
		return fault.New(fault.Internal, "malformed answer of an ingester: %w", f.err)
	}
	if kind > uint64(fault.Corrupt) {
		return fault.New(fault.Internal, "ingester answered with an unknown kind of error, %d: %s", kind, text)
	}
	err := fault.New(fault.Kind(kind), "%s", text)
	if some {
		return &PartialError{Refused: refused, cause: err}
	}
	return err
}
