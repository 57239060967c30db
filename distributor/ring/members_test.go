package ring

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// expect waits until a member sees what is wanted, as "id STATE", and fails after limit.
func expect(t *testing.T, m *member, limit time.Duration, want ...string) {
	t.Helper()
	var got []string
	for end := time.Now().Add(limit); ; time.Sleep(100 * time.Millisecond) {
		got = nil
		for _, in := range m.View().instances {
			got = append(got, in.ID+" "+in.Health())
		}
		if slices.Equal(got, want) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s after %s: got %q, want %q", m.Self().ID, limit, got, want)
		}
	}
}

// soon is time for news that missed an instance by chance, and for a probe that began late:
// a few heartbeats.
const soon = 45 * time.Second

const seed = "10.0.0.1:7946"

func TestLifeOfAnInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		dir := t.TempDir()
		kept := func(c *Config, _ *Instance) { c.Dir = dir }
		a := n.start(t, "a", "10.0.0.1", seed)
		b := n.start(t, "b", "10.0.0.2", seed)
		c := n.start(t, "c", "10.0.0.3", seed, kept)
		for _, m := range []*member{a, b, c} {
			expect(t, m, soon, "a ACTIVE", "b ACTIVE", "c ACTIVE")
		}
		if got := a.View().Get("c"); got.Addr != "10.0.0.3:9095" || got.HTTP != "10.0.0.3:3100" || len(got.Tokens) != 16 {
			t.Errorf("a sees c as %+v", got)
		}
		tokens := a.View().Get("c").Tokens

		// Stays while nothing happens.
		time.Sleep(time.Second) // what is on its way arrives
		changed := a.Changed()
		time.Sleep(10 * time.Minute)
		expect(t, a, 0, "a ACTIVE", "b ACTIVE", "c ACTIVE")
		select {
		case <-changed:
			t.Error("the view changed while nothing happened")
		default:
		}

		// Leaves, with everything in the object store.
		if err := c.SetState(Leaving); err != nil {
			t.Fatal(err)
		}
		expect(t, a, soon, "a ACTIVE", "b ACTIVE", "c LEAVING")
		if err := c.SetState(Left); err != nil {
			t.Fatal(err)
		}
		c.leave()
		expect(t, a, soon, "a ACTIVE", "b ACTIVE")

		// Comes back as it was.
		c = n.start(t, "c", "10.0.0.4", seed, kept)
		expect(t, a, soon, "a ACTIVE", "b ACTIVE", "c ACTIVE")
		if d := cmp.Diff(tokens, a.View().Get("c").Tokens); d != "" {
			t.Errorf("tokens are lost: %s", d)
		}

		// Crashes: probes find out sooner than the heartbeat's timeout would.
		c.crash(n)
		expect(t, a, soon, "a ACTIVE", "b ACTIVE", "c UNHEALTHY")
		// Restarted with data on its disk, it says so before it is Active.
		c = n.start(t, "c", "10.0.0.4", seed, kept, func(_ *Config, _ *Instance) {})
		expect(t, b, soon, "a ACTIVE", "b ACTIVE", "c ACTIVE")
		c.crash(n)
		expect(t, a, soon, "a ACTIVE", "b ACTIVE", "c UNHEALTHY")

		// Forgotten by button, and by silence.
		if err := a.Forget("c"); err != nil {
			t.Fatal(err)
		}
		expect(t, b, soon, "a ACTIVE", "b ACTIVE")
		if a.Forget("c") == nil || a.Forget("nobody") == nil || a.Forget("a") == nil {
			t.Error("who is gone, unknown or alive can be forgotten")
		}
		if err := a.Forget("b"); err != nil { // which lives, and takes no notice
			t.Fatal(err)
		}
		expect(t, a, soon, "a ACTIVE", "b ACTIVE")
		time.Sleep(tombstoneAge + time.Minute)
		if left := a.Snapshot(); len(left) != 2 {
			t.Errorf("a tombstone stays: %v", left)
		}
		for _, m := range []*member{a, b} {
			m.leave()
		}
	})
}

func TestPartitionForgetsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		all := []string{"a ACTIVE", "b ACTIVE", "c ACTIVE", "d ACTIVE", "e ACTIVE"}
		var ms []*member
		for i := range 5 {
			// Everybody knows only the first, as when a seed is given.
			ms = append(ms, n.start(t, string(rune('a'+i)), fmt.Sprintf("10.0.0.%d", i+1), seed))
		}
		for _, m := range ms {
			expect(t, m, soon, all...)
		}
		n.partition("10.0.0.1:7946", "10.0.0.2:7946")
		expect(t, ms[0], 45*time.Second, "a ACTIVE", "b ACTIVE", "c UNHEALTHY", "d UNHEALTHY", "e UNHEALTHY")
		expect(t, ms[4], 45*time.Second, "a UNHEALTHY", "b UNHEALTHY", "c ACTIVE", "d ACTIVE", "e ACTIVE")
		// The side with the majority forgets in time, the other does not.
		time.Sleep(12 * time.Minute)
		expect(t, ms[0], 0, "a ACTIVE", "b ACTIVE", "c UNHEALTHY", "d UNHEALTHY", "e UNHEALTHY")
		expect(t, ms[4], 0, "c ACTIVE", "d ACTIVE", "e ACTIVE")
		n.partition()
		for _, m := range ms {
			expect(t, m, soon, all...)
		}
		for _, m := range ms {
			m.leave()
		}
	})
}

func TestSilenceIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a, b, c := n.start(t, "a", "10.0.0.1", seed), n.start(t, "b", "10.0.0.2", seed), n.start(t, "c", "10.0.0.3", seed)
		expect(t, c, soon, "a ACTIVE", "b ACTIVE", "c ACTIVE")
		_ = c.SetState(Leaving) // and could not upload everything
		expect(t, a, soon, "a ACTIVE", "b ACTIVE", "c LEAVING")
		c.leave()
		expect(t, a, soon, "a ACTIVE", "b ACTIVE", "c UNHEALTHY")
		time.Sleep(9 * time.Minute)
		expect(t, a, 0, "a ACTIVE", "b ACTIVE", "c UNHEALTHY")
		expect(t, a, 2*time.Minute, "a ACTIVE", "b ACTIVE")
		expect(t, b, soon, "a ACTIVE", "b ACTIVE")
		a.leave()
		b.leave()
	})
}

func TestOneIDForTwoProcesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a, b := n.start(t, "a", "10.0.0.1", seed), n.start(t, "b", "10.0.0.2", seed)
		expect(t, a, soon, "a ACTIVE", "b ACTIVE")
		// A second b is refused, and the first does not suffer.
		second := n.start(t, "b", "10.0.0.3", seed)
		<-second.done
		if second.err == nil || !strings.Contains(second.err.Error(), `"b" is in use by a living process at 10.0.0.2:9095`) {
			t.Errorf("the second process ended with %v", second.err)
		}
		expect(t, a, 0, "a ACTIVE", "b ACTIVE")
		if got := a.View().Get("b").Addr; got != "10.0.0.2:9095" {
			t.Errorf("b is at %s now", got)
		}
		// Started on the other side of a partition, it is found out when that heals: the later stays.
		n.partition("10.0.0.2:7946")
		expect(t, a, soon, "a ACTIVE", "b UNHEALTHY")
		time.Sleep(20 * time.Second)
		third := n.start(t, "b", "10.0.0.3", seed)
		expect(t, a, soon, "a ACTIVE", "b ACTIVE")
		n.partition()
		<-b.done
		if b.err == nil || !strings.Contains(b.err.Error(), "10.0.0.3:9095") {
			t.Errorf("the first process ended with %v", b.err)
		}
		expect(t, a, soon, "a ACTIVE", "b ACTIVE")
		if got := a.View().Get("b").Addr; got != "10.0.0.3:9095" {
			t.Errorf("b is at %s now", got)
		}
		a.leave()
		third.leave()
	})
}

func TestLostDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		dir := t.TempDir()
		kept := func(c *Config, _ *Instance) { c.Dir = dir }
		a, b := n.start(t, "a", "10.0.0.1", seed), n.start(t, "b", "10.0.0.2", seed)
		c := n.start(t, "c", "10.0.0.3", seed, kept)
		expect(t, a, soon, "a ACTIVE", "b ACTIVE", "c ACTIVE")
		tokens := a.View().Get("c").Tokens
		// A piece of news may miss an instance by chance; the next heartbeat brings it.
		lossy := func(want bool) {
			t.Helper()
			for _, m := range []*member{a, b, c} {
				ok := func() bool { v := m.View(); return v.Lossy(v.Get("c")) == want && !v.Lossy(v.Get("a")) }
				for end := time.Now().Add(20 * time.Second); !ok() && time.Now().Before(end); {
					time.Sleep(100 * time.Millisecond)
				}
				if !ok() {
					t.Errorf("%s: c is lossy: %v, want %v", m.Self().ID, !want, want)
				}
			}
		}
		seen := func() {
			t.Helper()
			for _, m := range []*member{a, b, c} {
				expect(t, m, soon, "a ACTIVE", "b ACTIVE", "c ACTIVE")
			}
			time.Sleep(2 * time.Second)
		}
		// With its disk it only restarts.
		c.crash(n)
		c = n.start(t, "c", "10.0.0.3", seed, kept)
		seen()
		lossy(false)
		// Without, everybody hears of it, until all others have answered.
		c.crash(n)
		if err := forgetIdentity(dir); err != nil {
			t.Fatal(err)
		}
		c = n.start(t, "c", "10.0.0.3", seed, kept)
		seen()
		lossy(true)
		if d := cmp.Diff(tokens, a.View().Get("c").Tokens); d != "" {
			t.Errorf("c has other tokens: %s", d)
		}
		a.SetFlushed(a.View().LastLoss("a"))
		time.Sleep(20 * time.Second)
		lossy(true)
		b.SetFlushed(b.View().LastLoss("b"))
		lossy(false)
		if err := c.SetWhole(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		if a.View().LastLoss("a") != 0 {
			t.Error("the loss is remembered")
		}
	})
}

func TestClustersAndKeysStayApart(t *testing.T) {
	dir := t.TempDir()
	key := func(c byte) string { return base64.StdEncoding.EncodeToString([]byte(strings.Repeat(string(c), 32))) }
	file := func(name string, keys ...string) func(*Config, *Instance) {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(strings.Join(keys, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
		return func(c *Config, _ *Instance) { c.SecretKeyFile = path }
	}
	label := func(l string) func(*Config, *Instance) { return func(c *Config, _ *Instance) { c.ClusterLabel = l } }
	old, rotating := file("old", key('1')), file("rotating", key('2'), key('1'))
	wrong := file("wrong", key('3'))
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a := n.start(t, "a", "10.0.0.1", seed, old, label("prod"))
		b := n.start(t, "b", "10.0.0.2", seed, old, label("prod"))
		others := []*member{
			n.start(t, "c", "10.0.0.3", seed, wrong, label("prod")),
			n.start(t, "d", "10.0.0.4", seed, label("prod")),
			n.start(t, "e", "10.0.0.5", seed, old, label("test")),
			n.start(t, "f", "10.0.0.6", seed, old),
		}
		time.Sleep(time.Minute)
		expect(t, a, 0, "a ACTIVE", "b ACTIVE")
		for _, m := range others {
			if m.Ready() == nil || len(m.View().instances) > 0 {
				t.Errorf("%s joined: %v", m.Self().ID, m.View().instances)
			}
			m.leave()
		}
		// a knows the old key only; one that encrypts with the new one has to wait.
		b.leave()
		b = n.start(t, "b", "10.0.0.2", seed, file("first", key('1'), key('2')), label("prod"))
		expect(t, a, time.Minute, "a ACTIVE", "b ACTIVE")
		a.leave()
		a = n.start(t, "a", "10.0.0.1", "10.0.0.2:7946", rotating, label("prod"))
		expect(t, a, time.Minute, "a ACTIVE", "b ACTIVE")
		expect(t, b, time.Minute, "a ACTIVE", "b ACTIVE")
		a.leave()
		b.leave()
	})
}

type fakeDNS map[string][]string

func (f fakeDNS) LookupHost(_ context.Context, host string) ([]string, error) {
	if ips, ok := f[host]; ok {
		return ips, nil
	}
	return nil, fmt.Errorf("no such host: %s", host)
}

func (f fakeDNS) LookupSRV(_ context.Context, _, _, name string) (string, []*net.SRV, error) {
	return "", []*net.SRV{{Target: "one.local.", Port: 1}, {Target: "10.9.9.9", Port: 2}}, nil
}

func TestJoinAddresses(t *testing.T) {
	dns := fakeDNS{"one.local": {"10.0.0.1"}, "many": {"10.0.0.3", "10.0.0.1", "10.0.0.2"}}
	check := func(join string, want ...string) {
		t.Helper()
		list, err := parseJoin(join)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := resolve(context.Background(), dns, list, 7946)
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", join, got, want)
		}
	}
	check("")
	check("10.0.0.5", "10.0.0.5:7946")
	check("many:1", "10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1")
	check("dns+many:1, one.local:1", "10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1")
	check("srv+_gossip._tcp.x,missing", "10.0.0.1:1", "10.9.9.9:2")
	check("dnssrv+_gossip._tcp.x", "10.0.0.1:1", "10.9.9.9:2")
	check("[::1]:5", "[::1]:5")
	for _, wrong := range []string{"http://x", "a:b", "a:99999", ":7946", "tcp+x:1", "srv+x:1", "a:1:2"} {
		if _, err := parseJoin(wrong); err == nil {
			t.Errorf("%s: want an error", wrong)
		}
	}
}

func TestIdentity(t *testing.T) {
	dir := t.TempDir()
	want := identity{ID: "a", Seed: 1<<64 - 1, Tokens: 256, Registered: 7}
	if got, err := loadIdentity(dir, "a"); got != nil || err != nil {
		t.Errorf("nothing there: got %v, %v", got, err)
	}
	if err := saveIdentity(dir, want); err != nil {
		t.Fatal(err)
	}
	got, err := loadIdentity(dir, "a")
	if err != nil || *got != want {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	if got, err := loadIdentity(dir, "b"); got != nil || err != nil {
		t.Errorf("another's: got %v, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(dir, identityFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadIdentity(dir, "a"); err == nil {
		t.Error("a damaged file is taken for none")
	}
	if err := forgetIdentity(dir); err != nil {
		t.Fatal(err)
	}
	if err := forgetIdentity(dir); err != nil {
		t.Errorf("forgetting twice: %v", err)
	}
}

// TestReadyKnowsTheRing: whoever has joined acts by a ring that has all the others, and
// itself with the state it has just taken, not only a moment later.
func TestReadyKnowsTheRing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a := n.start(t, "a", "10.0.0.1", seed)
		expect(t, a, soon, "a ACTIVE")
		b := n.start(t, "b", "10.0.0.2", seed)
		<-b.Joined()
		synctest.Wait() // b has become active by now
		expect(t, b, 0, "a ACTIVE", "b ACTIVE")
		if err := b.SetState(Leaving); err != nil {
			t.Fatal(err)
		}
		expect(t, b, 0, "a ACTIVE", "b LEAVING")
	})
}
