package gossiptls

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/skaldlog/skald/internal/testkit/certs"
	"github.com/skaldlog/skald/internal/tlsconf"
)

func newTransport(t *testing.T, ca *certs.Authority, name string) *Transport {
	t.Helper()
	cert, key := ca.Issue(t, name)
	server, err := (&tlsconf.Server{Cert: cert, Key: key, ClientCA: ca.File}).Config()
	if err != nil {
		t.Fatal(err)
	}
	client, err := (&tlsconf.Member{Cert: cert, Key: key, CA: ca.File, ServerName: "skald"}).Config()
	if err != nil {
		t.Fatal(err)
	}
	tr, err := New(Config{Listen: "127.0.0.1:0", Server: server, Client: client, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tr.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	return tr
}

func (t *Transport) addr() string { return t.listener.Addr().String() }

func TestPacketsAndStreamsArrive(t *testing.T) {
	ca := certs.New(t)
	a, b := newTransport(t, ca, "skald"), newTransport(t, ca, "skald")
	big := bytes.Repeat([]byte("x"), maxPacket)
	for _, packet := range [][]byte{[]byte("ping"), {}, big} {
		if _, err := a.WriteTo(packet, b.addr()); err != nil {
			t.Fatal(err)
		}
		if got := <-b.PacketCh(); !bytes.Equal(got.Buf, packet) {
			t.Errorf("got a packet of %d bytes, want %d", len(got.Buf), len(packet))
		}
	}
	conn, err := a.DialTimeout(b.addr(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	other := <-b.StreamCh()
	defer other.Close()
	go func() { _, _ = io.WriteString(conn, "hello") }()
	got := make([]byte, 5)
	if _, err := io.ReadFull(other, got); err != nil || string(got) != "hello" {
		t.Errorf("the stream carried %q, %v", got, err)
	}
}

func TestStrangersAreRefused(t *testing.T) {
	ca := certs.New(t)
	tr := newTransport(t, ca, "skald")
	stranger := newTransport(t, certs.New(t), "skald")
	if _, err := stranger.DialTimeout(tr.addr(), 5*time.Second); err == nil {
		t.Error("a server of another authority was believed")
	}
	// One that believes anybody, and shows nothing.
	conn, err := tls.Dial("tcp", tr.addr(), &tls.Config{InsecureSkipVerify: true})
	if err == nil {
		defer conn.Close()
		_, _ = conn.Write([]byte{kindPacket, 0, 0, 0, 1, 'x'})
		if _, err = conn.Read(make([]byte, 1)); err == nil {
			t.Error("a client without a certificate was let in")
		}
	}
	plain, err := net.Dial("tcp", tr.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	_, _ = plain.Write([]byte("p\x00\x00\x00\x01x"))
	_, _ = io.ReadAll(plain) // until it is closed
	select {
	case p := <-tr.PacketCh():
		t.Errorf("a stranger's packet came through: %q", p.Buf)
	default:
	}
}

func TestTooLargePacketsEndTheConnection(t *testing.T) {
	ca := certs.New(t)
	a, b := newTransport(t, ca, "skald"), newTransport(t, ca, "skald")
	conn, err := a.dial(b.addr(), 5*time.Second, kindPacket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte{0xff, 0xff, 0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is still open")
	}
}

// TestAPeerAwayCostsNothing: packets to nobody are dropped, and Shutdown does not wait.
func TestAPeerAwayCostsNothing(t *testing.T) {
	tr := newTransport(t, certs.New(t), "skald")
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts, never answers
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 3 * queuedPackets {
		if _, err := tr.WriteTo([]byte("x"), l.Addr().String()); err != nil {
			t.Fatal(err)
		}
	}
	if tr.Dropped() < queuedPackets {
		t.Errorf("%d packets dropped, want at least %d", tr.Dropped(), queuedPackets)
	}
}

func TestMemberlistOverIt(t *testing.T) {
	ca := certs.New(t)
	var lists []*memberlist.Memberlist
	for i := range 3 {
		tr := newTransport(t, ca, "skald")
		cfg := memberlist.DefaultLocalConfig()
		cfg.Name, cfg.Transport, cfg.LogOutput = fmt.Sprint("node-", i), tr, io.Discard
		cfg.AdvertiseAddr, cfg.AdvertisePort = "127.0.0.1", tr.Port()
		list, err := memberlist.Create(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = list.Shutdown() }()
		lists = append(lists, list)
	}
	first := lists[0].LocalNode().Address()
	for _, list := range lists[1:] {
		if _, err := list.Join([]string{first}); err != nil {
			t.Fatal(err)
		}
	}
	for _, list := range lists {
		for list.NumMembers() != 3 {
			time.Sleep(5 * time.Millisecond)
		}
	}
}
