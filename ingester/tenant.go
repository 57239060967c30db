package ingester

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
)

// tenant is what the ingester remembers of a tenant beyond a memtable's life: the active
// streams, which are what the stream limit counts, the streams' rate buckets, and the
// live tails.
type tenant struct {
	name model.Tenant
	// flushed has the streams of the memtables flushed last, sorted; nil when they are few.
	flushed atomic.Pointer[streamOrder]

	mu struct {
		sync.Mutex
		streams map[uint64]*stream // by hash; streams with equal hashes are chained
		count   int
		bytes   int64
		tails   []*tail
		tailSet uint64 // counts changes of tails, so that streams know when to match again
		// forgotten says that the ingester no longer knows this object; get a new one.
		forgotten bool
	}
}

// stream is an active stream; its fields are guarded by the tenant's lock.
type stream struct {
	labels labels.Labels
	hash   uint64
	next   *stream
	used   int64 // when, ns since 1970

	tokens   float64 // rate bucket, in bytes, as of filled
	filled   int64   // ns since 1970
	tailSet  uint64
	matching []*tail // tails whose matchers select this stream, as of tailSet
}

// streamOverhead is what an active stream takes in memory besides its labels.
const streamOverhead = 200

// maxListed is the number of entries a rejection names (max_returned_stream_errors).
const maxListed = 10

func newTenant(name model.Tenant) *tenant {
	t := &tenant{name: name}
	t.mu.streams = make(map[uint64]*stream)
	return t
}

// find returns the active stream, nil when there is none. Called with the lock held.
func (t *tenant) find(ls labels.Labels, hash uint64) *stream {
	for s := t.mu.streams[hash]; s != nil; s = s.next {
		if labels.Equal(s.labels, ls) {
			return s
		}
	}
	return nil
}

// touchStreams is how many streams are touched together before the work on them. With a hundred
// thousand streams, what is known of each lies anywhere in memory, and one after the other would
// wait for it: these waits overlap.
const touchStreams = 64

// touch reads what admit needs of the first streams of the batch. Called with the lock held.
//
//go:noinline
func (t *tenant) touch(batch []model.Stream) (sum uint64) {
	batch = batch[:min(touchStreams, len(batch))]
	var active [touchStreams]*stream
	for i := range batch {
		active[i] = t.mu.streams[batch[i].LabelsHash()]
	}
	for _, s := range active[:len(batch)] {
		if s != nil {
			sum += s.hash
		}
	}
	return sum // so that the reads are none that a compiler leaves out
}

// add makes a stream active, and keeps its labels. Called with the lock held.
func (t *tenant) add(ls labels.Labels, hash uint64, now int64, burst float64) *stream {
	s := &stream{labels: ls, hash: hash, next: t.mu.streams[hash], used: now, tokens: burst, filled: now}
	t.mu.streams[hash] = s
	t.mu.count++
	t.mu.bytes += streamOverhead + int64(ls.ByteSize())
	return s
}

// admit decides which streams of a push are stored. It returns those, with their hashes,
// and for the others the last offence: their entries are refused while the rest of the
// push is stored. share is the part of the tenant's streams that this ingester holds. It writes
// into the slices of the scratch. Called with the lock held.
func (t *tenant) admit(batch []model.Stream, lim *limits.Limits, share float64, now int64, sc *scratch, m *metrics) error {
	var last error
	var refused []int
	most := streamLimit(lim, share)
	rate, burst := float64(lim.PerStreamRateLimit), float64(lim.PerStreamRateLimitBurst)
	for i := range batch {
		if i%touchStreams == 0 {
			t.touch(batch[i:])
		}
		if len(batch[i].Entries) == 0 {
			continue
		}
		hash := batch[i].LabelsHash()
		s := t.find(batch[i].Labels, hash)
		if s == nil {
			if most > 0 && t.mu.count >= most {
				last, refused = tooManyStreams(t.name, batch[i].Labels), append(refused, i)
				m.discarded.WithLabelValues("stream_limit").Add(float64(len(batch[i].Entries)))
				continue
			}
			s = t.add(batch[i].Labels, hash, now, burst)
		}
		s.used = now
		if rate > 0 && !s.take(batch[i].Entries, rate, burst, now) {
			last, refused = tooFast(t.name, &batch[i], lim.PerStreamRateLimit), append(refused, i)
			m.discarded.WithLabelValues("per_stream_rate_limit").Add(float64(len(batch[i].Entries)))
			continue
		}
		// The labels are those of the active stream, of which there is one copy however often
		// they are pushed.
		sc.streams = append(sc.streams, model.Stream{Labels: s.labels, Entries: batch[i].Entries})
		sc.hashes = append(sc.hashes, hash)
	}
	if last == nil {
		return nil
	}
	return &RefusedError{streams: refused, cause: last}
}

// streamLimit returns the number of active streams allowed here, 0 for any number, where
// the share of all the tenant's streams is held.
func streamLimit(lim *limits.Limits, share float64) int {
	most := int(math.Ceil(float64(lim.MaxGlobalStreamsPerUser) * share))
	if local := lim.MaxStreamsPerUser; local > 0 && (most <= 0 || local < most) {
		most = local
	}
	return max(most, 0)
}

// take pays for the entries from the stream's bucket: all of them or none.
func (s *stream) take(entries []model.Entry, rate, burst float64, now int64) bool {
	size := 0
	for i := range entries {
		size += entrySize(&entries[i])
	}
	s.tokens = min(burst, s.tokens+rate*float64(max(0, now-s.filled))/1e9)
	s.filled = now
	if float64(size) > s.tokens {
		return false
	}
	s.tokens -= float64(size)
	return true
}

// entrySize is what rate limits count: the line, and the names and values of the metadata.
func entrySize(e *model.Entry) int {
	size := len(e.Line)
	if !e.Metadata.IsEmpty() {
		e.Metadata.Range(func(l labels.Label) { size += len(l.Name) + len(l.Value) })
	}
	return size
}

func tooManyStreams(name model.Tenant, ls labels.Labels) error {
	return fault.New(fault.RateLimited, "maximum active stream limit exceeded when trying to create stream %s, "+
		"reduce the number of active streams (reduce labels or reduce label values), or contact your Loki administrator "+
		"to see if the limit can be increased, user: '%s'", ls, name)
}

// tooFast lists the refused entries as Loki does: one line for each of the first ten,
// then how many there were.
func tooFast(name model.Tenant, s *model.Stream, rate limits.Bytes) error {
	var b strings.Builder
	ls := s.Labels.String()
	for i := range s.Entries[:min(len(s.Entries), maxListed)] {
		e := &s.Entries[i]
		fmt.Fprintf(&b, "entry with timestamp %s ignored, reason: 'Per stream rate limit exceeded (limit: %s/sec) while attempting "+
			"to ingest for stream '%s' totaling %s, consider splitting a stream via additional labels or contact your Loki "+
			"administrator to see if the limit can be increased',\n",
			time.Unix(0, e.Timestamp).UTC(), rate, ls, limits.Bytes(entrySize(e)))
	}
	fmt.Fprintf(&b, "user '%s', total ignored: %d out of %d for stream: %s", name, len(s.Entries), len(s.Entries), ls)
	return fault.New(fault.RateLimited, "%s", b.String())
}

// expire forgets the streams that were last used before the time. It returns the bytes
// that the others take, and whether there is nothing left to remember of the tenant.
func (t *tenant) expire(before time.Time) (forgotten bool, bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for hash, head := range t.mu.streams {
		var kept *stream
		for s := head; s != nil; {
			next := s.next
			if s.used < before.UnixNano() {
				t.mu.count--
				t.mu.bytes -= streamOverhead + int64(s.labels.ByteSize())
			} else {
				s.next, kept = kept, s
			}
			s = next
		}
		if kept == nil {
			delete(t.mu.streams, hash)
		} else {
			t.mu.streams[hash] = kept
		}
	}
	t.mu.forgotten = t.mu.count == 0 && len(t.mu.tails) == 0
	return t.mu.forgotten, t.mu.bytes
}
