package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
)

const (
	loadProfileSeconds  = 15
	flushProfileSeconds = 10
	queryProfileSeconds = 5
)

// profile takes a CPU profile of the server in the background if profiles are wanted; the
// result waits for it.
func profile(ctx context.Context, o options, addr, name string, seconds int) (wait func() error) {
	if o.profiles == "" {
		return func() error { return nil }
	}
	done := make(chan error, 1)
	go func() {
		done <- saveProfile(ctx, fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", addr, seconds), filepath.Join(o.profiles, name+".pprof"))
	}()
	return func() error { return <-done }
}

func saveProfile(ctx context.Context, url, path string) error {
	text, err := get(ctx, url)
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}

// get returns what a server answers.
func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, res.Status)
	}
	return text, err
}
