package ring

import (
	"cmp"
	"math/bits"
	"slices"
	"sort"
	"sync"

	"github.com/cespare/xxhash/v2"

	"github.com/skaldlog/skald/internal/model"
)

// View is an immutable picture of the ring. It is cheap to share, and safe for concurrent
// use.
type View struct {
	instances []*Instance // not Left, sorted by ID
	hashes    []uint64    // of the IDs, for Rank
	tokens    []token     // of the ingesters that may be written to, sorted
	writable  int         // instances behind tokens
	zones     int         // distinct zones among them

	subrings struct {
		sync.RWMutex
		views map[subringKey]*View
	}
}

type token struct {
	at    uint32
	owner *Instance
}

type subringKey struct {
	tenant model.Tenant
	size   int
}

// maxSubrings bounds the subrings that a view remembers; all are forgotten beyond it.
const maxSubrings = 10_000

// NewView returns a view of the instances, which it copies. Those that have Left are
// dropped; Stale ones are unhealthy.
func NewView(instances []Instance) *View {
	v := &View{}
	for i := range instances {
		if instances[i].State != Left {
			own := instances[i]
			v.instances = append(v.instances, &own)
		}
	}
	slices.SortFunc(v.instances, func(a, b *Instance) int { return cmp.Compare(a.ID, b.ID) })
	v.index()
	return v
}

// Single is the view of a process that is alone: one instance, always healthy, that holds
// everything.
func Single(self Instance) *View {
	self.State, self.Stale = Active, false
	if len(self.Tokens) == 0 {
		self.Tokens = []uint32{0}
	}
	return NewView([]Instance{self})
}

func (v *View) index() {
	n := 0
	zones := map[string]bool{}
	v.hashes = make([]uint64, len(v.instances))
	for i, in := range v.instances {
		v.hashes[i] = xxhash.Sum64String(in.ID)
		if v.mayWrite(in) {
			n += len(in.Tokens)
		}
	}
	v.tokens = make([]token, 0, n)
	for _, in := range v.instances {
		if !v.mayWrite(in) {
			continue
		}
		v.writable++
		zones[in.Zone] = true
		for _, t := range in.Tokens {
			v.tokens = append(v.tokens, token{t, in})
		}
	}
	v.zones = len(zones)
	// Two instances with one token: the ID decides, so that every process decides alike.
	slices.SortFunc(v.tokens, func(a, b token) int {
		if c := cmp.Compare(a.at, b.at); c != 0 {
			return c
		}
		return cmp.Compare(a.owner.ID, b.owner.ID)
	})
}

func (v *View) mayWrite(i *Instance) bool {
	return i.Roles.Has(Ingester) && len(i.Tokens) > 0 && v.Healthy(i)
}

// Instances returns the instances that play a role and have not left, sorted by ID, the
// unhealthy ones included.
func (v *View) Instances(role Role) []*Instance {
	var found []*Instance
	for _, in := range v.instances {
		if in.Roles.Has(role) {
			found = append(found, in)
		}
	}
	return found
}

// Get returns the instance of an ID, or nil.
func (v *View) Get(id string) *Instance {
	i, ok := slices.BinarySearchFunc(v.instances, id, func(in *Instance, id string) int { return cmp.Compare(in.ID, id) })
	if !ok {
		return nil
	}
	return v.instances[i]
}

// Healthy reports whether an instance may be given new work: it is Active and was heard
// from lately.
func (v *View) Healthy(i *Instance) bool { return !i.Stale && i.State == Active }

// HealthyRead reports whether an instance can be asked for what it holds: it is Active or
// Leaving and was heard from lately.
func (v *View) HealthyRead(i *Instance) bool {
	return !i.Stale && (i.State == Active || i.State == Leaving)
}

// Lossy reports whether an ingester has lost copies that are nowhere safe yet: it came back
// with an empty disk, and not every other ingester has put what it holds into the object
// store since.
func (v *View) Lossy(i *Instance) bool {
	if i.Lost == 0 {
		return false
	}
	for _, o := range v.instances {
		if o.ID != i.ID && o.Roles.Has(Ingester) && o.Flushed < i.Lost {
			return true
		}
	}
	return false
}

// LastLoss is the latest Lost of all ingesters but one; 0 is none.
func (v *View) LastLoss(but string) (at int64) {
	for _, in := range v.instances {
		if in.ID != but && in.Roles.Has(Ingester) {
			at = max(at, in.Lost)
		}
	}
	return at
}

// Count returns the number of healthy instances of a role.
func (v *View) Count(role Role) int {
	n := 0
	for _, in := range v.instances {
		if in.Roles.Has(role) && v.Healthy(in) {
			n++
		}
	}
	return n
}

// Token is the place of a stream on the ring. shard is 0 but for hot streams, which are
// spread by counting it up; different shards of a stream are as far apart as different
// streams.
func Token(tenant model.Tenant, streamHash uint64, shard uint32) uint32 {
	h := mix(xxhash.Sum64String(string(tenant)) + streamHash)
	if shard != 0 {
		h = mix(h + uint64(shard)*0x9e3779b97f4a7c15)
	}
	return uint32(h >> 32)
}

// mix spreads every bit of x over the result (the finalizer of SplitMix64).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Replicas returns the rf ingesters that a token's entries are written to, the first one
// clockwise first. Instances that may not be written to are skipped, so that the next
// healthy one takes their place. No two stand in one zone while there are zones left, and
// none is named twice; so there are fewer than rf when fewer are healthy. buf is used if
// it has room, and then nothing is allocated.
func (v *View) Replicas(at uint32, rf int, buf []*Instance) []*Instance {
	buf = buf[:0]
	rf = min(rf, v.writable)
	if rf <= 0 {
		return buf
	}
	first := sort.Search(len(v.tokens), func(i int) bool { return v.tokens[i].at >= at })
	if v.zones == 1 {
		return v.walk(first, rf, rf, buf)
	}
	// With fewer zones than replicas, the replicas are spread evenly: each round lets every
	// zone have one more.
	for perZone := 1; len(buf) < rf; perZone++ {
		buf = v.walk(first, rf, perZone, buf)
	}
	return buf
}

// walk goes clockwise from token number first until buf holds rf instances, at most
// perZone of one zone, or every zone has its share.
func (v *View) walk(first, rf, perZone int, buf []*Instance) []*Instance {
	full := 0 // zones that have perZone
	if perZone > 1 && v.zones > 1 {
		full = -1 // instances may be fewer than perZone in a zone: go round
	}
	for n := range v.tokens {
		if len(buf) == rf || full == v.zones {
			break
		}
		i := first + n
		if i >= len(v.tokens) {
			i -= len(v.tokens)
		}
		in, same, known := v.tokens[i].owner, 0, false
		for _, have := range buf {
			known = known || have == in
			if have.Zone == in.Zone {
				same++
			}
		}
		if known || same >= perZone {
			continue
		}
		buf = append(buf, in)
		if full >= 0 && same+1 == perZone {
			full++
		}
	}
	return buf
}

// Rank orders the healthy instances of a role for a piece of work: the first one owns
// key, the others follow in the order in which they would inherit it. Instances that come
// or go change the rank of no others (rendezvous hashing). buf is used if it has room.
func (v *View) Rank(role Role, key string, buf []*Instance) []*Instance {
	buf = buf[:0]
	for _, in := range v.instances {
		if in.Roles.Has(role) && v.Healthy(in) {
			buf = append(buf, in)
		}
	}
	rank(buf, xxhash.Sum64String(key))
	return buf
}

// Owner returns the first of Rank, or nil when no instance of the role is healthy.
func (v *View) Owner(role Role, key string) *Instance {
	var best *Instance
	var most uint64
	k := xxhash.Sum64String(key)
	for i, in := range v.instances {
		if !in.Roles.Has(role) || !v.Healthy(in) {
			continue
		}
		if score := mix(v.hashes[i] ^ k); best == nil || score > most {
			best, most = in, score
		}
	}
	return best
}

func rank(list []*Instance, key uint64) {
	slices.SortFunc(list, func(a, b *Instance) int {
		sa, sb := mix(xxhash.Sum64String(a.ID)^key), mix(xxhash.Sum64String(b.ID)^key)
		if c := cmp.Compare(sb, sa); c != 0 {
			return c
		}
		return cmp.Compare(a.ID, b.ID)
	})
}

// Subring returns the part of the ring whose ingesters hold a tenant's streams: size of
// them, rounded up to the same number in each zone. Other roles are not confined. Size 0,
// or one that the ring does not exceed, is the whole ring.
//
// The choice is stable: a larger size adds to a smaller one, and an ingester that comes or
// goes changes at most one of a tenant's. Unhealthy instances stay in, so that a tenant
// does not spread over the ring while its ingesters restart.
func (v *View) Subring(tenant model.Tenant, size int) *View {
	if size <= 0 {
		return v
	}
	key := subringKey{tenant, size}
	v.subrings.RLock()
	sub, ok := v.subrings.views[key]
	v.subrings.RUnlock()
	if ok {
		return sub
	}
	sub = v.choose(key)
	v.subrings.Lock()
	defer v.subrings.Unlock()
	if v.subrings.views == nil || len(v.subrings.views) >= maxSubrings {
		v.subrings.views = map[subringKey]*View{}
	}
	v.subrings.views[key] = sub
	return sub
}

func (v *View) choose(key subringKey) *View {
	zones := map[string][]*Instance{}
	ingesters := 0
	for _, in := range v.instances {
		if in.Roles.Has(Ingester) {
			zones[in.Zone] = append(zones[in.Zone], in)
			ingesters++
		}
	}
	if key.size >= ingesters {
		return v
	}
	perZone := (key.size + len(zones) - 1) / len(zones)
	chosen := make(map[*Instance]bool, key.size)
	for zone, list := range zones {
		// The zone's name is part of the key, or like-named instances of several zones would
		// go together. Those that leave are in without counting: they take no more entries.
		rank(list, bits.RotateLeft64(xxhash.Sum64String(string(key.tenant)), 17)^xxhash.Sum64String(zone))
		n := 0
		for _, in := range list {
			if n == perZone {
				break
			}
			chosen[in] = true
			if in.State != Leaving {
				n++
			}
		}
	}
	sub := &View{}
	for _, in := range v.instances {
		if chosen[in] || !in.Roles.Has(Ingester) {
			sub.instances = append(sub.instances, in)
		}
	}
	sub.index()
	return sub
}

// Ownership returns, for each ingester that may be written to, the part of all streams
// that it holds at a replication factor: the parts add up to rf when there are enough
// instances. It visits every token.
func (v *View) Ownership(rf int) map[string]float64 {
	owned := make(map[string]float64, v.writable)
	buf := make([]*Instance, 0, rf)
	for i := range v.tokens {
		before := v.tokens[(i+len(v.tokens)-1)%len(v.tokens)].at
		length := float64(v.tokens[i].at - before) // wraps around zero by itself
		if len(v.tokens) == 1 {
			length = 1 << 32
		}
		if length == 0 {
			continue
		}
		buf = v.Replicas(v.tokens[i].at, rf, buf)
		for _, in := range buf {
			owned[in.ID] += length / (1 << 32)
		}
	}
	return owned
}
