package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	ringSize        = 3
	ringReplication = 3
)

// ring loads one corpus into a single process, and then into a ring of three with three
// copies of everything, and compares what each costs.
func ring(ctx context.Context, o options) error {
	if o.skald == "" {
		return errors.New("ring needs -skald")
	}
	dir, done, err := workDir(o.dir)
	if err != nil {
		return err
	}
	defer done()
	fmt.Printf("--- one process, one copy\n")
	o.dir = filepath.Join(dir, "single")
	single, err := measureRing(ctx, o, 1)
	if err != nil {
		return err
	}
	fmt.Printf("--- %d processes, %d copies\n", ringSize, ringReplication)
	o.dir = filepath.Join(dir, "ring")
	many, err := measureRing(ctx, o, ringSize)
	if err != nil {
		return err
	}
	replicated := float64(many.bytes) / 1e6 * ringReplication
	fmt.Printf("--- ring / single\n")
	fmt.Printf("throughput                 %8.2f by time, %.2f by server CPU while loading, %.2f incl. flush\n",
		float64(many.bytes)/many.took.Seconds()/(float64(single.bytes)/single.took.Seconds()),
		single.cpu.Seconds()/many.cpu.Seconds(), single.flushed.Seconds()/many.flushed.Seconds())
	fmt.Printf("server CPU                 %8.1f ms per replicated MB while loading, %.1f incl. flush; single %.1f and %.1f\n",
		many.cpu.Seconds()*1e3/replicated, many.flushed.Seconds()*1e3/replicated,
		single.cpu.Seconds()*1e9/float64(single.bytes), single.flushed.Seconds()*1e9/float64(single.bytes))
	fmt.Printf("between processes          %8.3f bytes on the wire per raw byte and copy, %.1f MB in all\n",
		many.wire/float64(many.bytes)/(ringReplication-1), many.wire/1e6)
	return nil
}

// ringResult is what a load of a ring, or of one process, cost.
type ringResult struct {
	loadResult
	flushed time.Duration // CPU of the servers, with everything in the object store
	wire    float64       // bytes between the processes
}

// measureRing starts n processes, loads the corpus through all of them, and has them
// upload.
func measureRing(ctx context.Context, o options, n int) (r ringResult, err error) {
	servers, err := startRing(ctx, o, n)
	for _, p := range servers {
		defer p.kill()
	}
	if err != nil {
		return r, err
	}
	targets := make([]target, n)
	for i, p := range servers {
		targets[i] = p.target()
	}
	if r.loadResult, err = load(ctx, o, targets...); err != nil {
		return r, err
	}
	if err := countLines(ctx, o, targets[n-1].addr, r.lines); err != nil {
		return r, err
	}
	for _, t := range targets {
		if err := post(ctx, t.addr+"/flush", "", nil); err != nil {
			return r, err
		}
		sent, err := scrape(ctx, t.addr, "skald_ingester_client_sent_bytes_total")
		if err != nil && n > 1 {
			return r, err
		}
		r.wire += sent
	}
	for _, t := range targets {
		use, err := usageOf(t.pid)
		if err != nil {
			return r, err
		}
		r.flushed += use.cpu
		fmt.Printf("peak RSS                   %8.1f MB\n", float64(use.peakRSS)/1e6)
	}
	for _, p := range servers {
		if err := p.stop(); err != nil {
			return r, err
		}
	}
	return r, nil
}

// startRing starts n processes on one object store, and waits until each sees all. It
// returns those that were started also with an error.
func startRing(ctx context.Context, o options, n int) (servers []*process, err error) {
	root := o.dir
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, err
	}
	flags := o.serverFlags
	gossip := make([]string, n)
	for i := range n {
		if gossip[i], err = freeAddress(); err != nil {
			return nil, err
		}
	}
	for i := range n {
		o.dir = filepath.Join(root, strconv.Itoa(i))
		o.serverFlags = append(flags[:len(flags):len(flags)], "-storage.url=file://"+filepath.Join(root, "objects"))
		if n > 1 {
			o.serverFlags = append(o.serverFlags, fmt.Sprintf("-replication.factor=%d", ringReplication), "-ring.instance-id=bench-"+strconv.Itoa(i),
				"-memberlist.bind="+gossip[i], "-memberlist.advertise="+gossip[i], "-memberlist.join="+gossip[0])
		}
		p, err := startServer(ctx, o)
		if err != nil {
			return servers, err
		}
		servers = append(servers, p)
	}
	for _, p := range servers {
		for n > 1 {
			active, err := activeMembers(ctx, p.addr)
			if err != nil {
				return servers, err
			}
			if active == n {
				break
			}
			select {
			case <-ctx.Done():
				return servers, ctx.Err()
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	return servers, nil
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// activeMembers asks a server how many instances it may write to.
func activeMembers(ctx context.Context, addr string) (n int, err error) {
	var answer struct {
		Shards []struct {
			State string `json:"state"`
		} `json:"shards"`
	}
	if err := getJSON(ctx, addr+"/ring", &answer); err != nil {
		return 0, err
	}
	for _, m := range answer.Shards {
		if m.State == "ACTIVE" {
			n++
		}
	}
	return n, nil
}

func getJSON(ctx context.Context, url string, to any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: status %d", url, res.StatusCode)
	}
	return json.NewDecoder(res.Body).Decode(to)
}

// countLines has a server count the corpus: each line is there, once, whatever the number
// of its copies.
func countLines(ctx context.Context, o options, addr string, want int64) error {
	span := o.corpus.Span + time.Hour
	query := url.Values{
		"query": {fmt.Sprintf("sum(count_over_time(%s [%ds]))", everywhere, int(span.Seconds()))},
		"time":  {strconv.FormatInt(o.corpus.Start.Add(o.corpus.Span).UnixNano(), 10)},
	}
	var answer struct {
		Data struct {
			Result []struct {
				Value [2]any `json:"value"`
			} `json:"result"`
		} `json:"data"`
	}
	if err := getJSON(ctx, addr+"/loki/api/v1/query?"+query.Encode(), &answer); err != nil {
		return err
	}
	if len(answer.Data.Result) != 1 {
		return fmt.Errorf("counting lines gave %d series, want 1", len(answer.Data.Result))
	}
	text, _ := answer.Data.Result[0].Value[1].(string)
	if text != strconv.FormatInt(want, 10) {
		return fmt.Errorf("the server counts %s lines, want %d", text, want)
	}
	fmt.Printf("lines counted              %8s, each once\n", text)
	return nil
}

// scrape reads a metric without labels.
func scrape(ctx context.Context, addr, name string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, addr+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = res.Body.Close() }()
	for sc := bufio.NewScanner(res.Body); sc.Scan(); {
		if rest, ok := strings.CutPrefix(sc.Text(), name+" "); ok {
			return strconv.ParseFloat(rest, 64)
		}
	}
	return 0, fmt.Errorf("%s/metrics has no %s", addr, name)
}
