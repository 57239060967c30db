package object

import (
	"context"
	"errors"
	"flag"
	"io"
	"iter"
	"log/slog"
	"math/rand/v2"
	"time"
)

// RetryConfig says how stubborn Retry is.
type RetryConfig struct {
	// MaxAttempts counts the first one too; 0 means 6, which with the pauses below rides
	// out a failure of about ten seconds.
	MaxAttempts int
}

const defaultAttempts = 6

func (c *RetryConfig) registerFlags(fs *flag.FlagSet) {
	fs.IntVar(&c.MaxAttempts, "storage.max-attempts", defaultAttempts, "How often a request to the object store is tried when it is throttled, times out or the server fails. The pauses between grow from 0.1 s to 10 s; queries wait meanwhile, flushes are repeated later anyway.")
}

// Pauses between attempts: a random part of 100 ms, doubled each time, up to 10 s. The
// randomness keeps a fleet that was throttled together from coming back together.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 10 * time.Second
)

func pause(attempt int) time.Duration {
	d := lastPause
	if attempt < 16 {
		d = min(firstPause<<attempt, lastPause)
	}
	return d/2 + rand.N(d/2)
}

// retry calls op until it succeeds, fails permanently (see IsTransient), has been tried
// attempts times, or ctx ends; then it returns op's last error. again, if not nil, is told
// of each repetition.
func retry(ctx context.Context, attempts int, again func(error), op func() error) error {
	for attempt := 0; ; attempt++ {
		err := op()
		if err == nil || !IsTransient(err) || attempt+1 >= attempts {
			return err
		}
		timer := time.NewTimer(pause(attempt))
		select {
		case <-ctx.Done():
			timer.Stop()
			return errors.Join(context.Cause(ctx), err)
		case <-timer.C:
		}
		if again != nil {
			again(err)
		}
	}
}

// permanent marks an error as already retried.
func permanent(err error) error {
	var e *Error
	if errors.As(err, &e) && e.Transient {
		settled := *e
		settled.Transient = false
		return &settled
	}
	return err
}

type retrying struct {
	Store
	attempts int
	metrics  *Metrics
	logger   *slog.Logger
}

// Retry repeats the operations of a store that fail transiently, with growing, jittered
// pauses. A listing that breaks is taken up again after the last key it has yielded. A Get
// is repeated until its body begins; an error while reading the body is the reader's (see
// ReadAll). The error returned after the last attempt is the store's.
func Retry(s Store, cfg RetryConfig, metrics *Metrics, logger *slog.Logger) Store {
	attempts := cfg.MaxAttempts
	if attempts <= 0 {
		attempts = defaultAttempts
	}
	if metrics == nil {
		metrics = NewMetrics(nil)
	}
	return &retrying{s, attempts, metrics, orDiscard(logger)}
}

func orDiscard(logger *slog.Logger) *slog.Logger {
	if logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return logger
}

func (r *retrying) Remote() bool { return Remote(r.Store) }

func (r *retrying) do(ctx context.Context, op, key string, fn func() error) error {
	return retry(ctx, r.attempts, func(err error) {
		r.metrics.retries.WithLabelValues(op).Inc()
		r.logger.DebugContext(ctx, "object store request is repeated", "op", op, "key", key, "err", err)
	}, fn)
}

func (r *retrying) Put(ctx context.Context, key Key, body io.ReadSeeker, size int64) error {
	return r.do(ctx, "put", string(key), func() error { return r.Store.Put(ctx, key, body, size) })
}

func (r *retrying) Get(ctx context.Context, key Key) (body io.ReadCloser, size int64, err error) {
	err = r.do(ctx, "get", string(key), func() (err error) {
		body, size, err = r.Store.Get(ctx, key)
		return err
	})
	return body, size, err
}

func (r *retrying) ReadAt(ctx context.Context, key Key, p []byte, off int64) error {
	return r.do(ctx, "read", string(key), func() error { return r.Store.ReadAt(ctx, key, p, off) })
}

func (r *retrying) Delete(ctx context.Context, key Key) error {
	return r.do(ctx, "delete", string(key), func() error { return r.Store.Delete(ctx, key) })
}

func (r *retrying) Stat(ctx context.Context, key Key) (info Info, err error) {
	err = r.do(ctx, "stat", string(key), func() (err error) {
		info, err = r.Store.Stat(ctx, key)
		return err
	})
	return info, err
}

func (r *retrying) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return resumeList(r, ctx, prefix, func() iter.Seq2[Info, error] { return r.Store.List(ctx, prefix) },
		func(i Info) string { return string(i.Key) })
}

func (r *retrying) ListPrefixes(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return resumeList(r, ctx, prefix, func() iter.Seq2[string, error] { return r.Store.ListPrefixes(ctx, prefix) },
		func(s string) string { return s })
}

// resumeList lists again after a transient error and skips what it has yielded, which the
// lexical order makes easy. Attempts start anew whenever there was progress.
func resumeList[T any](r *retrying, ctx context.Context, prefix string, list func() iter.Seq2[T, error], key func(T) string) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		last := "" // no key is empty
		for {
			progress, stopped := false, false
			err := r.do(ctx, "list", prefix, func() error {
				for item, err := range list() {
					if err != nil && progress {
						return permanent(err) // leave to the outer loop, with fresh attempts
					}
					if err != nil {
						return err
					}
					if key(item) <= last {
						continue
					}
					last, progress = key(item), true
					if !yield(item, nil) {
						stopped = true
						return nil
					}
				}
				return nil
			})
			if stopped || err == nil {
				return
			}
			if !progress || ctx.Err() != nil {
				var none T
				yield(none, err)
				return
			}
		}
	}
}
