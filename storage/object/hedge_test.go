package object

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// slowStore delays the reads that it is told to, or has them fail.
type slowStore struct {
	Store
	mu    sync.Mutex
	calls int
	read  func(ctx context.Context, call int) error // before the read; call counts from 1
}

func (s *slowStore) ReadAt(ctx context.Context, key Key, p []byte, off int64) error {
	s.mu.Lock()
	s.calls++
	call := s.calls
	s.mu.Unlock()
	if err := s.read(ctx, call); err != nil {
		return err
	}
	return s.Store.ReadAt(ctx, key, p, off)
}

func TestHedge(t *testing.T) {
	mem := NewMem()
	if err := mem.Put(t.Context(), "k", bytes.NewReader([]byte("0123456789")), 10); err != nil {
		t.Fatal(err)
	}
	hangs := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for _, c := range []struct {
		name  string
		read  func(ctx context.Context, call int) error
		calls int
		fails bool
	}{
		{"fast", func(context.Context, int) error { return nil }, 1, false},
		{"fast failure", func(context.Context, int) error { return ErrInjected }, 1, true},
		{"first hangs", func(ctx context.Context, call int) error {
			if call == 1 {
				return hangs(ctx)
			}
			return nil
		}, 2, false},
	} {
		s := &slowStore{Store: mem, read: c.read}
		after := time.Minute
		if c.calls > 1 {
			after = time.Millisecond
		}
		p := make([]byte, 4)
		err := Hedge(s, HedgeConfig{After: after}, nil).ReadAt(t.Context(), "k", p, 3)
		if (err != nil) != c.fails || err == nil && string(p) != "3456" || s.calls != c.calls {
			t.Errorf("%s: read %q in %d calls, want %d: %v", c.name, p, s.calls, c.calls, err)
		}
	}

	// When all reads hang, few are asked twice.
	ctx, cancel := context.WithCancel(t.Context())
	const reads = 400
	s := &slowStore{Store: mem}
	all := make(chan struct{})
	s.read = func(ctx context.Context, call int) error {
		if call == reads+hedgeSaved/hedgeShare {
			close(all)
		}
		return hangs(ctx)
	}
	h := Hedge(s, HedgeConfig{After: time.Millisecond}, nil)
	var g errgroup.Group
	for range reads {
		g.Go(func() error { return h.ReadAt(ctx, "k", make([]byte, 1), 0) })
	}
	<-all
	cancel()
	if err := g.Wait(); err == nil {
		t.Error("a read that hangs until it is canceled succeeded")
	}
	if most := reads + hedgeSaved/hedgeShare + reads/hedgeShare; s.calls > most {
		t.Errorf("%d requests for %d reads, want at most %d", s.calls, reads, most)
	}
}

// TestHedgingPays measures what a second request for slow reads brings: searches of three
// rounds of eight small reads, as a cold needle needs, over a server that delays one request
// in a hundred.
func TestHedgingPays(t *testing.T) {
	if os.Getenv("SKALD_FULL") == "" {
		t.Skip("a measurement of half a minute; SKALD_FULL=1 runs it")
	}
	const slow, after = 300 * time.Millisecond, 60 * time.Millisecond
	object := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(1, 2))
	requests := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		requests++
		delayed := rng.IntN(100) == 0
		mu.Unlock()
		if delayed {
			select {
			case <-time.After(slow):
			case <-r.Context().Done():
				return
			}
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(object))
	}))
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	get := func(ctx context.Context, _ int) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
		if err != nil {
			return err
		}
		req.Header.Set("Range", "bytes=4096-45055")
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		var body bytes.Buffer
		if _, err = body.ReadFrom(res.Body); err == nil && body.Len() != 40<<10 {
			err = fmt.Errorf("%s with %d bytes", res.Status, body.Len())
		}
		return err
	}
	measure := func(name string, store Store) (p99 time.Duration) {
		const searches, rounds, reads = 300, 3, 8
		requests = 0
		times := make([]time.Duration, searches)
		for i := range times {
			start := time.Now()
			for range rounds {
				var g errgroup.Group
				for range reads {
					g.Go(func() error { return store.ReadAt(t.Context(), "k", make([]byte, 1), 0) })
				}
				if err := g.Wait(); err != nil {
					t.Fatal(err)
				}
			}
			times[i] = time.Since(start)
		}
		slices.Sort(times)
		p99 = times[searches*99/100]
		mu.Lock()
		defer mu.Unlock()
		t.Logf("%s: p50 %v, p90 %v, p99 %v, %d requests for %d reads", name, times[searches/2], times[searches*9/10], p99, requests, searches*rounds*reads)
		return p99
	}
	mem := NewMem()
	if err := mem.Put(t.Context(), "k", bytes.NewReader([]byte("x")), 1); err != nil {
		t.Fatal(err)
	}
	remote := &slowStore{Store: mem, read: get}
	plain, twice := measure("plain", remote), measure("hedged", Hedge(remote, HedgeConfig{After: after}, nil))
	t.Logf("p99 hedged / plain = %.2f", float64(twice)/float64(plain))
}
