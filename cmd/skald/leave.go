package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/skaldlog/skald/distributor/ring"
	"github.com/skaldlog/skald/ingester"
	"github.com/skaldlog/skald/internal/server"
)

// leaving is how an ingester goes. When it stops it only uploads everything, and comes back
// with its tokens. After prepare-shutdown it goes for good: it takes no more entries from
// that moment, also after a restart, and leaves no tokens behind.
type leaving struct {
	ingester *ingester.Ingester
	marker   string        // file that says that it goes for good
	wanted   chan struct{} // capacity 1: upload everything now
	mu       struct {
		sync.Mutex
		forGood bool
	}
}

const markerFile = "prepare-shutdown"

// open finds out what was decided before a restart.
func (l *leaving) open(dir string, ing *ingester.Ingester) error {
	l.ingester, l.marker, l.wanted = ing, filepath.Join(dir, markerFile), make(chan struct{}, 1)
	_, err := os.Stat(l.marker)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("-data.dir: %w", err)
	}
	l.mu.forGood = true
	l.stopWrites()
	return nil
}

func (l *leaving) forGood() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.forGood
}

// stopWrites refuses pushes and has what is there uploaded.
func (l *leaving) stopWrites() {
	l.ingester.SetReadOnly(true)
	select {
	case l.wanted <- struct{}{}:
	default:
	}
}

// decide keeps a decision over restarts, and reports whether it changed.
func (l *leaving) decide(forGood bool) (changed bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.forGood == forGood {
		return false, nil
	}
	if forGood {
		err = os.WriteFile(l.marker, nil, 0o600)
	} else if err = os.Remove(l.marker); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return false, fmt.Errorf("keeping the decision in %s: %w", l.marker, err)
	}
	l.mu.forGood = forGood
	return true, nil
}

// servePrepareShutdown is for whoever scales the ring in: POST before the instance is
// stopped for good, DELETE when it is to stay, GET to see.
func (n *node) servePrepareShutdown(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		if err := n.prepareShutdown(r.Method == http.MethodPost); err != nil {
			server.WriteError(w, err)
			return
		}
	}
	switch {
	case r.Method != http.MethodGet:
		w.WriteHeader(http.StatusNoContent)
	case n.leaving.forGood():
		fmt.Fprintln(w, "set")
	default:
		fmt.Fprintln(w, "unset")
	}
}

func (n *node) prepareShutdown(on bool) error {
	changed, err := n.leaving.decide(on)
	if err != nil || !changed {
		return err
	}
	n.logger.Info("this ingester's leaving for good is decided anew", "leaves", on)
	if !on {
		n.ingester.SetReadOnly(false)
		return n.setState(ring.Active)
	}
	// Others hear of it first, so that few pushes are refused.
	err = n.setState(ring.Leaving)
	n.leaving.stopWrites()
	return err
}

// uploadWhenLeaving uploads everything once prepare-shutdown has been set, so that little is
// left to do when the process stops.
func (n *node) uploadWhenLeaving(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.leaving.wanted:
		}
		if err := n.ingester.Flush(ctx); err != nil && ctx.Err() == nil {
			n.logger.Warn("not everything is uploaded yet; the ingester goes on by itself", "err", err)
		}
	}
}

func (n *node) setState(s ring.State) error {
	if n.members == nil {
		return nil
	}
	return n.members.SetState(s)
}

// enter makes this instance Active as soon as it has seen the ring.
func (n *node) enter(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-n.members.Joined():
	}
	if n.ingester != nil && n.leaving.forGood() {
		return n.members.SetState(ring.Leaving)
	}
	return n.members.SetState(ring.Active)
}

// spread is how long news needs to reach everybody, and a query or push that began before
// that to get its answer.
const spread = time.Second

// leave takes the instance out of the ring. An ingester uploads everything first, within
// -ring.leave-timeout, while it is still asked for what it has; if it cannot, it stays
// Leaving, so that queries know that something is missing. It returns when nobody counts on
// this process any more.
func (n *node) leave() {
	if n.members == nil && (n.ingester == nil || !n.leaving.forGood()) {
		return // everything stays on this disk, where the next start finds it
	}
	logged := func(what string, err error) bool {
		if err != nil {
			n.logger.Warn(what, "err", err)
		}
		return err == nil
	}
	logged("cannot say that this instance is leaving", n.setState(ring.Leaving))
	if n.ingester != nil {
		n.ingester.SetReadOnly(true)
		ctx, cancel := context.WithTimeout(context.Background(), n.cfg.leaveTimeout)
		defer cancel()
		if !logged("not everything could be uploaded; entries are away until this instance is back", n.ingester.Flush(ctx)) {
			return
		}
	}
	forGood := n.ingester != nil && n.leaving.forGood()
	if forGood {
		_, err := n.leaving.decide(false) // a next process of this directory is a new one
		logged("the decision to leave for good stays", err)
	}
	if n.members == nil || n.members.Ready() != nil {
		return
	}
	logged("cannot say that this instance has left", n.members.SetState(ring.Left))
	if forGood {
		logged("this instance's tokens stay", n.members.ForgetTokens())
	}
	time.Sleep(spread)
}
