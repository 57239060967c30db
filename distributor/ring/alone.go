package ring

import (
	"fmt"
	"time"
)

// Alone is the ring of a process without gossip: one instance, always healthy.
type Alone struct {
	view  *View
	never chan struct{}
}

// NewAlone returns the ring of self.
func NewAlone(self Instance) *Alone {
	return &Alone{view: Single(self), never: make(chan struct{})}
}

// View returns the one instance.
func (a *Alone) View() *View { return a.view }

// Changed returns a channel that is never closed.
func (a *Alone) Changed() <-chan struct{} { return a.never }

// Snapshot returns the one instance, heard of just now.
func (a *Alone) Snapshot() []Instance {
	list := make([]Instance, 0, 1)
	for _, in := range a.view.instances {
		one := *in
		one.Seen = time.Now()
		list = append(list, one)
	}
	return list
}

// Forget refuses.
func (a *Alone) Forget(id string) error {
	return fmt.Errorf("instance %q cannot be forgotten: this process is alone", id)
}
