package distributor

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/wire"
)

// A push comes from a client, over ServePush or ServeOTLP, or from inside the process. It
// goes to the Pusher, the ingesters. Nothing is durable here: the answer is given when
// the Pusher has returned.

// Push judges, completes and passes on streams that are made in this process. An error of
// kind Invalid means that entries were refused while all others were stored; after any
// other error nothing may be assumed.
func (d *Distributor) Push(ctx context.Context, tenant model.Tenant, streams []model.Stream) error {
	own := slices.Clone(streams) // entries are completed in place
	n := 0
	for i := range own {
		own[i].Entries = slices.Clone(own[i].Entries)
		n += len(own[i].Entries)
	}
	all := make([]labels.Labels, 0, n)
	for _, s := range own {
		for _, e := range s.Entries {
			all = append(all, e.Metadata)
		}
	}
	var scratch []labels.Label
	return d.push(ctx, tenant, own, "", nil, func(i int) []labels.Label {
		scratch = scratch[:0]
		all[i].Range(func(l labels.Label) { scratch = append(scratch, l) })
		return scratch
	}, func(work func() error) error { return work() })
}

// job is one push on its way through the checks.
type job struct {
	*tenant
	now      time.Time
	oldest   int64 // older timestamps are refused
	newest   int64 // newer ones too
	metadata func(i int) []labels.Label

	builder      metadataBuilder
	refusals     refusals
	blocked      *blockedError
	lines, bytes int // of what is left
}

// push does the work. It completes and compacts streams in place. known
// returns what is remembered with the labels of the i-th stream; nil when nothing is. metadata
// returns the metadata of the i-th entry, counted through all streams, as the client sent it.
// The streams are judged in a turn.
func (d *Distributor) push(ctx context.Context, id model.Tenant, streams []model.Stream, policy string, known func(i int) *wire.Known, metadata func(i int) []labels.Label, inTurn func(work func() error) error) error {
	if len(streams) == 0 {
		return fault.New(fault.Unprocessable, "error at least one valid stream is required for ingestion")
	}
	now := d.cfg.Now()
	j := &job{tenant: d.tenant(id), now: now, metadata: metadata}
	j.newest = now.Add(j.limits.CreationGracePeriod.Duration()).UnixNano()
	if j.limits.RejectOldSamples {
		j.oldest = now.Add(-j.limits.RejectOldSamplesMaxAge.Duration()).UnixNano()
	}

	// 1. Judge and complete; what is refused leaves the slices.
	var left []model.Stream
	if err := inTurn(func() (err error) {
		left, err = d.judge(j, streams, policy, known)
		return err
	}); err != nil {
		return err
	}

	// 2. Take the whole push from the tenant's rate, or refuse the whole.
	if len(left) > 0 {
		if limit, ok := d.allow(j.tenant, now, j.bytes); !ok {
			j.tenant.metrics.discard(reasonRateLimited, j.lines, j.bytes)
			return fault.New(fault.RateLimited, "ingestion rate limit exceeded for user %s (limit: %d bytes/sec) while attempting to ingest '%d' lines totaling '%d' bytes, reduce log volume or contact your Loki administrator to see if the limit can be increased",
				id, int64(limit), j.lines, j.bytes)
		}
		j.tenant.metrics.lines.Add(float64(j.lines))
		j.tenant.metrics.bytes.Add(float64(j.bytes))

		// 3. Pass on. This is where ring placement stands between the checks and the Pusher.
		if err := d.next.Push(ctx, id, left); err != nil {
			return err
		}
	}

	// 4. Tell what was refused although the rest is stored.
	if j.refusals.total > 0 {
		return fault.New(fault.Invalid, "%s", j.refusals.String())
	}
	if j.blocked != nil {
		return j.blocked
	}
	return nil
}

// judge completes streams and returns those that have valid entries left, in place.
func (d *Distributor) judge(j *job, streams []model.Stream, policy string, known func(i int) *wire.Known) ([]model.Stream, error) {
	left, first := streams[:0], 0
	for i, s := range streams {
		if known != nil && i%touchStreams == 0 {
			touch(i, len(streams), known)
		}
		count := len(s.Entries)
		if count > 0 {
			var at *wire.Known
			if known != nil {
				at = known(i)
			}
			if err := j.stream(d.stream(j.tenant, s.Labels, policy, at), &s, first); err != nil {
				return nil, err
			}
		}
		if len(s.Entries) > 0 {
			left = append(left, s)
		}
		first += count
	}
	return left, nil
}

// stream judges one stream, of which known says what its labels do, whose first entry has
// number first in the push, and leaves in s what is valid.
func (j *job) stream(known *stream, s *model.Stream, first int) error {
	s.Labels, s.Hash = known.labels, known.hash
	if known.refused != nil {
		j.refusals.add("%s", known.refused.text)
		j.drop(s, known.refused.reason)
		return nil
	}
	if b := blocked(j.tenant, known.policy, j.now); b != nil {
		j.blocked = b
		j.drop(s, b.reason)
		return nil
	}
	left := s.Entries[:0]
	var times increments
	for i := range s.Entries {
		e := s.Entries[i]
		raw := j.metadata(first + i)
		if j.limits.MaxLineSizeTruncate {
			j.truncate(&e)
		}
		if !j.valid(known, &e, raw) {
			continue
		}
		size, err := j.complete(known, &e, raw)
		if err != nil {
			return err
		}
		if j.limits.IncrementDuplicateTimestamp {
			times.next(&e)
		}
		j.lines++
		j.bytes += len(e.Line) + size
		left = append(left, e)
	}
	s.Entries = left
	return nil
}

// drop counts a stream that is refused as a whole and empties it.
func (j *job) drop(s *model.Stream, reason string) {
	size := 0
	for i := range s.Entries {
		size += len(s.Entries[i].Line)
	}
	j.tenant.metrics.discard(reason, len(s.Entries), size)
	s.Entries = nil
}

// truncate cuts a line to the limit, the identifier included. If the identifier leaves no
// room, the line stays and is refused later.
func (j *job) truncate(e *model.Entry) {
	most, mark := int(j.limits.MaxLineSize), j.limits.MaxLineSizeTruncateIdentifier
	if most <= 0 || len(e.Line) <= most || len(mark) >= most {
		return
	}
	j.tenant.metrics.truncatedLines.Inc()
	j.tenant.metrics.truncatedBytes.Add(float64(len(e.Line) - most))
	cut := e.Line[: most-len(mark) : most-len(mark)]
	if mark != "" {
		cut = append(cut, mark...) // copies: the line may alias something else
	}
	e.Line = cut
}

// valid checks an entry in Loki's order and notes the first offence.
func (j *job) valid(s *stream, e *model.Entry, raw []labels.Label) bool {
	if e.Timestamp >= j.oldest && e.Timestamp <= j.newest && len(raw) == 0 &&
		(len(e.Line) <= int(j.limits.MaxLineSize) || j.limits.MaxLineSize == 0) {
		return true
	}
	reason := j.offence(s, e, raw)
	if reason == "" {
		return true
	}
	size := len(e.Line)
	for _, p := range raw {
		size += len(p.Name) + len(p.Value)
	}
	j.tenant.metrics.discard(reason, 1, size)
	return false
}

func (j *job) offence(s *stream, e *model.Entry, raw []labels.Label) (reason string) {
	l := j.limits
	rfc3339 := func(ns int64) string { return time.Unix(0, ns).UTC().Format(time.RFC3339) }
	switch most := int(l.MaxLineSize); {
	case l.RejectOldSamples && e.Timestamp < j.oldest:
		j.refusals.add("entry for stream '%s' has timestamp too old: %s, oldest acceptable timestamp is: %s",
			s.labels, rfc3339(e.Timestamp), rfc3339(j.oldest))
		return reasonTooOld
	case e.Timestamp > j.newest:
		j.refusals.add("entry for stream '%s' has timestamp too new: %s", s.labels, rfc3339(e.Timestamp))
		return reasonTooNew
	case most > 0 && len(e.Line) > most:
		j.refusals.add("max entry size '%d' bytes exceeded for stream '%s' while adding an entry with length '%d' bytes",
			most, s.labels, len(e.Line))
		return reasonLineTooLong
	case len(raw) == 0:
		return ""
	case !l.AllowStructuredMetadata:
		j.refusals.add("stream '%s' includes structured metadata, but this feature is disallowed. Please see `limits_config.allow_structured_metadata` or contact your Loki administrator to enable it", s.labels)
		return reasonNoMetadata
	}
	size := 0
	for _, p := range raw {
		if p.Name != detectedLevel {
			size += len(p.Name) + len(p.Value)
		}
	}
	if most := int(l.MaxStructuredMetadataSize); most > 0 && size > most {
		j.refusals.add("stream '%s' has structured metadata too large: '%d' bytes, limit: '%d' bytes. Please see `limits_config.max_structured_metadata_size` or contact your Loki administrator to increase it",
			s.labels, size, most)
		return reasonMetadataSize
	}
	if most := l.MaxStructuredMetadataEntriesCount; most > 0 && len(raw) > most {
		j.refusals.add("stream '%s' has too many structured metadata labels: '%d', limit: '%d'. Please see `limits_config.max_structured_metadata_entries_count` or contact your Loki administrator to increase it",
			s.labels, len(raw), most)
		return reasonMetadataCount
	}
	return ""
}

// complete gives a valid entry its stored metadata, the level included. It returns the
// bytes of metadata that count towards the rate.
func (j *job) complete(s *stream, e *model.Entry, raw []labels.Label) (size int, err error) {
	if len(raw) == 0 {
		switch {
		case j.levels == nil:
			e.Metadata = labels.EmptyLabels()
		case s.level != "":
			e.Metadata = s.metadata
		default:
			e.Metadata = levelMetadata[j.levels.fromLine(e.Line)]
		}
		return 0, nil
	}
	if size, err = j.builder.normalise(raw); err != nil {
		return 0, err
	}
	if j.levels != nil && j.builder.level() == "" {
		level := s.level
		if level == "" {
			level = j.levels.fromMetadata(j.builder.pairs)
		}
		if level == "" {
			level = j.levels.fromLine(e.Line)
		}
		j.builder.insert(labels.Label{Name: detectedLevel, Value: level})
	}
	e.Metadata = j.builder.build()
	return size, nil
}

// increments moves entries of one stream that repeat the timestamp of the entry before
// with another line, by a nanosecond each.
type increments struct {
	any            bool
	asSent, stored int64
	line           []byte
}

func (t *increments) next(e *model.Entry) {
	sent := e.Timestamp
	if t.any && (sent == t.asSent || sent == t.stored) && string(e.Line) != string(t.line) {
		e.Timestamp = t.stored + 1
	}
	t.any, t.asSent, t.stored, t.line = true, sent, e.Timestamp, e.Line
}

// policyHeader lets a client name the policy of its streams.
const policyHeader = "X-Loki-Ingestion-Policy"

// isLegacy reports whether a request URI is that of the old API, whose JSON is different.
func isLegacy(uri string) bool { return !strings.Contains(strings.ToLower(uri), "/loki/api/v1") }
