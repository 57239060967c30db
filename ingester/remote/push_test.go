package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/golang/snappy"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/gencache"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/rpc"
)

// differ says where two lists of streams differ first; "" when nowhere.
func differ(want, got []model.Stream) string {
	if len(want) != len(got) {
		return fmt.Sprintf("%d streams, want %d", len(got), len(want))
	}
	for i, w := range want {
		g := got[i]
		if !labels.Equal(w.Labels, g.Labels) || len(w.Entries) != len(g.Entries) {
			return fmt.Sprintf("stream %d: %s with %d entries, want %s with %d", i, g.Labels, len(g.Entries), w.Labels, len(w.Entries))
		}
		for j, e := range w.Entries {
			h := g.Entries[j]
			if e.Timestamp != h.Timestamp || !bytes.Equal(e.Line, h.Line) || !labels.Equal(e.Metadata, h.Metadata) {
				return fmt.Sprintf("entry %d of stream %d: %d %q %s, want %d %q %s", j, i, h.Timestamp, h.Line, h.Metadata, e.Timestamp, e.Line, e.Metadata)
			}
		}
	}
	return ""
}

// randomStreams makes streams with everything that labels, lines and metadata may hold.
func randomStreams(rng *rand.Rand, streams, entries int) []model.Stream {
	text := func(n int) string {
		b := make([]byte, rng.IntN(n+1))
		for i := range b {
			b[i] = byte(rng.IntN(256))
		}
		return string(b)
	}
	out := make([]model.Stream, streams)
	for i := range out {
		b := labels.NewBuilder(labels.FromStrings("stream", fmt.Sprint(i)))
		for k := range rng.IntN(5) {
			b.Set(fmt.Sprintf("label_%d", k), "v"+text(300))
		}
		out[i].Labels = b.Labels()
		for range rng.IntN(entries + 1) {
			e := model.Entry{Timestamp: int64(rng.Uint64()), Line: []byte(text(200))}
			switch rng.IntN(4) {
			case 0:
				e.Metadata = labels.FromStrings("detected_level", []string{"info", "warn"}[rng.IntN(2)])
			case 1:
				e.Metadata = labels.FromStrings("a", "x"+text(80), "trace_id", "y"+text(20))
			}
			out[i].Entries = append(out[i].Entries, e)
		}
	}
	return out
}

func decodeAll(tenant model.Tenant, parts ...*Part) (*pushDecoder, error) {
	msg, err := request(tenant, parts)
	if err != nil {
		return nil, err
	}
	var buf []byte
	for _, b := range msg {
		buf = append(buf, b.ReadOnlyData()...)
	}
	d := &pushDecoder{labels: gencache.New[string, labels.Labels](1 << 20), reserve: func(int64) error { return nil }}
	return d, d.request(buf)
}

func TestPartsComeOutAsTheyWentIn(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 200 {
		a, b := randomStreams(rng, rng.IntN(5), 20), randomStreams(rng, 1+rng.IntN(3), 5)
		c := Compression(round % 3)
		keep := round%2 == 0
		pa, pb := NewPart(a, c, keep), NewPart(b, c, keep)
		d, err := decodeAll("someone", pa, pb)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		want := append(append([]model.Stream{}, a...), b...)
		if diff := differ(want, d.streams); diff != "" || d.tenant != "someone" {
			t.Fatalf("round %d, tenant %s: %s", round, d.tenant, diff)
		}
		again, err := pa.Streams()
		if diff := differ(a, again); diff != "" || err != nil {
			t.Fatalf("round %d: streams of the part: %v %s", round, err, diff)
		}
		pa.Free()
		pb.Free()
	}
}

func TestPartSharesNoMemoryWithTheRequest(t *testing.T) {
	body := bytes.Repeat([]byte("a line "), 100)
	p := NewPart([]model.Stream{{Labels: labels.FromStrings("a", "b"), Entries: []model.Entry{{Line: body}}}}, Snappy, true)
	defer p.Free()
	clear(body)
	kept, _ := p.Streams()
	if got := kept[0].Entries[0].Line; !bytes.HasPrefix(got, []byte("a line a line")) {
		t.Errorf("the kept line follows the request: %q", got[:20])
	}
	d, err := decodeAll("t", p)
	if err != nil || !bytes.HasPrefix(d.streams[0].Entries[0].Line, []byte("a line a line")) {
		t.Errorf("the packed line follows the request, err %v", err)
	}
}

func TestMalformedPushesAreErrors(t *testing.T) {
	part := NewPart(randomStreams(rand.New(rand.NewPCG(3, 4)), 3, 40), Snappy, false)
	defer part.Free()
	msg, _ := request("t", []*Part{part})
	var good []byte
	for _, b := range msg {
		good = append(good, b.ReadOnlyData()...)
	}
	decode := func(b []byte) error {
		d := &pushDecoder{labels: gencache.New[string, labels.Labels](1 << 20), reserve: func(int64) error { return nil }}
		return d.request(b)
	}
	if err := decode(good); err != nil {
		t.Fatal(err)
	}
	for n := range good { // the first bytes hold the tenant
		if err := decode(good[:n]); fault.Of(err) != fault.Corrupt && n > 3 {
			t.Fatalf("cut to %d of %d bytes: %v", n, len(good), err)
		}
	}
	unsorted := []byte("\x0a\x01t\x12\x14\x08\x00\x1a\x10\x0a\x0e\x0a\x0c\x0a\x04\x0a\x01b\x12\x0a\x04\x0a\x01a\x12")
	if err := decode(unsorted); fault.Of(err) != fault.Corrupt {
		t.Errorf("labels out of order: %v", err)
	}
	if err := decode([]byte("\x0a\x02..")); fault.Of(err) != fault.Corrupt {
		t.Errorf("tenant ..: %v", err)
	}
}

// fakeIngester answers as it is told and remembers what it got.
type fakeIngester struct {
	Reader

	mu     sync.Mutex
	got    []model.Stream
	answer error
	wait   chan struct{}
}

func (f *fakeIngester) Push(ctx context.Context, _ model.Tenant, streams []model.Stream) error {
	if f.wait != nil {
		select {
		case <-f.wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.got = nil
	for _, s := range streams { // nothing may be kept
		c := model.Stream{Labels: s.Labels}
		for _, e := range s.Entries {
			c.Entries = append(c.Entries, model.Entry{Timestamp: e.Timestamp, Line: bytes.Clone(e.Line), Metadata: e.Metadata})
		}
		f.got = append(f.got, c)
	}
	return f.answer
}

// serverOptions are those of internal/server that matter here; by default gRPC takes the
// pool's pings for an attack.
func serverOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(rpc.Codec()),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	}
}

func serve(t testing.TB, ing Ingester, cfg ServerConfig, compression string) *Client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(append(serverOptions(), grpc.MaxRecvMsgSize(64<<20))...)
	Register(s, ing, cfg, prometheus.NewRegistry())
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	pool, err := NewPool(Config{Compression: compression, MaxMessageBytes: 1 << 20}, nil, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		pool.Close()
		s.Stop()
		<-done
	})
	return pool.Client(l.Addr().String())
}

type refusing struct {
	error
	streams []int
}

func (r refusing) RefusedStreams() []int { return r.streams }
func (r refusing) Unwrap() error         { return r.error }

func TestPushCrossesTheWire(t *testing.T) {
	ing := &fakeIngester{}
	streams := randomStreams(rand.New(rand.NewPCG(5, 6)), 20, 500)
	for _, compression := range []string{"none", "snappy", "zstd"} {
		c := serve(t, ing, ServerConfig{}, compression)
		for range 3 {
			if err := c.Push(context.Background(), "t", streams); err != nil {
				t.Fatal(compression, err)
			}
			if diff := differ(streams, ing.got); diff != "" {
				t.Fatalf("%s: %s", compression, diff)
			}
		}
	}
}

func TestErrorsCrossTheWire(t *testing.T) {
	ing := &fakeIngester{}
	c := serve(t, ing, ServerConfig{}, "snappy")
	streams := randomStreams(rand.New(rand.NewPCG(7, 8)), 3, 5)
	for _, kind := range []fault.Kind{fault.Internal, fault.Invalid, fault.TooLarge, fault.RateLimited, fault.Unavailable, fault.Timeout} {
		ing.answer = fault.New(kind, "because of %d", kind)
		err := c.Push(context.Background(), "t", streams)
		var p *PartialError
		if fault.Of(err) != kind || err.Error() != ing.answer.Error() || errors.As(err, &p) {
			t.Errorf("kind %d came as %d: %v", kind, fault.Of(err), err)
		}
	}
	ing.answer = refusing{fault.New(fault.RateLimited, "some are too many"), []int{0, 2}}
	err := c.Push(context.Background(), "t", streams)
	var p *PartialError
	if !errors.As(err, &p) || !cmp.Equal(p.Refused, []int{0, 2}) || fault.Of(err) != fault.RateLimited || err.Error() != "some are too many" {
		t.Errorf("refusals came as %v of %v", p, err)
	}
	ing.answer = refusing{fault.New(fault.RateLimited, "x"), []int{3}}
	if err := c.Push(context.Background(), "t", streams); err == nil || errors.As(err, &p) {
		t.Errorf("a stream that was not sent was refused: %v", err)
	}
}

func TestAddressesThatDoNotAnswer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	pool, err := NewPool(Config{Compression: "none"}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	streams := randomStreams(rand.New(rand.NewPCG(9, 9)), 1, 1)
	err = pool.Client(addr).Push(context.Background(), "t", streams)
	if fault.Of(err) != fault.Unavailable || !strings.Contains(err.Error(), addr) {
		t.Errorf("refused connection: kind %d, %v", fault.Of(err), err)
	}
	pool.Close()
	if err = pool.Client(addr).Push(context.Background(), "t", streams); fault.Of(err) != fault.Unavailable {
		t.Errorf("closed pool: %v", err)
	}
}

func TestServerBoundsMemory(t *testing.T) {
	ing := &fakeIngester{wait: make(chan struct{})}
	big := func(n int) []model.Stream {
		return []model.Stream{{Labels: labels.FromStrings("a", "b"), Entries: []model.Entry{{Line: make([]byte, n)}}}}
	}
	// More than a pooled decoder may hold, and less than two of it and the lines.
	c := serve(t, ing, ServerConfig{MaxInflightBytes: keptMemory + 20<<20}, "none")
	results := make(chan error, 4)
	for range 4 {
		go func() { results <- c.Push(context.Background(), "t", big(12<<20)) }()
	}
	for range 2 { // two of four at least find no room while others wait inside
		if err := <-results; fault.Of(err) != fault.Unavailable || !strings.Contains(err.Error(), "retry later") {
			t.Fatalf("no bound: %v", err)
		}
	}
	close(ing.wait)
	for range 2 {
		if err := <-results; err != nil && fault.Of(err) != fault.Unavailable {
			t.Error(err)
		}
	}
	if err := c.Push(context.Background(), "t", big(30<<20)); fault.Of(err) != fault.TooLarge {
		t.Errorf("a push over the bound: %v", err)
	}
}

func FuzzPushDecoder(f *testing.F) {
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range 6 {
		part := NewPart(randomStreams(rng, 2, 4), Compression(i%3), false)
		msg, _ := request("t", []*Part{part})
		var b []byte
		for _, p := range msg {
			b = append(b, p.ReadOnlyData()...)
		}
		f.Add(b)
	}
	cache := gencache.New[string, labels.Labels](1 << 20)
	f.Fuzz(func(t *testing.T, msg []byte) {
		taken := int64(0)
		d := &pushDecoder{labels: cache, reserve: func(n int64) error {
			if taken += n; taken > 4<<20 {
				return fault.New(fault.TooLarge, "too large")
			}
			return nil
		}}
		if d.request(msg) != nil {
			return
		}
		// What was understood survives another journey.
		part := NewPart(d.streams, None, false)
		defer part.Free()
		again, err := decodeAll(d.tenant, part)
		if err != nil {
			t.Fatal(err)
		}
		if diff := differ(d.streams, again.streams); diff != "" {
			t.Fatal(diff)
		}
	})
}

func FuzzPushResponse(f *testing.F) {
	f.Add([]byte(appendOutcome(nil, refusing{fault.New(fault.RateLimited, "x"), []int{1, 200}})), 300)
	f.Fuzz(func(t *testing.T, msg []byte, n int) { _ = outcome(msg, n) })
}

func BenchmarkPush(b *testing.B) {
	var streams []model.Stream
	size := 0
	for i := range 20 {
		s := model.Stream{Labels: labels.FromStrings("app", fmt.Sprintf("service-%d", i), "namespace", "production", "pod", "pod-abcdef-12345")}
		for j := range 250 {
			line := fmt.Appendf(nil, `level=info ts=2026-01-15T12:%02d:%02d.%09dZ caller=server.go:%d msg="request served" method=GET path=/api/v1/items/%d status=200 duration=%dms`, i, j%60, j*7919, j, j*31, j%97)
			size += len(line)
			s.Entries = append(s.Entries, model.Entry{Timestamp: int64(i)*1e9 + int64(j)*1e6, Line: line, Metadata: labels.FromStrings("detected_level", "info")})
		}
		streams = append(streams, s)
	}
	for _, c := range []Compression{None, Snappy, Zstd} {
		name := [...]string{"none", "snappy", "zstd"}[c]
		b.Run("encode/"+name, func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				p := NewPart(streams, c, false)
				b.ReportMetric(float64(p.payload.Len())/float64(size), "wire/raw")
				p.Free()
			}
		})
		b.Run("decode/"+name, func(b *testing.B) {
			p := NewPart(streams, c, false)
			msg, _ := request("t", []*Part{p})
			var buf []byte
			for _, m := range msg {
				buf = append(buf, m.ReadOnlyData()...)
			}
			cache := gencache.New[string, labels.Labels](1 << 20)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				d := pushDecoders.Get().(*pushDecoder)
				d.labels, d.reserve = cache, func(int64) error { return nil }
				if err := d.request(buf); err != nil {
					b.Fatal(err)
				}
				d.release()
			}
		})
	}
}

// TestArrivalHoldsTheLines is what the write-ahead log relies on.
func TestArrivalHoldsTheLines(t *testing.T) {
	streams := randomStreams(rand.New(rand.NewPCG(11, 12)), 3, 50)
	inside := func(a model.Arrival, streams []model.Stream) bool {
		text, err := snappy.Decode(nil, a.Packed)
		if err != nil || !bytes.Equal(text, a.Text) {
			t.Errorf("the block does not unpack to the text: %v", err)
			return false
		}
		from := uintptr(unsafe.Pointer(unsafe.SliceData(a.Text)))
		for _, s := range streams {
			for _, e := range s.Entries {
				at := uintptr(unsafe.Pointer(unsafe.SliceData(e.Line)))
				if len(e.Line) > 0 && (at < from || at+uintptr(len(e.Line)) > from+uintptr(len(a.Text))) {
					return false
				}
			}
		}
		return true
	}
	kept := NewPart(streams, Snappy, true)
	defer kept.Free()
	own, _ := kept.Streams()
	if !inside(kept.Arrival(), own) {
		t.Error("a kept line lies outside the text")
	}
	d, err := decodeAll("t", kept)
	if err != nil || !inside(d.arrival(), d.streams) {
		t.Errorf("a decoded line lies outside the text, err %v", err)
	}
	for _, parts := range [][]*Part{{kept, kept}, {NewPart(streams, Zstd, true)}, {NewPart(streams, None, true)}} {
		if d, err := decodeAll("t", parts...); err != nil || len(d.arrival().Packed) > 0 || len(parts[len(parts)-1].Arrival().Packed) > 0 && len(parts) == 1 {
			t.Errorf("an arrival that is none, err %v", err)
		}
	}
}
