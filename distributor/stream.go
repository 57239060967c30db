package distributor

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/wire"
)

// streamKey finds a stream's labels, as pushed, under the limits of a tenant. Limits that
// changed have another address.
type streamKey struct {
	limits *limits.Limits
	hash   uint64
	policy string // forced by the request, usually ""
}

// stream is what labels alone say about a stream; it is worked out once and remembered. It
// takes two cache lines.
type stream struct {
	key     streamKey
	labels  labels.Labels // with service_name
	hash    uint64        // of those
	refused *refusedLabels

	policy   string
	level    string // from a label, or ""
	metadata labels.Labels
	pushed   labels.Labels
}

// refusedLabels says why labels are refused.
type refusedLabels struct{ text, reason string }

const serviceName = "service_name"

// stream returns what is known about a stream with the labels. It is noted at the place, if
// there is one, where the same labels are found next time without a look-up. Under limits or a
// policy other than those of the note it is found by hash: tenants that push the same labels
// must not work them out in turns.
func (d *Distributor) stream(t *tenant, pushed labels.Labels, policy string, place *wire.Known) *stream {
	var noted *stream
	if place != nil {
		if noted, _ = place.Note.Load().(*stream); noted != nil && noted.key.limits == t.limits && noted.key.policy == policy {
			return noted
		}
	}
	key := streamKey{t.limits, pushed.Hash(), policy}
	if s, ok := d.streams.Get(key); ok && labels.Equal(s.pushed, pushed) {
		return s
	}
	s := newStream(t, pushed, policy)
	s.key = key
	// The text of a refusal is longer than the place counts for.
	if place != nil && s.refused == nil {
		place.Note.Store(s)
	}
	if place == nil || s.refused != nil || noted != nil {
		size := int(s.labels.ByteSize()) + 250
		if s.refused != nil {
			size += len(s.refused.text)
		}
		d.streams.Put(key, s, size)
	}
	return s
}

// touchStreams is how many streams are touched together: what is read fits the processor's
// first cache.
const touchStreams = 64

// touch reads what is noted at the places, of touchStreams streams from the first on. With a
// hundred thousand streams each would wait for memory, and these waits overlap.
//
//go:noinline
func touch(first, streams int, known func(i int) *wire.Known) (sum int) {
	var noted [touchStreams]*stream
	n := min(touchStreams, streams-first)
	for i := range noted[:n] {
		if at := known(first + i); at != nil {
			noted[i], _ = at.Note.Load().(*stream)
		}
	}
	for _, s := range noted[:n] {
		if s != nil {
			sum += len(s.key.policy) + len(s.level)
		}
	}
	return sum // so that the reads are none that a compiler leaves out
}

func newStream(t *tenant, pushed labels.Labels, policy string) *stream {
	s := &stream{pushed: pushed, labels: withServiceName(pushed, t.limits.DiscoverServiceName)}
	s.hash = s.labels.Hash()
	s.policy = cmp.Or(policy, t.limits.PolicyStreamMapping.For(s.labels))
	if err, reason := checkLabels(t.limits, s.labels); err != nil {
		s.refused = &refusedLabels{err.Error(), reason}
	} else if missing := missingLabels(t.limits, s.labels, s.policy); len(missing) > 0 {
		s.refused = &refusedLabels{fault.New(fault.Invalid, "missing required labels '%s' for user '%s' for stream '%s' (policy: '%s')",
			strings.Join(missing, ","), t.id, s.labels, s.policy).Error(), reasonMissingDemands}
	}
	if t.levels != nil {
		if s.level = t.levels.fromLabels(s.labels); s.level != "" {
			s.metadata = labels.FromStrings(detectedLevel, s.level)
		}
	}
	return s
}

// withServiceName adds the label service_name, from the first of the names that the
// stream has. Streams that Loki writes about itself are left alone.
func withServiceName(lbs labels.Labels, names []string) labels.Labels {
	if len(names) == 0 || lbs.Has(serviceName) || lbs.Has("__aggregated_metric__") || lbs.Has("__pattern__") {
		return lbs
	}
	value := "unknown_service"
	for _, name := range names {
		if v := lbs.Get(name); v != "" {
			value = v
			break
		}
	}
	b := labels.NewScratchBuilder(lbs.Len() + 1)
	lbs.Range(func(l labels.Label) { b.Add(l.Name, l.Value) })
	b.Add(serviceName, value)
	b.Sort()
	return b.Labels()
}

// checkLabels applies the limits on labels. It returns the first offence and the reason
// under which it is counted.
func checkLabels(l *limits.Limits, lbs labels.Labels) (err error, reason string) {
	n := lbs.Len()
	if n == 0 {
		return fault.New(fault.Invalid, "error at least one label pair is required per stream"), reasonMissingLabels
	}
	if lbs.Has(serviceName) {
		n--
	}
	if most := l.MaxLabelNamesPerSeries; most > 0 && n > most {
		return fault.New(fault.Invalid, "entry for stream '%s' has %d label names; limit %d", lbs, n, most), reasonTooManyLabels
	}
	last := ""
	_ = lbs.Validate(func(p labels.Label) error {
		switch {
		case l.MaxLabelNameLength > 0 && len(p.Name) > l.MaxLabelNameLength:
			err, reason = fault.New(fault.Invalid, "stream '%s' has label name too long: '%s'", lbs, p.Name), reasonNameTooLong
		case l.MaxLabelValueLength > 0 && len(p.Value) > l.MaxLabelValueLength:
			err, reason = fault.New(fault.Invalid, "stream '%s' has label value too long: '%s'", lbs, p.Value), reasonValueTooLong
		case p.Name == last:
			err, reason = fault.New(fault.Invalid, "stream '%s' has duplicate label name: '%s'", lbs, p.Name), reasonDuplicateName
		}
		last = p.Name
		return err
	})
	return err, reason
}

const allPolicies = "*"

// missingLabels lists the labels that the stream must have and lacks.
func missingLabels(l *limits.Limits, lbs labels.Labels, policy string) (missing []string) {
	demanded := l.EnforcedLabels
	if len(l.PolicyEnforcedLabels) > 0 {
		demanded = slices.Concat(demanded, l.PolicyEnforcedLabels[policy], l.PolicyEnforcedLabels[allPolicies])
	}
	for _, name := range demanded {
		if !lbs.Has(name) && !slices.Contains(missing, name) {
			missing = append(missing, name)
		}
	}
	return missing
}

// blockedError says that the operator does not want the data, with the status to answer.
type blockedError struct {
	status int
	reason string
	error
}

// blocked returns why the policy's streams are not wanted now, or nil.
func blocked(t *tenant, policy string, now time.Time) *blockedError {
	l := t.limits
	status := l.BlockIngestionStatusCode
	if until := l.BlockIngestionUntil; now.Before(until.Time) {
		return &blockedError{status, reasonBlocked, fault.New(fault.Forbidden,
			"ingestion blocked for user '%s' until '%s' with status code '%d'", t.id, until.Format(time.RFC3339), status)}
	}
	if len(l.BlockIngestionPolicyUntil) == 0 {
		return nil
	}
	until, ok := l.BlockIngestionPolicyUntil[policy]
	if !ok {
		until = l.BlockIngestionPolicyUntil[allPolicies]
	}
	if !now.Before(until.Time) {
		return nil
	}
	return &blockedError{status, reasonBlockedPolicy, fault.New(fault.Forbidden,
		"ingestion blocked for user '%s' (policy: '%s') until '%s' with status code '%d'", t.id, policy, until.Format(time.RFC3339), status)}
}
