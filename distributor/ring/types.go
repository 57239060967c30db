package ring

import (
	"fmt"
	"strings"
	"time"
)

// Role is a set of parts that one process plays.
type Role uint8

// The roles.
const (
	Distributor Role = 1 << iota
	Ingester
	Querier
	Compactor

	// All is what a process plays that is not told otherwise.
	All = Distributor | Ingester | Querier | Compactor
)

var roleNames = []struct {
	role Role
	name string
}{{Distributor, "distributor"}, {Ingester, "ingester"}, {Querier, "querier"}, {Compactor, "compactor"}}

// Has reports whether r includes every role of other.
func (r Role) Has(other Role) bool { return r&other == other }

// String lists the roles as ParseRoles reads them.
func (r Role) String() string {
	var names []string
	for _, n := range roleNames {
		if r.Has(n.role) {
			names = append(names, n.name)
		}
	}
	return strings.Join(names, ",")
}

// ParseRoles reads a comma list of role names; all stands for every role.
func ParseRoles(text string) (Role, error) {
	var roles Role
next:
	for _, name := range strings.Split(text, ",") {
		if name = strings.TrimSpace(name); name == "all" {
			roles |= All
			continue
		}
		for _, n := range roleNames {
			if n.name == name {
				roles |= n.role
				continue next
			}
		}
		return 0, fmt.Errorf("role %q: expected all, or a comma list of distributor, ingester, querier and compactor", name)
	}
	return roles, nil
}

// State is a stage in an instance's life; the package doc draws it.
type State uint8

// The states.
const (
	Joining State = iota // starts: neither written to nor read from
	Active               // written to and read from
	Leaving              // stops: read from only, since it may hold what is nowhere else
	Left                 // gone with nothing left behind; kept for a while so that old news cannot bring it back
)

var stateNames = [...]string{Joining: "JOINING", Active: "ACTIVE", Leaving: "LEAVING", Left: "LEFT"}

// String returns the state in capitals, as Loki's ring page writes it.
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// Instance is one process of the ring. Those that a View hands out are shared and must not
// be changed.
type Instance struct {
	ID    string
	Roles Role
	// Addr and HTTP are the host:port of the gRPC and the HTTP server.
	Addr, HTTP string
	// Zone is where it stands: a zone is what fails together. Empty where zones are not used.
	Zone  string
	State State
	// Tokens are the points of the ring that an ingester owns, sorted. They follow from Seed
	// and TokenCount, which travel in their place.
	Tokens     []uint32
	Seed       uint64
	TokenCount int
	// Started orders the processes that had this ID one after the other: the latest counts.
	// It is that process's clock at its start, in nanoseconds since 1970, or more where its
	// predecessor's clock was ahead.
	Started int64
	// Process tells apart two processes that were given the same ID by mistake.
	Process uint64
	// Heartbeat grows with each sign of life and change of state: the process's clock in
	// nanoseconds since 1970. Only its own process compares it with a clock.
	Heartbeat int64
	// Registered is when an instance of this ID first joined, in nanoseconds since 1970.
	Registered int64
	// Lost is when it last came back with an empty disk although it had been given entries,
	// in nanoseconds since 1970; 0 is never. Flushed is the greatest Lost of any instance
	// that it has answered by putting all it had into the object store.
	Lost, Flushed int64

	// Seen is when this process last heard a new heartbeat, and Stale whether that is too
	// long ago. Both are the observer's own view and are never sent.
	Seen  time.Time
	Stale bool
}

// Health words what an observer thinks of the instance: its state, or UNHEALTHY.
func (i *Instance) Health() string {
	if i.Stale && i.State != Left {
		return "UNHEALTHY"
	}
	return i.State.String()
}
