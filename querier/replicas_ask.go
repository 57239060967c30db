package querier

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
)

// reply is what one replica has answered.
type reply[T any] struct {
	replica Replica
	value   T
	err     error
}

// ask asks all replicas of a tenant at once. It returns when all have answered or, when
// those that have are enough, a short while later. discard is called with answers that
// come after that. The context given to a replica lives as long as ctx once its answer is
// among those returned.
func ask[T any](ctx context.Context, g *Ingesters, tenant model.Tenant, call func(context.Context, Holder) (T, error), discard func(T)) (good []reply[T], warning string, err error) {
	a := asking[T]{g: g, all: g.ring.Ingesters(tenant), cancels: map[string]context.CancelFunc{}, waiting: map[string]Replica{}}
	a.begin(ctx, call)
	if err = a.wait(ctx); err == nil {
		warning, err = a.judge(tenant)
	}
	a.leave(discard)
	if err != nil {
		for _, r := range a.good {
			discard(r.value)
		}
		return nil, "", err
	}
	slices.SortFunc(a.good, func(a, b reply[T]) int { return strings.Compare(a.replica.ID, b.replica.ID) })
	return a.good, warning, nil
}

// asking is a question to all replicas: each has answered well, has failed, or is waited for.
type asking[T any] struct {
	g            *Ingesters
	all          []Replica
	replies      chan reply[T] // room for all
	cancels      map[string]context.CancelFunc
	waiting      map[string]Replica
	good, failed []reply[T]
}

// begin calls every replica that is not suspect.
func (a *asking[T]) begin(ctx context.Context, call func(context.Context, Holder) (T, error)) {
	a.replies = make(chan reply[T], len(a.all))
	suspects := a.g.suspects(a.all)
	for _, r := range a.all {
		if slices.Contains(suspects, r) {
			a.failed = append(a.failed, reply[T]{replica: r, err: errSuspect})
			continue
		}
		one, cancel := context.WithCancel(ctx)
		a.cancels[r.ID], a.waiting[r.ID] = cancel, r
		go func() { // ends when it has answered, at the latest when it is cancelled
			v, err := call(one, a.g.dial(r))
			a.replies <- reply[T]{r, v, err}
		}()
	}
}

// wait takes answers until all have come, or enough and the patience for the others is over.
// An error is one that makes the others' answers pointless.
func (a *asking[T]) wait(ctx context.Context) error {
	timeout := time.NewTimer(ingesterWait)
	defer timeout.Stop()
	granted := false // enough have answered
	for len(a.waiting) > 0 {
		if a.enough() {
			if !slices.ContainsFunc(values(a.waiting), func(r Replica) bool { return r.Healthy }) {
				return nil // those that are left were not expected to answer
			}
			if !granted {
				granted = true
				timeout.Reset(a.g.cfg.ReplicaWait)
			}
		}
		select {
		case r := <-a.replies:
			if err := a.take(ctx, r); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timeout.C:
			return nil
		}
	}
	return nil
}

// enough reports whether the good answers so far are.
func (a *asking[T]) enough() bool {
	return a.g.tolerable(a.all, append(replicas(a.failed), values(a.waiting)...))
}

func (a *asking[T]) take(ctx context.Context, r reply[T]) error {
	delete(a.waiting, r.replica.ID)
	switch {
	case r.err == nil:
		a.good = append(a.good, r)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case fault.Of(r.err) == fault.Invalid || fault.Of(r.err) == fault.Forbidden:
		return r.err // every other one would say the same
	default:
		a.g.failures.WithLabelValues(r.replica.ID).Inc()
		a.failed = append(a.failed, r)
	}
	return nil
}

// leave cancels those that are still waited for, and discards what they answer all the same.
func (a *asking[T]) leave(discard func(T)) {
	for id := range a.waiting {
		a.cancels[id]()
	}
	late := len(a.waiting)
	go func() {
		for range late {
			if r := <-a.replies; r.err == nil {
				discard(r.value)
			}
		}
	}()
}

// judge says what is to be told of the answers: nothing when they are enough, otherwise a
// warning or an error, by Config.Partial.
func (a *asking[T]) judge(tenant model.Tenant) (warning string, err error) {
	g := a.g
	for id := range a.waiting {
		g.failures.WithLabelValues(id).Inc()
	}
	if a.enough() {
		return "", nil
	}
	g.partial.Inc()
	text := incomplete(len(a.all), g.rf/2+1, a.failed, values(a.waiting))
	if g.cfg.Partial != partialWarn {
		return "", fault.New(fault.Unavailable, "%s: rows that were acknowledged might be missing; try again, or set -querier.partial=warn to see what there is", text)
	}
	// A read that fails is logged where it is answered.
	if untold, ok := g.partials.Now(time.Now()); ok {
		g.logger.Warn("a read could not reach enough ingesters", "tenant", tenant, "reason", text, "more_before", untold)
	}
	return "incomplete: " + text + ", so rows may be missing", nil
}

// incomplete says which ingesters are missing and why.
func incomplete[T any](all, quorum int, failed []reply[T], silent []Replica) string {
	switch {
	case all == 0:
		return "no ingester is in the ring"
	case all < quorum:
		return fmt.Sprintf("this process sees %d of at least %d ingesters in the ring", all, quorum)
	}
	var missing []string
	for _, r := range failed {
		missing = append(missing, fmt.Sprintf("%s (%s)", r.replica.ID, r.err))
	}
	for _, r := range silent {
		missing = append(missing, r.ID+" (no answer)")
	}
	slices.Sort(missing)
	return fmt.Sprintf("%d of %d ingesters did not answer: %s", len(missing), all, strings.Join(missing, ", "))
}

func replicas[T any](list []reply[T]) []Replica {
	out := make([]Replica, 0, len(list))
	for _, r := range list {
		out = append(out, r.replica)
	}
	return out
}

func values(m map[string]Replica) []Replica {
	out := make([]Replica, 0, len(m))
	for _, r := range m {
		out = append(out, r)
	}
	return out
}
