// Package remote is an ingester in another process, over gRPC. A Pool holds the
// connections, a Client has the ingester's verbs with their usual signatures, and Register
// serves them.
//
// The distributor and the querier call the Client; the process of the ingester calls
// Register. Both sides are here so that a message is described once. The package does not
// know the ingester itself, only its verbs, so that a caller of one needs no store.
//
// Errors keep their kind and text on the way. A call that fails for want of a connection,
// or of an answer in time, is fault.Unavailable or fault.Timeout and names the address.
//
// # Messages
//
// They are protobuf, encoded and decoded by hand. The service is skald.Ingester; Push is
// unary:
//
//	message PushRequest {
//	  string        tenant = 1;
//	  repeated Part parts  = 2;
//	}
//	message Part {                       // made once, sent to every replica
//	  uint64 compression = 1;            // of the payload: 0 none, 1 snappy, 2 zstd
//	  uint64 size        = 2;            // of the payload when unpacked
//	  bytes  payload     = 3;            // a Streams
//	}
//	message Streams { repeated Stream streams = 1; }
//	message Stream {
//	  Labels         labels  = 1;
//	  repeated Entry entries = 2;
//	}
//	message Labels { repeated Label labels = 1; }   // sorted by name, each name once
//	message Label {
//	  string name  = 1;
//	  string value = 2;
//	}
//	message Entry {                      // fields in this order
//	  sint64         time     = 1;       // ns since the entry before it in the stream (first: since 1970)
//	  bytes          line     = 2;
//	  repeated Label metadata = 3;       // sorted by name, each name once
//	}
//	message PushResponse {               // empty: everything is stored
//	  uint64 kind    = 1;                // fault.Kind, of the error
//	  string text    = 2;                // of the error
//	  bool   partial = 3;                // all streams but the refused ones are stored
//	  repeated uint64 refused = 4;       // packed; numbers of streams, counted through all parts
//	}
//
// Select, Series and Tail are streams; select_wire.go, columns.go, series.go and tail.go
// describe their messages.
package remote

import (
	"context"
	"flag"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"google.golang.org/grpc"

	"github.com/skaldlog/skald/internal/model"
)

const serviceName = "skald.Ingester"

// Ingester is what is served: the verbs of *ingester.Ingester.
type Ingester interface {
	Push(ctx context.Context, tenant model.Tenant, streams []model.Stream) error
	Reader
}

// ServerConfig bounds what the server takes on.
type ServerConfig struct {
	// MaxInflightBytes bounds the memory of all pushes that are being decoded and stored.
	// Beyond it pushes are refused with fault.Unavailable, and a push that alone needs more
	// with fault.TooLarge; 0 means no bound. Requests to read may take half as much besides.
	MaxInflightBytes int64
	// Overloaded returns why no push can be taken on now, or nil; nil means always.
	Overloaded func() error
}

// RegisterFlags declares the settings with their defaults.
func (c *ServerConfig) RegisterFlags(fs *flag.FlagSet) {
	fs.Int64Var(&c.MaxInflightBytes, "ingester.max-inflight-bytes", 256<<20, "Memory for all pushes that an ingester receives from distributors and has not stored yet. Beyond it they get 503 and go to other ingesters. Requests to read may take half as much besides.")
}

// server is the receiving side of the service.
type server struct {
	ingester Ingester
	cfg      ServerConfig
	push     *pushServer
}

// Register serves ing on s, whose codec must be rpc.Codec.
func Register(s grpc.ServiceRegistrar, ing Ingester, cfg ServerConfig, reg prometheus.Registerer) {
	srv := &server{ingester: ing, cfg: cfg, push: newPushServer(ing, cfg, reg)}
	reads := &readServer{Reader: ing, memory: readMemory{budget{most: cfg.MaxInflightBytes / 2}}}
	promauto.With(reg).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "skald_ingester_server_read_bytes", Help: "Memory of what queriers have sent for their open reads.",
	}, func() float64 { return float64(reads.memory.used.Load()) })
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: serviceName,
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Push", Handler: srv.push.handle}},
		Streams:     reads.streams(),
	}, srv)
}

// connectTimeout is how long one attempt to connect may take: within a data centre an
// address that does not answer by then is dead.
const connectTimeout = 2 * time.Second
