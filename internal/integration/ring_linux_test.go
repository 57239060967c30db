package integration

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skaldlog/skald/internal/testkit/s3"
)

// TestRing is the core promise, in short: three processes that play all roles, three copies
// of every line. One is killed, then all are restarted one by one, then two are killed.
func TestRing(t *testing.T) {
	c := newCluster(t, nil, []int{1, 2, 3})
	one, two, three := c.start("skald", 1), c.start("skald", 2), c.start("skald", 3)
	c.ready(one, two, three)
	c.allSee(one, two, three)
	l := startLoad(t, 4, one, two, three)
	l.watch()
	time.Sleep(2 * time.Second)

	// 1. One dies: nothing stops, nothing is lost.
	died := time.Now()
	l.use(one, three)
	two.kill()
	one.sees(two.id, "UNHEALTHY")
	t.Logf("one killed: noticed after %s; %s", time.Since(died).Round(time.Millisecond), l.phase(died, time.Now(), two))
	two.start()
	c.allSee(one, two, three)
	l.use(one, two, three)

	// 2. A rolling restart: each puts what it has into the object store before it goes.
	rolled := time.Now()
	for _, m := range []*member{one, two, three} {
		restart(c, l, m, one, two, three)
	}
	p := l.phase(rolled, time.Now())
	t.Logf("rolling restart: %s", p)

	// 3. Two die: no write is acknowledged, and no answer is silently partial.
	l.stop()
	l.use(one)
	two.kill()
	three.kill()
	refuses(t, one)
	two.start()
	three.start()
	c.allSee(one, two, three)
	l.verify(two)
	checks, refused := l.expectRightCounts()
	t.Logf("%d counts were right; queries refused: %v", checks, refused)
}

// restart stops a member and starts it again while clients use the others.
func restart(c *cluster, l *load, m *member, all ...*member) {
	c.t.Helper()
	var others []*member
	for _, o := range all {
		if o != m {
			others = append(others, o)
		}
	}
	l.use(others...)
	m.stop()
	m.start()
	c.allSee(all...)
	l.use(all...)
}

// refuses demands that a member without a quorum says so, to writers and readers.
func refuses(t *testing.T, m *member) {
	t.Helper()
	entry := pushEntry{ts: time.Now().UnixNano(), line: "must not be acknowledged"}
	status, answer, err := m.push(pushStream{Stream: map[string]string{"job": "refused"}, Values: []pushEntry{entry}})
	if err != nil || status != http.StatusServiceUnavailable || len(answer) < 20 {
		t.Errorf("a push without a quorum: %d %q %v, want 503 and a reason", status, answer, err)
	}
	t.Logf("a push without a quorum is refused: %s", answer)
	_, err = m.count(`sum(count_over_time({job="ring"}[1h]))`, time.Now())
	if err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("a query with two of three away: %v, want 503", err)
	}
	t.Logf("a query without a quorum is refused: %v", err)
}

// TestRingFailures goes through every way in which one of three ingesters can fail, under
// steady load, with distributors and queriers of their own.
func TestRingFailures(t *testing.T) {
	if !full() {
		t.Skip("SKALD_FULL=1 runs it")
	}
	f := newFabric(t)
	c := newCluster(t, f, []int{1, 2, 11})
	doors := []*member{c.start("door", 1, "-target=distributor,querier"), c.start("door", 2, "-target=distributor,querier,compactor")}
	small := c.home + "/small"
	mountSmall(t, small)
	ingesters := []*member{c.start("ingester", 11, "-target=ingester"), c.start("ingester", 12, "-target=ingester"),
		c.start("ingester", 13, "-target=ingester", "-data.dir="+small)}
	all := append(append([]*member{}, doors...), ingesters...)
	c.ready(all...)
	c.allSee(all...)
	l := startLoad(t, 8, doors...)
	l.watch()

	// run lets one thing happen, waits until hold says that it has had its effect, and heals.
	run := func(name string, victim *member, fail func(), effect func(), heal func()) {
		t.Helper()
		began := time.Now()
		fail()
		noticed := "-"
		var detected time.Time
		if effect != nil {
			effect()
			detected = time.Now()
			noticed = detected.Sub(began).Round(100 * time.Millisecond).String()
		}
		time.Sleep(10 * time.Second)
		healed := time.Now()
		heal()
		c.allSee(all...)
		p := l.phase(began, healed)
		t.Logf("%-28s noticed after %s; %s; back after %s", name, noticed, p, time.Since(healed).Round(100*time.Millisecond))
		for reason, n := range p.reasons {
			t.Logf("    %d × %s", n, reason)
		}
		if !detected.IsZero() && p.failed > 0 && p.last.After(detected.Add(2*time.Second)) {
			t.Errorf("%s: pushes failed after everybody knew of it", name)
		}
		time.Sleep(3 * time.Second)
	}
	unhealthy := func(m *member) func() { return func() { doors[0].sees(m.id, "UNHEALTHY") } }

	run("nothing", nil, func() {}, nil, func() {})
	for _, m := range ingesters {
		run("kill -9 "+m.id, m, m.kill, unhealthy(m), m.server.start)
	}
	m := ingesters[0]
	run("kill -9 and an empty disk", m, func() {
		m.kill()
		if err := os.RemoveAll(m.dir); err != nil {
			t.Fatal(err)
		}
	}, unhealthy(m), m.server.start)
	m = ingesters[1]
	run("SIGSTOP", m, func() { signal(t, m, syscall.SIGSTOP) }, unhealthy(m), func() { signal(t, m, syscall.SIGCONT) })
	run("cut off", m, func() { f.lose(m, 1) }, unhealthy(m), func() { f.lose(m, 0) })
	run("30 % of packets lost", m, func() { f.lose(m, 0.3) }, nil, func() { f.lose(m, 0) })
	m = ingesters[2]
	filler := small + "/filler"
	run("disk full", m, func() { fill(t, filler) }, nil, func() { _ = os.Remove(filler) })

	l.stop()
	for _, door := range doors {
		l.verify(door)
	}
	checks, refused := l.expectRightCounts()
	t.Logf("%d counts were right; queries refused: %v", checks, refused)
	for reason := range refused {
		t.Errorf("a query was refused although one ingester of three failed: %s", reason)
	}
}

func signal(t *testing.T, m *member, s syscall.Signal) {
	t.Helper()
	if err := m.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// mountSmall mounts a disk that is soon full.
func mountSmall(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("mounting a small disk: %v %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", "-l", dir).Run() })
}

// fill takes what is left of a disk.
func fill(t *testing.T, path string) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for chunk := make([]byte, 1<<20); len(chunk) > 0; {
		if _, err := file.Write(chunk); err != nil {
			chunk = chunk[:len(chunk)/2] // down to the last byte
		}
	}
}

// TestRingWithoutQuorum kills two of three: nothing is acknowledged, readers are told, and
// when they are back everything is there.
func TestRingWithoutQuorum(t *testing.T) {
	if !full() {
		t.Skip("SKALD_FULL=1 runs it")
	}
	c := newCluster(t, nil, []int{1, 2, 11})
	door := c.start("door", 1, "-target=distributor,querier")
	warns := c.start("warns", 2, "-target=distributor,querier", "-querier.partial=warn")
	ingesters := []*member{c.start("ingester", 11, "-target=ingester"), c.start("ingester", 12, "-target=ingester"), c.start("ingester", 13, "-target=ingester")}
	all := append([]*member{door, warns}, ingesters...)
	c.ready(all...)
	c.allSee(all...)
	l := startLoad(t, 4, door)
	l.watch()
	time.Sleep(5 * time.Second)
	ingesters[0].kill()
	ingesters[1].kill()
	killed := time.Now()
	for range 10 {
		refuses(t, door)
		time.Sleep(time.Second)
	}
	status, answer, err := warns.do(http.MethodGet, `/loki/api/v1/query?query=sum(count_over_time(%7Bjob%3D%22ring%22%7D%5B1h%5D))`, nil, nil)
	if err != nil || status != http.StatusOK || !strings.Contains(string(answer), `"warnings":["incomplete`) {
		t.Errorf("with -querier.partial=warn: %d %s %v, want 200 and a warning", status, answer, err)
	}
	t.Logf("%s", l.phase(killed, time.Now()))
	for _, m := range ingesters[:2] {
		m.start()
	}
	c.allSee(all...)
	time.Sleep(3 * time.Second)
	l.verify(door)
	l.expectRightCounts()
}

// TestRingRolls restarts every process of a ring, and scales the ingesters from three to
// five and back, under load: no push fails that is tried again, and no count is wrong.
func TestRingRolls(t *testing.T) {
	if !full() {
		t.Skip("SKALD_FULL=1 runs it")
	}
	c := newCluster(t, nil, []int{1, 2, 11})
	doors := []*member{c.start("door", 1, "-target=distributor,querier,compactor"), c.start("door", 2, "-target=distributor,querier,compactor")}
	ingesters := []*member{c.start("ingester", 11, "-target=ingester"), c.start("ingester", 12, "-target=ingester"), c.start("ingester", 13, "-target=ingester")}
	all := append(append([]*member{}, doors...), ingesters...)
	c.ready(all...)
	c.allSee(all...)
	l := startLoad(t, 8, doors...)
	l.watch()
	time.Sleep(5 * time.Second)

	began := time.Now()
	for _, m := range ingesters {
		m.stop()
		m.start()
		c.allSee(all...)
	}
	t.Logf("rolling restart of the ingesters: %s", l.phase(began, time.Now()))
	began = time.Now()
	for i, m := range doors {
		l.use(doors[1-i])
		m.stop()
		m.start()
		c.allSee(all...)
		l.use(doors...)
	}
	t.Logf("rolling restart of the doors: %s", l.phase(began, time.Now()))

	began = time.Now()
	more := []*member{c.start("ingester", 14, "-target=ingester"), c.start("ingester", 15, "-target=ingester")}
	c.ready(more...)
	five := append(append([]*member{}, all...), more...)
	c.allSee(five...)
	time.Sleep(5 * time.Second)
	t.Logf("three to five: %s", l.phase(began, time.Now()))

	began = time.Now()
	for i, m := range []*member{ingesters[0], more[1]} {
		if status, answer, err := m.do(http.MethodPost, "/ingester/prepare-shutdown", nil, nil); err != nil || status != http.StatusNoContent {
			t.Fatalf("prepare-shutdown: %d %s %v", status, answer, err)
		}
		doors[0].sees(m.id, "LEAVING")
		m.stop()
		doors[0].sees(m.id, "")
		if i == 0 {
			time.Sleep(2 * time.Second)
		}
	}
	time.Sleep(3 * time.Second)
	p := l.phase(began, time.Now())
	t.Logf("five to three: %s", p)
	for reason, n := range l.phase(l.started, time.Now()).reasons {
		t.Logf("    %d × %s", n, reason)
	}
	l.verify(doors[0])
	l.verify(doors[1])
	checks, refused := l.expectRightCounts()
	t.Logf("%d counts were right; queries refused: %v", checks, refused)
	for reason := range refused {
		t.Errorf("a query was refused: %s", reason)
	}
	if states, err := doors[0].states(); err != nil || len(states) != 5 {
		t.Errorf("the ring at the end: %s %v, want two doors and three ingesters", fmt.Sprint(states), err)
	}
}

// TestRingWithoutStore: the object store is away for five minutes and then comes and goes.
// Lines are taken all the time, an ingester that stops meanwhile says that it has not left
// everything behind, and in the end everything gets there by itself.
func TestRingWithoutStore(t *testing.T) {
	if !full() {
		t.Skip("SKALD_FULL=1 runs it")
	}
	store := s3.Start(t)
	relay := newRelay(t, strings.TrimPrefix(store.Endpoint, "http://"))
	store.Endpoint = "http://" + relay.addr
	c := newCluster(t, nil, []int{1, 11}, "-storage.url="+store.Bucket(t, "logs", "skald"), "-storage.max-attempts=2",
		"-ingester.freeze-age=5s", "-ingester.upload-age=20s", "-catalog.ttl=1s", "-ingester.keep-after-upload=5s", "-ring.leave-timeout=5s")
	door := c.start("door", 1, "-target=distributor,querier,compactor")
	ingesters := []*member{c.start("ingester", 11, "-target=ingester"), c.start("ingester", 12, "-target=ingester"), c.start("ingester", 13, "-target=ingester")}
	all := append([]*member{door}, ingesters...)
	c.ready(all...)
	c.allSee(all...)
	l := startLoad(t, 4, door)
	l.watch()
	time.Sleep(30 * time.Second)

	away := time.Now()
	relay.down()
	time.Sleep(time.Minute)
	m := ingesters[0]
	m.stop()
	door.sees(m.id, "UNHEALTHY") // Leaving, but with entries that are nowhere else
	m.start()
	c.allSee(all...)
	time.Sleep(time.Until(away.Add(5 * time.Minute)))
	for range 5 {
		relay.up()
		time.Sleep(4 * time.Second)
		relay.down()
		time.Sleep(4 * time.Second)
	}
	relay.up()
	p := l.phase(away, time.Now())
	t.Logf("without a store: %s", p)
	if p.failed > 0 {
		t.Errorf("pushes failed without a store: %v", p.reasons)
	}
	l.stop()
	for _, m := range ingesters {
		eventually(t, m.id+" has uploaded everything", func() bool {
			status, _, err := m.do(http.MethodPost, "/flush", nil, nil)
			return err == nil && status == http.StatusNoContent
		})
	}
	l.verify(door)
	checks, refused := l.expectRightCounts()
	t.Logf("of %d counts, those refused for want of the store: %v", checks, refused)
}
