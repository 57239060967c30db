package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skaldlog/skald/bench/corpus"
	"github.com/skaldlog/skald/internal/wire"
)

// target is a server under measurement; pid is 0 when it is not a process of this machine.
type target struct {
	addr string
	pid  int
}

type loadResult struct {
	bytes, lines, retries int64
	took, cpu             time.Duration
	latencies             []time.Duration
}

// load pushes the corpus through all targets and prints what it cost them together.
func load(ctx context.Context, o options, targets ...target) (loadResult, error) {
	t := targets[0]
	profiled := profile(ctx, o, t.addr, "load", loadProfileSeconds)
	res, err := loadQuietly(ctx, o, targets...)
	if err = errors.Join(err, profiled()); err != nil {
		return res, err
	}
	slices.Sort(res.latencies)
	at := func(q float64) float64 {
		return res.latencies[int(q*float64(len(res.latencies)-1))].Seconds() * 1000
	}
	mb := float64(res.bytes) / 1e6
	fmt.Printf("corpus                     %8.1f MB in %d lines, %d streams, seed %d\n", mb, res.lines, o.corpus.Streams, o.corpus.Seed)
	fmt.Printf("load                       %8.1f MB/s raw, %.0f lines/s, %d retries\n", mb/res.took.Seconds(), float64(res.lines)/res.took.Seconds(), res.retries)
	fmt.Printf("push latency               %8.1f ms p50, %.1f ms p99\n", at(0.5), at(0.99))
	if t.pid != 0 {
		fmt.Printf("server CPU while loading   %8.2f s, %.1f s per GB raw, %.1f MB/s per core\n", res.cpu.Seconds(), res.cpu.Seconds()/mb*1e3, mb/res.cpu.Seconds())
	}
	return res, nil
}

func loadQuietly(ctx context.Context, o options, targets ...target) (loadResult, error) {
	var res loadResult
	var mu sync.Mutex
	before, err := cpuTogether(targets)
	if err != nil {
		return res, err
	}
	start := time.Now()
	bodies := make(chan []byte, o.connections)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(bodies)
		c := corpus.New(o.corpus)
		var enc wire.Encoder
		var batch corpus.Batch
		for c.Next(&batch, o.batch) {
			res.lines += batch.Lines
			res.bytes += batch.Bytes
			select {
			case bodies <- bytes.Clone(enc.Push(batch.Streams)):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for i := range o.connections {
		t := targets[i%len(targets)]
		g.Go(func() error {
			for body := range bodies {
				began := time.Now()
				retries, err := pushOnce(ctx, t, body)
				if err != nil {
					return err
				}
				mu.Lock()
				res.latencies = append(res.latencies, time.Since(began))
				res.retries += int64(retries)
				mu.Unlock()
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return res, err
	}
	res.took = time.Since(start)
	after, err := cpuTogether(targets)
	res.cpu = after - before
	return res, err
}

// cpuTogether is the CPU time of all targets that are processes of this machine.
func cpuTogether(targets []target) (sum time.Duration, err error) {
	for _, t := range targets {
		if t.pid == 0 {
			continue
		}
		u, err := usageOf(t.pid)
		if err != nil {
			return 0, err
		}
		sum += u.cpu
	}
	return sum, nil
}

// pushOnce sends a body until the server takes it: 429 and 503 mean later.
func pushOnce(ctx context.Context, t target, body []byte) (retries int, err error) {
	const attempts = 200
	for ; retries < attempts; retries++ {
		err = post(ctx, t.addr+"/loki/api/v1/push", wire.ContentTypeProto, body)
		var status *statusError
		switch {
		case err == nil:
			return retries, nil
		case !asStatus(err, &status) || status.code != http.StatusTooManyRequests && status.code != http.StatusServiceUnavailable:
			return retries, err
		}
		select {
		case <-ctx.Done():
			return retries, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return retries, fmt.Errorf("push refused %d times: %w", attempts, err)
}

type statusError struct {
	code int
	body string
}

func (e *statusError) Error() string { return fmt.Sprintf("status %d: %s", e.code, e.body) }

func asStatus(err error, to **statusError) (ok bool) {
	*to, ok = err.(*statusError) //nolint:errorlint // post returns it bare
	return ok
}

func post(ctx context.Context, url, contentType string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if err != nil {
		return err
	}
	if res.StatusCode/100 != 2 {
		return &statusError{res.StatusCode, string(text)}
	}
	return nil
}
