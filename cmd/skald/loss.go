package main

import (
	"context"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/distributor/ring"
	"github.com/skaldlog/skald/ingester"
	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
)

// An ingester that comes back with an empty disk has lost its copies, and one more failure
// could lose, or hide, what was acknowledged. So it says so; the others put what they hold
// into the object store at once, instead of within the quarter of an hour that it usually
// takes; and until all have done that, queries count the ingester as one that is missing.

// answerLosses does this ingester's part.
func (n *node) answerLosses(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-n.members.Joined():
	}
	for {
		changed := n.members.Changed()
		self, view := n.members.Self(), n.members.View()
		again := make(<-chan time.Time)
		if lost := view.LastLoss(self.ID); lost > self.Flushed {
			n.logger.Warn("another ingester has lost its disk; uploading everything, so that it is safe again")
			if err := n.ingester.Flush(ctx); err == nil {
				n.members.SetFlushed(lost)
			} else if ctx.Err() == nil {
				n.logger.Error("cannot upload everything, will try again", "err", err)
				again = time.After(5 * time.Second)
			}
		}
		if me := view.Get(self.ID); me != nil && me.Lost != 0 && me.Process == self.Process && !view.Lossy(me) {
			n.logger.Info("every other ingester has uploaded its copies; nothing is missing any more")
			if err := n.members.SetWhole(); err != nil {
				n.logger.Warn("cannot keep that", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-again:
		}
	}
}

// lateIngester is the ingester as others see it: it answers no reads before the ring knows
// what they are worth.
type lateIngester struct {
	*ingester.Ingester
	node *node
}

func (l lateIngester) known() error {
	self := l.node.members.Self()
	if self.State == ring.Joining || self.Lost != 0 && time.Since(time.Unix(0, self.Lost)) < spread {
		return fault.New(fault.Unavailable, "this ingester is joining the ring")
	}
	return nil
}

// Select is the ingester's.
func (l lateIngester) Select(ctx context.Context, tenant model.Tenant, req *model.Request) (*model.Selection, error) {
	if err := l.known(); err != nil {
		return nil, err
	}
	return l.Ingester.Select(ctx, tenant, req)
}

// Series is the ingester's.
func (l lateIngester) Series(ctx context.Context, tenant model.Tenant, req *model.Request) ([]model.Series, error) {
	if err := l.known(); err != nil {
		return nil, err
	}
	return l.Ingester.Series(ctx, tenant, req)
}

// Tail is the ingester's.
func (l lateIngester) Tail(ctx context.Context, tenant model.Tenant, matchers []*labels.Matcher) (model.Tail, error) {
	if err := l.known(); err != nil {
		return nil, err
	}
	return l.Ingester.Tail(ctx, tenant, matchers)
}
