// Package tlsconf makes TLS configurations from files, for servers (HTTP, gRPC) and for the
// members of a ring that call each other. Certificates and authorities are read again when
// their files change, so that renewing them needs no restart.
package tlsconf

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"
	"time"
)

// Server are the files of a listener.
type Server struct {
	Cert, Key string
	// ClientCA makes the listener ask for a client certificate that this authority signed.
	ClientCA string
	// ClientOptional lets clients without a certificate in; one that is sent must be right.
	ClientOptional bool
	prefix         string
}

// RegisterFlags declares -PREFIX.tls.*.
func (c *Server) RegisterFlags(fs *flag.FlagSet, prefix string) {
	c.prefix = "-" + prefix + ".tls"
	fs.StringVar(&c.Cert, prefix+".tls.cert-file", "", "PEM `file` with the certificate chain of the listener; turns TLS on. It is read again when it changes")
	fs.StringVar(&c.Key, prefix+".tls.key-file", "", "PEM `file` with the certificate's private key")
	fs.StringVar(&c.ClientCA, prefix+".tls.client-ca-file", "", "PEM `file` with the authorities of client certificates; clients then need one")
	fs.BoolVar(&c.ClientOptional, prefix+".tls.client-optional", false, "let clients without a certificate in; one that is sent must still be valid")
}

// Enabled reports whether the listener speaks TLS.
func (c *Server) Enabled() bool { return c.Cert != "" || c.Key != "" || c.ClientCA != "" }

// Config builds the configuration, or nil without TLS. protocols are what ALPN offers.
func (c *Server) Config(protocols ...string) (*tls.Config, error) {
	if !c.Enabled() {
		return nil, nil
	}
	if c.Cert == "" || c.Key == "" {
		return nil, fmt.Errorf("%s: cert-file and key-file belong together", c.prefix)
	}
	pair := &watched[*tls.Certificate]{files: []string{c.Cert, c.Key}, read: func() (*tls.Certificate, error) { return loadPair(c.Cert, c.Key) }}
	if _, err := pair.get(); err != nil {
		return nil, fmt.Errorf("%s.cert-file: %w", c.prefix, err)
	}
	base := &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: protocols,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return pair.get() },
	}
	if c.ClientCA == "" {
		return base, nil
	}
	pool := &watched[*x509.CertPool]{files: []string{c.ClientCA}, read: func() (*x509.CertPool, error) { return loadPool(c.ClientCA) }}
	if _, err := pool.get(); err != nil {
		return nil, fmt.Errorf("%s.client-ca-file: %w", c.prefix, err)
	}
	base.ClientAuth = tls.RequireAndVerifyClientCert
	if c.ClientOptional {
		base.ClientAuth = tls.VerifyClientCertIfGiven
	}
	outer := base.Clone()
	outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		cas, err := pool.get()
		if err != nil {
			return nil, err
		}
		inner := base.Clone()
		inner.ClientCAs = cas
		return inner, nil
	}
	return outer, nil
}

// Member is the TLS of calls between members of a ring: what this process shows, and whom
// it believes.
type Member struct {
	Cert, Key, CA, ServerName string
}

// RegisterFlags declares -cluster.tls.*.
func (c *Member) RegisterFlags(fs *flag.FlagSet) {
	fs.StringVar(&c.CA, "cluster.tls.ca-file", "", "PEM `file` with the authorities that other members' certificates must come from; turns on TLS for gossip and for gRPC between members")
	fs.StringVar(&c.Cert, "cluster.tls.cert-file", "", "PEM `file` with the certificate that this process shows to other members")
	fs.StringVar(&c.Key, "cluster.tls.key-file", "", "PEM `file` with that certificate's private key")
	fs.StringVar(&c.ServerName, "cluster.tls.server-name", "", "`name` that every member's certificate carries, since members call each other by address")
}

// Enabled reports whether members speak TLS to each other.
func (c *Member) Enabled() bool { return c.CA != "" || c.Cert != "" || c.Key != "" }

// Config builds the configuration of a client, or nil without TLS.
func (c *Member) Config() (*tls.Config, error) {
	if !c.Enabled() {
		return nil, nil
	}
	if c.CA == "" || c.ServerName == "" || (c.Cert == "") != (c.Key == "") {
		return nil, errors.New("-cluster.tls: ca-file and server-name are needed, and cert-file and key-file belong together")
	}
	pool := &watched[*x509.CertPool]{files: []string{c.CA}, read: func() (*x509.CertPool, error) { return loadPool(c.CA) }}
	if _, err := pool.get(); err != nil {
		return nil, fmt.Errorf("-cluster.tls.ca-file: %w", err)
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.ServerName}
	// The authorities may change while the process runs, so the chain is verified here with
	// those of the moment; the default check would keep the first ones for ever.
	cfg.InsecureSkipVerify = true
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		roots, err := pool.get()
		if err != nil {
			return err
		}
		opts := x509.VerifyOptions{Roots: roots, DNSName: c.ServerName, Intermediates: x509.NewCertPool()}
		for _, cert := range state.PeerCertificates[1:] {
			opts.Intermediates.AddCert(cert)
		}
		_, err = state.PeerCertificates[0].Verify(opts)
		return err
	}
	if c.Cert != "" {
		pair := &watched[*tls.Certificate]{files: []string{c.Cert, c.Key}, read: func() (*tls.Certificate, error) { return loadPair(c.Cert, c.Key) }}
		if _, err := pair.get(); err != nil {
			return nil, fmt.Errorf("-cluster.tls.cert-file: %w", err)
		}
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair.get() }
		cfg.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return pair.get() }
	}
	return cfg, nil
}

// ListenConfig builds the configuration of a listener that only members may connect to.
func (c *Member) ListenConfig() (*tls.Config, error) {
	if c.Cert == "" {
		return nil, errors.New("-cluster.tls.cert-file is needed, since members connect to this process too")
	}
	own := Server{Cert: c.Cert, Key: c.Key, ClientCA: c.CA, prefix: "-cluster.tls"}
	cfg, err := own.Config()
	if err != nil {
		return nil, err
	}
	checked := cfg.GetConfigForClient
	cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		inner, err := checked(hello)
		if err != nil {
			return nil, err
		}
		inner.VerifyConnection = func(state tls.ConnectionState) error {
			return state.PeerCertificates[0].VerifyHostname(c.ServerName)
		}
		return inner, nil
	}
	return cfg, nil
}

func loadPair(cert, key string) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	return &pair, err
}

func loadPool(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate in PEM form", file)
	}
	return pool, nil
}

// recheck is how old a look at the files' times may be.
const recheck = 10 * time.Second

// watched is a value read from files. When a changed file cannot be used, for example in
// the middle of being replaced, the last good value stays.
type watched[T any] struct {
	files []string
	read  func() (T, error)
	mu    struct {
		sync.Mutex
		value  T
		good   bool
		looked time.Time
		times  []time.Time
	}
}

func (w *watched[T]) get() (T, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if w.mu.good && now.Sub(w.mu.looked) < recheck {
		return w.mu.value, nil
	}
	w.mu.looked = now
	times, same := make([]time.Time, len(w.files)), w.mu.good
	for i, name := range w.files {
		if info, err := os.Stat(name); err == nil {
			times[i] = info.ModTime()
		}
		same = same && times[i].Equal(w.mu.times[i])
	}
	if same {
		return w.mu.value, nil
	}
	value, err := w.read()
	if err != nil {
		if w.mu.good {
			return w.mu.value, nil
		}
		return value, err
	}
	w.mu.value, w.mu.good, w.mu.times = value, true, times
	return value, nil
}
