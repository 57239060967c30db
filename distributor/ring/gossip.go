package ring

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/hashicorp/memberlist"
)

// broadcast is an entry on its way; a newer one of the same ID takes its place.
type broadcast struct {
	id  string
	msg []byte
}

func (b broadcast) Invalidates(other memberlist.Broadcast) bool {
	o, ok := other.(broadcast)
	return ok && o.id == b.id
}

func (b broadcast) Name() string { return b.id }

func (b broadcast) Message() []byte { return b.msg }

func (b broadcast) Finished() {}

// delegate is what the library calls for our part of the gossip.
type delegate Members

func (d *delegate) NodeMeta(int) []byte { return nil }

func (d *delegate) NotifyMsg(b []byte) { (*Members)(d).receive(b, true) }

func (d *delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.queue.GetBroadcasts(overhead, limit)
}

func (d *delegate) LocalState(bool) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := make([]Instance, 0, len(d.mu.state))
	for _, in := range d.mu.state {
		list = append(list, in)
	}
	return appendState(nil, list)
}

// MergeRemoteState takes in all that another process knows. What is news here may be news
// elsewhere, unless we have just come and everything is.
func (d *delegate) MergeRemoteState(b []byte, join bool) { (*Members)(d).receive(b, !join) }

func (m *Members) receive(b []byte, spread bool) {
	list, err := parseState(b)
	if err != nil {
		m.metrics.invalid.Inc()
		m.logger.Warn("gossip that makes no sense", "bytes", len(b), "err", err)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	changed := false
	for _, in := range list {
		changed = m.take(in, spread) || changed
	}
	if changed {
		m.refresh()
	}
}

// events hears from the library whose gossip answers.
type events Members

func (e *events) NotifyJoin(n *memberlist.Node) { (*Members)(e).answers(n, true) }

func (e *events) NotifyLeave(n *memberlist.Node) { (*Members)(e).answers(n, false) }

func (e *events) NotifyUpdate(n *memberlist.Node) {}

func (m *Members) answers(n *memberlist.Node, yes bool) {
	i := strings.LastIndexByte(n.Name, '~')
	var process uint64
	if _, err := fmt.Sscanf(n.Name[i+1:], "%x", &process); err != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if yes {
		m.nodes.Add(1)
		delete(m.mu.dead, process)
	} else {
		m.nodes.Add(-1)
		m.mu.dead[process] = true
	}
	m.refresh()
}

// libraryLog passes the library's log on: lines like "[WARN] memberlist: …".
type libraryLog struct{ logger *slog.Logger }

func (l libraryLog) Write(b []byte) (int, error) {
	line := strings.TrimSpace(string(b))
	level := slog.LevelDebug
	for text, as := range map[string]slog.Level{"[WARN] ": slog.LevelInfo, "[ERR] ": slog.LevelWarn, "[ERROR] ": slog.LevelWarn} {
		if _, rest, ok := strings.Cut(line, text); ok {
			line, level = rest, as
		}
	}
	l.logger.Log(context.Background(), level, "gossip", "text", line)
	return len(b), nil
}
