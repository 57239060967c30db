package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// cluster is several servers that form one ring over one object store, each with an
// address of its own and the usual ports.
type cluster struct {
	t       testing.TB
	home    string
	args    []string
	fabric  *fabric // nil: loopback addresses
	network string  // first three bytes of the addresses
	members map[string]*member
	seeds   []string // addresses that everybody joins
}

// member is one of them.
type member struct {
	*server
	cluster *cluster
	id, ip  string
}

// newCluster makes a ring without members. join lists the numbers of those that are to be
// found by the others.
func newCluster(t testing.TB, f *fabric, join []int, args ...string) *cluster {
	c := &cluster{t: t, home: tempDir(t, "ring"), fabric: f, members: map[string]*member{}}
	c.network = fmt.Sprintf("127.%d.%d", 64+os.Getpid()%128, time.Now().UnixNano()/1000%250)
	if f != nil {
		c.network = f.network
	}
	for _, n := range join {
		c.seeds = append(c.seeds, fmt.Sprintf("%s.%d", c.network, n))
	}
	c.args = append(slices.Concat(roomy, []string{
		"-storage.url=file://" + filepath.Join(c.home, "store"), "-replication.factor=3",
		"-limits.max_entries_limit_per_query=10000000", "-querier.max-concurrent=4",
		"-memberlist.join=" + strings.Join(c.seeds, ","),
	}), args...)
	return c
}

// start starts member number n, whose id is prefix-n, and does not wait for it.
func (c *cluster) start(prefix string, n int, args ...string) *member {
	c.t.Helper()
	ip := fmt.Sprintf("%s.%d", c.network, n)
	m := &member{cluster: c, id: fmt.Sprintf("%s-%d", prefix, n), ip: ip}
	home := filepath.Join(c.home, m.id)
	if err := os.MkdirAll(home, 0o755); err != nil {
		c.t.Fatal(err)
	}
	m.server = &server{
		dir: filepath.Join(home, "data"), addr: ip + ":3100", url: "http://" + ip + ":3100", logPath: filepath.Join(home, "log"),
		client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 32, ResponseHeaderTimeout: 20 * time.Second}},
		args: slices.Concat(c.args, []string{
			"-grpc.listen=" + ip + ":9095", "-memberlist.bind=" + ip + ":7946", "-memberlist.advertise=" + ip + ":7946", "-ring.instance-id=" + m.id,
		}, args),
	}
	if c.fabric != nil {
		m.netns = c.fabric.namespace(ip)
	}
	c.t.Cleanup(m.client.CloseIdleConnections)
	watchLog(c.t, m.id, m.logPath)
	c.members[m.id] = m
	m.launch(c.t)
	return m
}

// ready waits until members say that they are.
func (c *cluster) ready(members ...*member) {
	c.t.Helper()
	for _, m := range members {
		if !m.becomesReady() {
			c.t.Fatalf("%s did not become ready: %v", m.id, m.err)
		}
	}
}

// states is the ring as a member sees it.
func (m *member) states() (map[string]string, error) {
	status, answer, err := m.do(http.MethodGet, "/ring", http.Header{"Accept": {"application/json"}}, nil)
	if err != nil || status != http.StatusOK {
		return nil, fmt.Errorf("/ring of %s: %d %s %w", m.id, status, answer, err)
	}
	var page struct {
		Shards []struct {
			ID, State string
			Lossy     bool
		}
	}
	if err := json.Unmarshal(answer, &page); err != nil {
		return nil, err
	}
	states := map[string]string{}
	for _, s := range page.Shards {
		if s.State != "LEFT" {
			states[s.ID] = s.State
		}
		if s.Lossy {
			states[s.ID] += ", copies lost"
		}
	}
	return states, nil
}

// sees waits until a member sees another in a state; "" is gone.
func (m *member) sees(id, state string) {
	m.t.Helper()
	eventually(m.t, fmt.Sprintf("%s sees %s as %q", m.id, id, state), func() bool {
		states, err := m.states()
		return err == nil && states[id] == state
	})
}

// allSee waits until members see each other, and nobody else, as active.
func (c *cluster) allSee(members ...*member) {
	c.t.Helper()
	for _, m := range members {
		eventually(c.t, m.id+" sees all as active", func() bool {
			states, err := m.states()
			if err != nil || len(states) != len(members) {
				return false
			}
			for _, o := range members {
				if states[o.id] != "ACTIVE" {
					return false
				}
			}
			return true
		})
	}
}

// lines reads back every line of a selector, in order of time, in pieces.
func (s *server) lines(selector string, from, through time.Time) ([]string, error) {
	var all []string
	const piece = 10 * time.Second
	for at := from; at.Before(through); at = at.Add(piece) {
		params := url.Values{
			"query": {selector}, "limit": {"1000000"}, "direction": {"forward"},
			"start": {strconv.FormatInt(at.UnixNano(), 10)}, "end": {strconv.FormatInt(at.Add(piece).UnixNano(), 10)},
		}
		status, answer, err := s.do(http.MethodGet, "/loki/api/v1/query_range?"+params.Encode(), nil, nil)
		if err != nil || status != http.StatusOK {
			return nil, fmt.Errorf("%s: %d %.300s %w", selector, status, answer, err)
		}
		var body struct {
			Data struct {
				Result []struct{ Values [][2]string }
			}
		}
		if err := json.Unmarshal(answer, &body); err != nil {
			return nil, err
		}
		for _, stream := range body.Data.Result {
			for _, v := range stream.Values {
				all = append(all, v[1])
			}
		}
	}
	return all, nil
}
