package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/agent/syslog"
)

// syslogSource listens for syslog messages. TCP senders are made to wait while there is no
// room; what arrives by UDP then is dropped by the kernel when its buffer is full. Syslog has
// no acknowledgements: what is in memory when the process is killed is lost.
type syslogSource struct {
	job     *job
	feeds   []*feed
	metrics *metrics
	rt      *engine
	ln      net.Listener   // TCP
	pc      net.PacketConn // UDP
	conns   atomic.Int64
}

// maxSyslogConns bounds the connections of one listener.
const maxSyslogConns = 4096

func newSyslogSource(rt *engine, j *job, feeds []*feed) (*syslogSource, error) {
	s := &syslogSource{job: j, feeds: feeds, metrics: rt.agent.metrics, rt: rt}
	c := j.Syslog
	conf, err := syslogTLS(c.TLS)
	if err != nil {
		return nil, err
	}
	if c.ListenProtocol == "udp" {
		if s.pc, err = net.ListenPacket("udp", c.ListenAddress); err != nil {
			return nil, fmt.Errorf("syslog: listen_address: %w", err)
		}
		return s, nil
	}
	if s.ln, err = net.Listen("tcp", c.ListenAddress); err != nil {
		return nil, fmt.Errorf("syslog: listen_address: %w", err)
	}
	if conf != nil {
		s.ln = tls.NewListener(s.ln, conf)
	}
	return s, nil
}

func (s *syslogSource) addr() string {
	if s.pc != nil {
		return s.pc.LocalAddr().String()
	}
	return s.ln.Addr().String()
}

func (s *syslogSource) info() sourceInfo {
	return sourceInfo{
		Job: s.job.JobName, Type: "Syslog", Ready: true, Labels: labels.FromMap(s.job.Syslog.Labels).String(),
		Where: fmt.Sprintf("%s %s, %d connections", s.job.Syslog.ListenProtocol, s.addr(), s.conns.Load()),
	}
}

func (s *syslogSource) close() error {
	if s.pc != nil {
		return s.pc.Close()
	}
	return s.ln.Close()
}

func (s *syslogSource) run(ctx context.Context) {
	unblock := context.AfterFunc(ctx, func() { _ = s.close() })
	defer unblock()
	if s.pc != nil {
		s.runUDP(ctx)
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := s.ln.Accept()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			s.rt.log.Warn("a syslog connection could not be taken", "job", s.job.JobName, "err", err)
			if !pause(ctx, 100*time.Millisecond) { // too many descriptors, most likely
				return
			}
			continue
		}
		if s.conns.Load() >= maxSyslogConns {
			s.bad("connections", "too many syslog connections", c.RemoteAddr(), fmt.Errorf("at most %d", maxSyslogConns))
			_ = c.Close() // nothing was read
			continue
		}
		s.conns.Add(1)
		wg.Go(func() {
			defer s.conns.Add(-1)
			s.serve(ctx, c)
		})
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// maxGather is how many messages are given to the stages together at most.
const maxGather = 256

// serve reads one connection.
func (s *syslogSource) serve(ctx context.Context, c net.Conn) {
	defer c.Close()
	unblock := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer unblock()
	r := &idleReader{conn: c, timeout: s.job.Syslog.IdleTimeout, ctx: ctx}
	f := syslog.NewFramer(r, s.job.Syslog.MaxMessageLength)
	p := s.parser(c.RemoteAddr())
	for {
		msg, err := f.Next()
		switch {
		case errors.Is(err, syslog.ErrTooLong):
			s.bad("too_long", "a syslog message was dropped", c.RemoteAddr(), err)
			continue
		case err == nil:
			p.add(msg)
		}
		// What has come together goes on together.
		if len(p.entries) > 0 && (err != nil || f.Buffered() == 0 || len(p.entries) >= maxGather) {
			if !p.give(ctx) {
				return
			}
		}
		if err != nil {
			var timeout net.Error
			if !errors.Is(err, io.EOF) && ctx.Err() == nil && !(errors.As(err, &timeout) && timeout.Timeout()) {
				s.bad("unreadable", "a syslog connection ended", c.RemoteAddr(), err)
			}
			return
		}
	}
}

// idleReader ends a connection that says nothing for long.
type idleReader struct {
	conn    net.Conn
	timeout time.Duration
	ctx     context.Context //nolint:containedctx // an io.Reader has no other place for it
}

func (r *idleReader) Read(p []byte) (int, error) {
	if r.timeout > 0 {
		if err := r.conn.SetReadDeadline(time.Now().Add(r.timeout)); err != nil {
			return 0, err
		}
	}
	if r.ctx.Err() != nil {
		return 0, io.EOF
	}
	return r.conn.Read(p)
}

func (s *syslogSource) runUDP(ctx context.Context) {
	buf := make([]byte, 64<<10)
	parsers := map[string]*syslogParser{}
	for {
		n, from, err := s.pc.ReadFrom(buf)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			s.bad("unreadable", "a syslog datagram could not be read", from, err)
			if !pause(ctx, 10*time.Millisecond) {
				return
			}
			continue
		}
		msg := syslog.TrimEnd(buf[:n])
		if len(msg) > s.job.Syslog.MaxMessageLength {
			s.bad("too_long", "a syslog message was dropped", from, syslog.ErrTooLong)
			continue
		}
		host, _, _ := net.SplitHostPort(from.String())
		p := parsers[host]
		if p == nil {
			if len(parsers) >= maxSyslogConns {
				clear(parsers)
			}
			p = s.parser(from)
			parsers[host] = p
		}
		p.add(msg)
		if len(p.entries) > 0 && !p.give(ctx) {
			return
		}
	}
}

// bad counts what could not be read, and says so.
func (s *syslogSource) bad(reason, what string, from net.Addr, err error) {
	s.metrics.errors.WithLabelValues("syslog", reason).Inc()
	s.rt.log.Warn(what, "job", s.job.JobName, "from", from, "err", err)
}

// syslogParser makes entries of the messages of one sender.
type syslogParser struct {
	s       *syslogSource
	from    net.Addr
	base    labels.Labels
	msg     syslog.Message
	entries []entry
}

func (s *syslogSource) parser(from net.Addr) *syslogParser {
	b := labels.NewBuilder(labels.FromMap(s.job.Syslog.Labels))
	host, _, err := net.SplitHostPort(from.String())
	if err != nil {
		host = from.String()
	}
	b.Set("__syslog_connection_ip_address", host)
	b.Set("__syslog_connection_hostname", reverseName(host))
	return &syslogParser{s: s, from: from, base: b.Labels()}
}

// reverseName is the name of an address, "" when it has none or nobody tells in time.
func reverseName(ip string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	names, err := net.DefaultResolver.LookupAddr(ctx, ip)
	if err != nil || len(names) == 0 {
		return ""
	}
	return strings.TrimSuffix(names[0], ".")
}

// add parses a message, which is valid during the call.
func (p *syslogParser) add(raw []byte) {
	c := p.s.job.Syslog
	now := time.Now()
	parse := syslog.Parse5424
	if c.Format == "rfc3164" {
		parse = func(b []byte, m *syslog.Message) error { return syslog.Parse3164(b, now, m) }
	}
	m := &p.msg
	if err := parse(raw, m); err != nil {
		p.s.bad("unreadable", "a syslog message was dropped", p.from, err)
		return
	}
	if len(m.Text) == 0 {
		p.s.metrics.errors.WithLabelValues("syslog", "empty").Inc()
		return
	}
	b := labels.NewBuilder(p.base)
	set := func(name string, v []byte) {
		if len(v) > 0 {
			b.Set(name, string(v))
		}
	}
	b.Set("__syslog_message_severity", m.SeverityName())
	b.Set("__syslog_message_facility", m.FacilityName())
	set("__syslog_message_hostname", m.Hostname)
	set("__syslog_message_app_name", m.AppName)
	set("__syslog_message_proc_id", m.ProcID)
	set("__syslog_message_msg_id", m.MsgID)
	if c.LabelStructuredData {
		for _, e := range m.Structured {
			id := strings.ReplaceAll(string(e.ID), "@", "_")
			for _, prm := range e.Params {
				set("__syslog_message_sd_"+id+"_"+string(prm.Name), prm.Value)
			}
		}
	}
	ls, ok := relabelEntry(b, p.s.job.Relabel, nil)
	if !ok {
		return
	}
	ts := now
	if c.UseIncomingTimestamp && !m.Time.IsZero() {
		ts = m.Time
	}
	line := m.Text
	if c.UseRFC5424Message && c.Format == "rfc5424" {
		line = raw
	}
	p.s.metrics.entries.WithLabelValues("syslog").Inc()
	p.entries = append(p.entries, entry{labels: ls, ts: ts.UnixNano(), line: append([]byte(nil), line...)})
}

// give hands the gathered entries on; false when the source is to end.
func (p *syslogParser) give(ctx context.Context) bool {
	ok := give(ctx, p.s.feeds, p.entries, nothing{})
	clear(p.entries)
	p.entries = p.entries[:0]
	return ok
}
