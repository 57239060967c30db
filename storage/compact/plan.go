package compact

import (
	"slices"
	"time"

	"github.com/skaldlog/skald/storage/catalog"
)

// A job is a merge to be done: the inputs and why.
type job struct {
	inputs []*seg
	reason string // size, repack, duplicate, drop
}

// A day is closed, and merged as far as it goes, some time after its end, when no segment
// has come for a while. Until then small segments wait until there are several of a size,
// so that a row is rewritten a few times only.
const (
	closedAfter = 2 * time.Hour
	quietFor    = time.Hour
	tierMembers = 4
	tiers       = 4 // below the one of full segments, each a quarter of the next
	maxOverlap  = 4 // targets that one merge of overlapping uploads may have as input
)

// closed reports whether a day is to be merged as far as it goes.
func (d *dayState) closed(now time.Time) bool {
	if now.Sub(d.end()) < closedAfter {
		return false
	}
	for _, s := range d.live {
		if now.Sub(s.made()) < quietFor && s.ref.Level <= uploaded {
			return false
		}
	}
	return true
}

// uploaded is the highest level at which ingesters upload: such segments are compressed
// fast and have row hashes.
const uploaded = 1

// planner chooses merges among the live segments of a day, which are sorted by time.
type planner struct {
	target    int64
	maxInputs int
	closed    bool
}

// full is the size from which a compacted segment is left alone.
func (p *planner) full() int64 { return p.target / 2 }

// plan returns the next merge for the sake of size or duplicates, nil when there is none.
func (p *planner) plan(live []*seg) *job {
	if group := p.duplicates(live); group != nil {
		return &job{group, "duplicate"}
	}
	limit := p.full() >> (2 * tiers)
	for tier := 0; tier <= tiers; tier, limit = tier+1, limit<<2 {
		if group := p.group(p.upTo(live, limit, tier == tiers), tierMembers); group != nil {
			return &job{group, "size"}
		}
	}
	if !p.closed {
		return nil
	}
	if group := p.group(p.upTo(live, p.full(), true), 2); group != nil {
		return &job{group, "size"}
	}
	for _, s := range live {
		if s.ref.Level <= uploaded && s.info.Rows > 0 {
			return &job{[]*seg{s}, "repack"}
		}
	}
	return nil
}

// upTo returns the segments with rows and at most limit bytes. In the last tier those that
// were never compacted are taken up to the target: they have to be rewritten anyway.
func (p *planner) upTo(live []*seg, limit int64, last bool) []*seg {
	var out []*seg
	for _, s := range live {
		if s.info.Rows > 0 && (s.ref.Size < limit || last && s.ref.Level <= uploaded && s.ref.Size < p.target) {
			out = append(out, s)
		}
	}
	return out
}

// group returns the first segments, neighbors in time, that are worth merging: at least
// least of them without one that dwarfs the others, or enough for a full segment.
func (p *planner) group(from []*seg, least int) []*seg {
	for start := range from {
		group := p.from(from[start:])
		if len(group) < 2 {
			continue
		}
		var sum, largest int64
		for _, s := range group {
			sum += s.ref.Size
			largest = max(largest, s.ref.Size)
		}
		if least == 2 || len(group) >= least && largest <= sum/2 || sum >= p.full() && largest <= sum*3/4 {
			return group
		}
	}
	return nil
}

// from returns as many of the segments as make one object. Uploads that overlap in time
// are mostly replicas, of which the object will hold one, so more of them are taken.
func (p *planner) from(segs []*seg) []*seg {
	sum, last := int64(0), segs[0].ref.Max
	replicas := true
	for i, s := range segs {
		if i == p.maxInputs {
			return segs[:i]
		}
		overlaps := i > 0 && s.ref.Min <= last && last-s.ref.Min >= (s.ref.Max-s.ref.Min)/2
		replicas = replicas && s.ref.Level <= uploaded && (i == 0 || overlaps)
		most := p.target
		if replicas {
			most *= maxOverlap
		}
		if i > 0 && sum+s.ref.Size > most {
			return segs[:i]
		}
		sum += s.ref.Size
		last = max(last, s.ref.Max)
	}
	return segs
}

// duplicates returns live segments that were merged from a common source, whatever their
// size: they hold the same rows. It happens when two compactors did the same work.
func (p *planner) duplicates(live []*seg) []*seg {
	owner := map[string]*seg{}
	for _, s := range live {
		if s.info.Rows == 0 {
			continue
		}
		var group []*seg
		for _, id := range s.info.MergedFrom {
			if o := owner[id]; o != nil && !slices.Contains(group, o) {
				group = append(group, o)
			}
			owner[id] = s
		}
		if len(group) > 0 {
			return append(group[:min(len(group), p.maxInputs-1)], s)
		}
	}
	return nil
}

// levelOf is the level of a merge's output. Nothing is above the highest, which does no
// harm: the level matters only to queries over times whose rows were all dropped, and for
// as long as the sources are there.
func levelOf(inputs []*seg) int {
	level := uploaded
	for _, s := range inputs {
		level = max(level, s.ref.Level)
	}
	return min(level+1, catalog.MaxLevel)
}
