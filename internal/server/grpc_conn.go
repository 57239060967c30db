package server

import (
	"io"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/gzip"

	"github.com/skaldlog/skald/internal/fault"
)

const (
	// connectTimeout is how long a client may take until its connection can carry calls.
	connectTimeout = 10 * time.Second
	// maxHeaders bounds the headers of a call; gRPC's own bound is 16 MB.
	maxHeaders = 64 << 10
	// connectionWindow costs nothing: gRPC gives it back as bytes come.
	connectionWindow = 8 << 20
)

// doorman lets connections in. It is part of the handshake, since there gRPC hands out the
// connection, and asks for the one that it will read.
type doorman struct {
	credentials.TransportCredentials
	conns    *connections
	incoming *receiving
}

// ServerHandshake counts a connection and what comes over it.
func (d *doorman) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, ok := d.conns.admit(raw)
	if !ok {
		_ = raw.Close()
		return nil, nil, fault.New(fault.Unavailable, "too many connections")
	}
	conn, info, err := d.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		_ = c.Close()
		return nil, nil, err
	}
	c.Conn = conn
	return &countedConn{connection: c, incoming: d.incoming}, info, nil
}

// Clone returns a copy for a server of its own.
func (d *doorman) Clone() credentials.TransportCredentials {
	return &doorman{d.TransportCredentials.Clone(), d.conns, d.incoming}
}

// countedConn is a connection that knows how much has come over it.
type countedConn struct {
	*connection
	incoming *receiving
	read     atomic.Int64
	count    uint64 // in which it was seen last; guarded by incoming.mu
}

// Read reads.
func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.connection.Read(p)
	c.read.Add(int64(n))
	c.incoming.came(n)
	return n, err
}

// RemoteAddr is the client's address, and leads from a call to its connection.
func (c *countedConn) RemoteAddr() net.Addr { return countedAddr{c.connection.RemoteAddr(), c} }

type countedAddr struct {
	net.Addr
	conn *countedConn
}

// Messages may come compressed. One of a hundred kilobytes may become the largest there may be,
// so they are unpacked one at a time.
func init() {
	encoding.RegisterCompressor(oneByOne{encoding.GetCompressor(gzip.Name), make(chan struct{}, 1)})
}

type oneByOne struct {
	encoding.Compressor
	place chan struct{}
}

// unpackPatience is how long a message waits to be unpacked.
const unpackPatience = 10 * time.Second

// Decompress unpacks; gRPC closes what it returns.
func (o oneByOne) Decompress(packed io.Reader) (io.Reader, error) {
	select {
	case o.place <- struct{}{}:
	case <-time.After(unpackPatience):
		return nil, fault.New(fault.Unavailable, "too many compressed messages wait to be unpacked")
	}
	r, err := o.Compressor.Decompress(packed)
	if err != nil {
		<-o.place
		return nil, err
	}
	return &unpacking{r, o.place}, nil
}

type unpacking struct {
	io.Reader
	place chan struct{}
}

// Close lets the next one begin.
func (u *unpacking) Close() error {
	<-u.place
	return nil
}
