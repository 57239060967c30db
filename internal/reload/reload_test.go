package reload

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		next := make(chan error, 1)
		load := func() (bool, error) {
			select {
			case err := <-next:
				return err == nil, err
			default:
				return false, nil
			}
		}
		l := New("limits", 10*time.Second, load, prometheus.NewRegistry(), slog.New(slog.NewTextHandler(&log, nil)))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		f := func(name string, outcome error, failed, reloaded float64) {
			t.Helper()
			next <- outcome
			time.Sleep(10*time.Second + time.Millisecond)
			synctest.Wait()
			if a, b := testutil.ToFloat64(l.failed), testutil.ToFloat64(l.reloaded); a != failed || b != reloaded {
				t.Errorf("%s: failed %v, reloaded %v; want %v, %v", name, a, b, failed, reloaded)
			}
		}
		f("changed", nil, 0, 1)
		f("broken", errors.New("line 3"), 1, 1)
		f("mended", nil, 0, 2)
		time.Sleep(time.Minute)
		stop()
		if err := <-done; err != nil || testutil.ToFloat64(l.reloaded) != 2 {
			t.Errorf("%v, %v reloads when nothing changed", err, testutil.ToFloat64(l.reloaded))
		}
		if text := log.String(); strings.Count(text, "level=ERROR") != 1 || !strings.Contains(text, `err="line 3"`) || strings.Count(text, "level=INFO") != 2 {
			t.Errorf("the log:\n%s", text)
		}
	})
}

// TestNever demands that a period of nothing means not at all.
func TestNever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New("limits", 0, func() (bool, error) { t.Error("read"); return false, nil }, nil, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithTimeout(t.Context(), time.Hour)
		defer stop()
		if err := l.Run(ctx); err != nil {
			t.Error(err)
		}
	})
}
