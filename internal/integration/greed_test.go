package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// greedSpec tells a process of its own what a greedy tenant does. The process is this test's
// binary again: what it costs to send the load must not delay the requests that are measured,
// so these are not made by the process that sends it.
type greedSpec struct {
	URL     string
	Tenant  string
	Queries int   // at a time
	Rate    int   // MB of lines a second
	Now     int64 // nanoseconds, the end of what is asked for
}

// greedTally is what it has done, on its standard output.
type greedTally struct{ Done, Refused, Pushed, Limited int64 }

const greedVariable = "SKALD_TEST_GREED"

// greed is such a process.
type greed struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.Closer
	out bytes.Buffer
}

// startGreed begins with the load. stop must be called.
func startGreed(t testing.TB, spec greedSpec) *greed {
	t.Helper()
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	// Elsewhere it would take none of these cores, so here it takes what nobody else wants.
	g := &greed{t: t, cmd: exec.Command("nice", "-n", "19", os.Args[0])}
	g.cmd.Env = append(os.Environ(), greedVariable+"="+string(text))
	g.cmd.Stdout, g.cmd.Stderr = &g.out, os.Stderr
	if g.in, err = g.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return g
}

// stop ends the load and returns what it was.
func (g *greed) stop() (tally greedTally) {
	g.t.Helper()
	_ = g.in.Close() // also when this process dies
	if err := g.cmd.Wait(); err != nil {
		g.t.Fatalf("the greedy tenant's process: %v", err)
	}
	if err := json.Unmarshal(g.out.Bytes(), &tally); err != nil {
		g.t.Fatalf("the greedy tenant's process: %v: %q", err, g.out.String())
	}
	return tally
}

// beGreedy is that process: it sends heavy queries without end, and lines, until its standard
// input ends.
func beGreedy(text string) error {
	var spec greedSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}}
	send := func(method, path string, body []byte) (status int) {
		req, err := http.NewRequestWithContext(ctx, method, spec.URL+path, bytes.NewReader(body))
		if err != nil {
			return 0
		}
		req.Header.Set("X-Scope-OrgID", spec.Tenant)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept-Encoding", "gzip") // as Grafana asks; answers are not unpacked here
		res, err := client.Do(req)
		if err != nil {
			return 0
		}
		defer res.Body.Close()
		_, _ = io.Copy(io.Discard, res.Body)
		return res.StatusCode
	}
	var tally greedTally
	var wg sync.WaitGroup
	query := "/loki/api/v1/query_range?" + heavy(time.Unix(0, spec.Now), time.Hour).Encode()
	for range spec.Queries {
		wg.Go(func() {
			for ctx.Err() == nil {
				switch send(http.MethodGet, query, nil) {
				case http.StatusOK:
					atomic.AddInt64(&tally.Done, 1)
				case http.StatusTooManyRequests:
					atomic.AddInt64(&tally.Refused, 1)
					time.Sleep(50 * time.Millisecond)
				}
			}
		})
	}
	bodies := make([][]byte, 16)
	for i := range bodies {
		bodies[i] = appendOverload(nil, 0, i*linesPerOverload, time.Unix(0, spec.Now))
	}
	tick := time.NewTicker(time.Second * time.Duration(len(bodies[0])) / time.Duration(spec.Rate<<20))
	defer tick.Stop()
	for n := 0; ctx.Err() == nil; n++ {
		select {
		case <-ctx.Done():
		case <-tick.C:
			wg.Go(func() {
				switch send(http.MethodPost, "/loki/api/v1/push", bodies[n%len(bodies)]) {
				case http.StatusNoContent:
					atomic.AddInt64(&tally.Pushed, 1)
				case http.StatusTooManyRequests:
					atomic.AddInt64(&tally.Limited, 1)
				}
			})
		}
	}
	wg.Wait()
	return json.NewEncoder(os.Stdout).Encode(&tally)
}
