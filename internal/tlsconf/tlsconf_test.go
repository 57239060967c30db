package tlsconf

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/skaldlog/skald/internal/testkit/certs"
)

// handshake connects two configurations over a pipe, and returns the client's error and the
// server's.
func handshake(client, server *tls.Config) (clientErr, serverErr error) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	done := make(chan error, 1)
	go func() {
		s := tls.Server(b, server)
		err := s.Handshake()
		if err == nil {
			_, err = io.WriteString(s, "x")
		}
		done <- err
		b.Close()
	}()
	c := tls.Client(a, client)
	clientErr = c.Handshake()
	if clientErr == nil {
		// A refused client certificate shows only at the first read.
		_, clientErr = io.ReadFull(c, make([]byte, 1))
	}
	a.Close()
	return clientErr, <-done
}

func TestMembersKnowEachOther(t *testing.T) {
	ours, other := certs.New(t), certs.New(t)
	cert, key := ours.Issue(t, "skald")
	server, err := (&Server{Cert: cert, Key: key, ClientCA: ours.File}).Config("h2")
	if err != nil {
		t.Fatal(err)
	}
	member := func(m Member) *tls.Config {
		cfg, err := m.Config()
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	strangerCert, strangerKey := other.Issue(t, "skald")
	for name, tc := range map[string]struct {
		client *tls.Config
		ok     bool
	}{
		"member":                      {member(Member{Cert: cert, Key: key, CA: ours.File, ServerName: "skald"}), true},
		"the server has another name": {member(Member{Cert: cert, Key: key, CA: ours.File, ServerName: "other"}), false},
		"another authority":           {member(Member{Cert: cert, Key: key, CA: other.File, ServerName: "skald"}), false},
		"a stranger's certificate":    {member(Member{Cert: strangerCert, Key: strangerKey, CA: ours.File, ServerName: "skald"}), false},
		"no certificate":              {member(Member{CA: ours.File, ServerName: "skald"}), false},
	} {
		clientErr, serverErr := handshake(tc.client, server)
		if got := clientErr == nil && serverErr == nil; got != tc.ok {
			t.Errorf("%s: client %v, server %v; want success %v", name, clientErr, serverErr, tc.ok)
		}
	}
}

func TestOnlyMembersConnect(t *testing.T) {
	ca := certs.New(t)
	cert, key := ca.Issue(t, "skald")
	m := Member{Cert: cert, Key: key, CA: ca.File, ServerName: "skald"}
	listen, err := m.ListenConfig()
	if err != nil {
		t.Fatal(err)
	}
	for name, ok := range map[string]bool{"skald": true, "node-7": false} {
		cert, key := ca.Issue(t, name)
		client, err := (&Member{Cert: cert, Key: key, CA: ca.File, ServerName: "skald"}).Config()
		if err != nil {
			t.Fatal(err)
		}
		if name == "skald" { // issuing it again replaced the listener's files
			if listen, err = m.ListenConfig(); err != nil {
				t.Fatal(err)
			}
		}
		if _, serverErr := handshake(client, listen); (serverErr == nil) != ok {
			t.Errorf("a certificate of %s: %v", name, serverErr)
		}
	}
}

func TestNewCertificatesAreTaken(t *testing.T) {
	ours, other := certs.New(t), certs.New(t)
	cert, key := ours.Issue(t, "skald")
	pair := &watched[*tls.Certificate]{files: []string{cert, key}, read: func() (*tls.Certificate, error) { return loadPair(cert, key) }}
	first, err := pair.get()
	if err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(time.Hour)
	look := func() *tls.Certificate {
		pair.mu.looked = time.Time{}
		got, err := pair.get()
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if err := errors.Join(os.WriteFile(cert, []byte("half a fi"), 0o600), os.Chtimes(cert, later, later)); err != nil {
		t.Fatal(err)
	}
	if look() != first {
		t.Error("a certificate that cannot be read replaced a good one")
	}
	newCert, newKey := other.Issue(t, "skald")
	if err := errors.Join(os.Rename(newCert, cert), os.Rename(newKey, key)); err != nil {
		t.Fatal(err)
	}
	if got := look(); got == first {
		t.Error("the renewed certificate was not taken")
	}
}

func TestWrongFiles(t *testing.T) {
	ca := certs.New(t)
	cert, key := ca.Issue(t, "skald")
	for want, c := range map[string]Server{
		"belong together":      {Cert: cert},
		"cert-file":            {Cert: cert, Key: "nowhere"},
		"client-ca-file":       {Cert: cert, Key: key, ClientCA: "nowhere"},
		"no certificate in PE": {Cert: cert, Key: key, ClientCA: key},
	} {
		if _, err := c.Config(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", c, err, want)
		}
	}
	for want, m := range map[string]Member{
		"server-name are needed": {CA: ca.File},
		"belong together":        {CA: ca.File, ServerName: "x", Cert: cert},
	} {
		if _, err := m.Config(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", m, err, want)
		}
	}
}
