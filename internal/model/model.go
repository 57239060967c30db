// Package model holds the words that every part of Skald shares: the tenant,
// the entry, the stream, the time range, the block and the request for blocks.
//
// It stands below all other packages and imports none of them. A stream's labels,
// and an entry's structured metadata, are prometheus/model/labels.Labels from the
// moment a push is decoded until an answer is encoded; nothing is converted between
// layers. Two verbs move data, and each has one signature at every hop:
//
//	Push(ctx, tenant, streams)   client → distributor → ingester
//	Select(ctx, tenant, request) memtable, segment, object store → querier
//
// The life of a batch is the life of the call: whoever receives a []Stream may read
// it until it returns and must copy what it keeps, because lines usually alias the
// body of the request that brought them.
package model

import (
	"fmt"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/prometheus/model/labels"
)

// Tenant names the owner of data. It has a type of its own so that an unchecked
// string never becomes part of a path, an object key or a metric; obtain one from
// ParseTenant.
type Tenant string

// DefaultTenant is the tenant of a server that runs without authentication.
const DefaultTenant Tenant = "fake"

// MaxTenantLength is the longest tenant id accepted, in bytes.
const MaxTenantLength = 150

// ParseTenant checks an id as Loki does: letters, digits and !-_.*'() only, at most
// 150 bytes, and not "." or "..", so that an id is always a safe path element.
func ParseTenant(id string) (Tenant, error) {
	if len(id) > MaxTenantLength {
		return "", fmt.Errorf("tenant ID is too long: max %d characters", MaxTenantLength)
	}
	if id == "." || id == ".." {
		return "", fmt.Errorf("tenant ID is '.' or '..'")
	}
	if id == "" {
		return "", fmt.Errorf("no org id")
	}
	for _, c := range id {
		if !tenantRune(c) {
			return "", fmt.Errorf("tenant ID '%s' contains unsupported character '%c'", id, c)
		}
	}
	return Tenant(id), nil
}

func tenantRune(c rune) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return true
	}
	switch c {
	case '!', '-', '_', '.', '*', '\'', '(', ')':
		return true
	}
	return false
}

// Entry is one log line.
type Entry struct {
	// Timestamp is nanoseconds since 1970 UTC.
	Timestamp int64
	// Line is the text as received, without the line feed that ended it. It may hold
	// any bytes, and it is never modified in place.
	Line []byte
	// Metadata is the structured metadata, sorted by name; no value is empty.
	Metadata labels.Labels
}

// Stream is a set of labels and some of its entries, in the order of arrival.
//
// A stored stream is a set of (timestamp, line, metadata): pushing an entry twice
// stores it once.
type Stream struct {
	Labels  labels.Labels
	Entries []Entry
	// Hash is Labels.Hash(), or 0 when it has not been computed; see LabelsHash. With many
	// streams each look at labels waits for memory.
	Hash uint64
}

// LabelsHash returns Labels.Hash().
func (s *Stream) LabelsHash() uint64 {
	if s.Hash != 0 {
		return s.Hash
	}
	return s.Labels.Hash()
}

// TimeRange is the half-open interval [From, Through) in nanoseconds since 1970.
type TimeRange struct {
	From, Through int64
}

// Contains reports whether ts lies in the range.
func (r TimeRange) Contains(ts int64) bool { return ts >= r.From && ts < r.Through }

// Overlaps reports whether the closed interval [first, last] has a point in the range.
func (r TimeRange) Overlaps(first, last int64) bool { return first < r.Through && last >= r.From }

// Covers reports whether the closed interval [first, last] lies wholly in the range.
func (r TimeRange) Covers(first, last int64) bool { return first >= r.From && last < r.Through }

// RowHash identifies an entry's content inside its stream and timestamp: XXH64 over
// the line, then, for each metadata pair in name order, 0xff, name, 0xff, value.
// Equal rows have equal hashes, in memory, on disk and on every replica.
func RowHash(line []byte, metadata labels.Labels) uint64 {
	if metadata.IsEmpty() {
		return xxhash.Sum64(line)
	}
	var d xxhash.Digest
	d.Reset()
	_, _ = d.Write(line)
	metadata.Range(func(l labels.Label) {
		_, _ = d.Write(hashSep)
		_, _ = d.WriteString(l.Name)
		_, _ = d.Write(hashSep)
		_, _ = d.WriteString(l.Value)
	})
	return d.Sum64()
}

var hashSep = []byte{0xff}
