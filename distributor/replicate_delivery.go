package distributor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/skaldlog/skald/distributor/ring"
	"github.com/skaldlog/skald/ingester/remote"
	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
)

// delivery is a chunk of a push on its way to the ingesters. It owns its memory: the
// streams were encoded once, every replica is sent the same bytes, and the request that
// brought them may be gone. It ends when the last call has returned.
type delivery struct {
	r       *Replicator
	tenant  model.Tenant
	view    *ring.View
	started time.Time
	bytes   int64
	refs    atomic.Int32
	// decided is closed when each group is known to be stored or not.
	decided chan struct{}

	mu struct {
		sync.Mutex
		parts     []*part
		undecided int
	}
}

// part is a group on its way; its mutable fields are guarded by the delivery's lock.
type part struct {
	*group
	encoded *remote.Part

	tried    []*ring.Instance // sent to, or skipped
	spares   []*ring.Instance // who else could take it; nil until asked for
	asked    bool             // for spares
	running  int
	acks     int
	refusals []uint8 // by stream; nil while there are none
	refusal  error   // the last one
	failures []failure
	decided  bool
}

// failure says why an instance does not have a part.
type failure struct {
	instance *ring.Instance
	err      error
}

// newDelivery encodes what place has gathered. The caller must release it.
func (r *Replicator) newDelivery(place *placer) (*delivery, error) {
	if err := r.begin(); err != nil {
		return nil, err
	}
	d := &delivery{r: r, tenant: place.tenant, view: place.view, decided: make(chan struct{}), started: time.Now()}
	d.refs.Store(1)
	for _, g := range place.groups {
		p := &part{group: g}
		d.mu.parts = append(d.mu.parts, p)
		// What cannot be stored safely is not stored at all.
		if len(g.replicas) >= r.quorum() {
			here := r.cluster.Local != nil && slices.ContainsFunc(g.replicas, r.isSelf)
			p.encoded = remote.NewPart(g.streams, r.cfg.Compression, here)
			d.bytes += int64(p.encoded.Memory())
		}
		g.streams = nil // they alias the request
	}
	if used := r.memory.Add(d.bytes); used > r.cfg.MemoryBytes && used > d.bytes {
		d.release()
		return nil, fault.New(fault.Unavailable, "entries on their way to ingesters take %s of %s, try again later",
			humanize.IBytes(uint64(used-d.bytes)), humanize.IBytes(uint64(r.cfg.MemoryBytes)))
	}
	return d, nil
}

func (r *Replicator) isSelf(in *ring.Instance) bool { return in.ID == r.cluster.Self }

// release gives a reference back; the last one ends the delivery.
func (d *delivery) release() {
	if d.refs.Add(-1) > 0 {
		return
	}
	for _, p := range d.mu.parts {
		if p.encoded != nil {
			p.encoded.Free()
		}
	}
	d.r.memory.Add(-d.bytes)
	d.r.end()
}

// start sends every part to its replicas.
func (d *delivery) start() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.undecided = len(d.mu.parts)
	batches := map[*ring.Instance][]*part{}
	var order []*ring.Instance
	for _, p := range d.mu.parts {
		if p.encoded == nil {
			d.judge(p)
			continue
		}
		for _, in := range p.replicas {
			if batches[in] == nil {
				order = append(order, in)
			}
			batches[in] = append(batches[in], p)
		}
	}
	for _, in := range order {
		for _, p := range batches[in] {
			p.tried = append(p.tried, in)
			p.running++
		}
	}
	for _, in := range order {
		d.send(in, batches[in])
	}
}

// send starts a call with parts that count it as running already. Called with the lock
// held.
func (d *delivery) send(in *ring.Instance, parts []*part) {
	bytes := int64(0)
	for _, p := range parts {
		bytes += int64(p.encoded.WireSize())
	}
	peer := d.r.peer(in)
	if err := peer.admit(bytes, time.Now()); err != nil {
		peer.outcomes[outcomeSkipped].Inc()
		d.failed(in, parts, err, true)
		return
	}
	d.refs.Add(1)
	go func() {
		defer d.release()
		began := time.Now()
		err := d.call(in, parts)
		now := time.Now()
		peer.done(bytes, err, now)
		d.r.metrics.seconds.Observe(now.Sub(began).Seconds())
		d.finished(in, peer, parts, err)
	}()
}

// call stores the parts on an instance: in this process without a detour.
func (d *delivery) call(in *ring.Instance, parts []*part) error {
	ctx, cancel := context.WithTimeout(d.r.base, d.r.cfg.Timeout)
	defer cancel()
	if d.r.isSelf(in) && d.r.cluster.Local != nil {
		var streams []model.Stream
		for _, p := range parts {
			more, err := p.encoded.Streams()
			if err != nil {
				return err
			}
			streams = append(streams, more...)
		}
		if a := parts[0].encoded.Arrival(); len(parts) == 1 && len(a.Packed) > 0 {
			ctx = model.WithArrival(ctx, a)
		}
		return d.r.cluster.Local.Push(ctx, d.tenant, streams)
	}
	encoded := make([]*remote.Part, len(parts))
	for i, p := range parts {
		encoded[i] = p.encoded
	}
	return d.r.cluster.Remote(in.Addr).PushParts(ctx, d.tenant, encoded)
}

// finished takes the result of a call.
func (d *delivery) finished(in *ring.Instance, peer *peer, parts []*part, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	some, partial := refusedStreams(err)
	switch {
	case err == nil:
		peer.outcomes[outcomeStored].Inc()
	case partial || refused(err):
		peer.outcomes[outcomeRefused].Inc()
	default:
		peer.outcomes[outcomeFailed].Inc()
		d.failed(in, parts, err, unreached(err))
		return
	}
	first := 0
	for _, p := range parts {
		p.running--
		n := p.encoded.Len()
		switch {
		case partial:
			p.acks++
			for len(some) > 0 && some[0] < first+n {
				p.refuse(some[0]-first, err)
				some = some[1:]
			}
		case err != nil:
			p.acks++ // all of it refused
			for i := range n {
				p.refuse(i, err)
			}
		default:
			p.acks++
		}
		first += n
		d.judge(p)
	}
}

// refuse counts that an instance which answered refused a stream.
func (p *part) refuse(stream int, err error) {
	if p.refusals == nil {
		p.refusals = make([]uint8, p.encoded.Len())
	}
	p.refusals[stream]++
	p.refusal = err
}

// failed takes that an instance does not have the parts, and sends them to the next one
// that could: always when it was not reached, because then their number of copies is for
// long, and otherwise only while there is no quorum, because an ingester that is overloaded
// is not helped by loading its neighbours. Called with the lock held.
func (d *delivery) failed(in *ring.Instance, parts []*part, err error, always bool) {
	spares := map[*ring.Instance][]*part{}
	var order []*ring.Instance
	for _, p := range parts {
		p.running--
		p.failures = append(p.failures, failure{in, err})
		if next := d.spare(p); next != nil && (always || !p.decided) && d.r.base.Err() == nil {
			p.tried = append(p.tried, next)
			p.running++
			if spares[next] == nil {
				order = append(order, next)
			}
			spares[next] = append(spares[next], p)
			d.r.metrics.replacements.Inc()
		}
	}
	for _, next := range order {
		d.send(next, spares[next])
	}
	for _, p := range parts {
		d.judge(p)
	}
}

// spare returns the next instance clockwise that has not been tried, nil when there is none
// or a part has been to enough of them. Called with the lock held.
func (d *delivery) spare(p *part) *ring.Instance {
	rf := d.r.cfg.Factor
	if len(p.tried) >= 2*rf {
		return nil
	}
	if !p.asked {
		p.asked = true
		p.spares = d.view.Replicas(p.token, 2*rf, nil)
	}
	for len(p.spares) > 0 {
		next := p.spares[0]
		p.spares = p.spares[1:]
		if !slices.Contains(p.tried, next) {
			return next
		}
	}
	return nil
}

// judge decides a part if it can be decided: when each of its streams is on a quorum, or
// was refused by so many that it cannot be, or when nobody is left to try. Called with the
// lock held.
func (d *delivery) judge(p *part) {
	if p.decided || p.running > 0 && !p.settled(d.r) {
		return
	}
	p.decided = true
	if d.mu.undecided--; d.mu.undecided == 0 {
		d.r.metrics.quorum.Observe(time.Since(d.started).Seconds())
		close(d.decided)
	}
}

// settled reports whether no further answer can change what becomes of the streams.
func (p *part) settled(r *Replicator) bool {
	if p.refusals == nil {
		return p.acks >= r.quorum()
	}
	for _, n := range p.refusals {
		if p.acks-int(n) < r.quorum() && int(n) <= r.cfg.Factor-r.quorum() {
			return false
		}
	}
	return true
}

// collect adds to failed what is not stored.
func (d *delivery) collect(failed *failures) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.mu.parts {
		for i, origin := range p.origins {
			refusals := 0
			if p.refusals != nil {
				refusals = int(p.refusals[i])
			}
			switch {
			case p.encoded != nil && p.acks-refusals >= d.r.quorum():
			case refusals > d.r.cfg.Factor-d.r.quorum():
				failed.refusal = p.refusal
			default:
				failed.short(origin, d.reasons(p))
			}
		}
	}
}

// reasons says why a part is not on a quorum.
func (d *delivery) reasons(p *part) []string {
	var why []string
	if p.encoded == nil {
		why = append(why, fmt.Sprintf("only %d of the %d ingesters needed can be written to", len(p.replicas), d.r.quorum()))
		for _, in := range d.view.Instances(ring.Ingester) {
			if !d.view.Healthy(in) {
				why = append(why, fmt.Sprintf("%s at %s is %s", in.ID, in.Addr, in.Health()))
			}
		}
		return why
	}
	for _, f := range p.failures {
		why = append(why, fmt.Sprintf("%s: %v", f.instance.ID, f.err))
	}
	if p.running > 0 {
		for _, in := range p.tried {
			if !slices.ContainsFunc(p.failures, func(f failure) bool { return f.instance == in }) {
				why = append(why, fmt.Sprintf("%s at %s may not have answered yet", in.ID, in.Addr))
			}
		}
	}
	if p.refusal != nil {
		why = append(why, p.refusal.Error())
	}
	return why
}

// failures are the streams of a push that are not stored as they should be.
type failures struct {
	unavailable map[int]bool // by number in the push
	streams     []int        // the first ones of them
	why         []string
	refusal     error // the last one
}

const (
	listedStreams = 10
	listedReasons = 10
)

func (f *failures) short(stream int, why []string) {
	if f.unavailable == nil {
		f.unavailable = map[int]bool{}
	}
	if !f.unavailable[stream] && len(f.streams) < listedStreams {
		f.streams = append(f.streams, stream)
	}
	f.unavailable[stream] = true
	for _, w := range why {
		if len(f.why) < listedReasons && !slices.Contains(f.why, w) {
			f.why = append(f.why, w)
		}
	}
}

// error is what the client is told of a push of the streams.
func (f *failures) error(r *Replicator, streams []model.Stream) error {
	if len(f.unavailable) == 0 {
		return f.refusal
	}
	r.metrics.short.Add(float64(len(f.unavailable)))
	var names []string
	for _, i := range f.streams {
		names = append(names, streams[i].Labels.String())
	}
	if more := len(f.unavailable) - len(f.streams); more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return fault.New(fault.Unavailable, "%d of %d streams are not on %d of %d ingesters, send them again: %s; %s",
		len(f.unavailable), len(streams), r.quorum(), r.cfg.Factor, strings.Join(names, ", "), strings.Join(f.why, "; "))
}
