package segment

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/skaldlog/skald/internal/model"
)

// Probe asks segments that have not been opened whether they can hold what is looked for. It costs
// a read of a few kilobytes, where to open a segment and ask it costs two, one after the other and ten times as
// large. What it asks for is one clause of a request's needles: long ids and metadata pairs, of which a row must
// have one.
type Probe struct {
	alternatives [][]uint32 // the items of each; all of them must be in a block
	items        []uint32   // of all
}

// maxProbeItems is how many items a clause may have that is asked for; one with more is asked of
// segments that are open.
const maxProbeItems = 4

// NewProbe returns the probe that costs least; nil when no clause can be asked for.
func NewProbe(needles []model.Needles) *Probe {
	var best *Probe
	for _, clause := range needles {
		p := &Probe{}
		for _, n := range clause {
			_, items := needleKeys(n)
			if len(items) == 0 {
				p.items = nil
				break
			}
			p.alternatives = append(p.alternatives, items)
			p.items = append(p.items, items...)
		}
		slices.Sort(p.items)
		p.items = slices.Compact(p.items)
		if n := len(p.items); n > 0 && n <= maxProbeItems && (best == nil || n < len(best.items)) {
			best = p
		}
	}
	return best
}

// Excludes reports whether a segment has no row that is looked for. The id and the place of its pages are
// those that its key promises: they enter the checksums of pages, so that an answer is only
// believed when it is this segment's.
func (p *Probe) Excludes(ctx context.Context, src Source, id string, at IDPages) (bool, error) {
	if !at.Valid(src.Size()) {
		return false, nil
	}
	found := make(map[uint32][]uint64, len(p.items))
	answers := make([][]uint64, len(p.items))
	fetches, ctx := errgroup.WithContext(ctx)
	for i, item := range p.items {
		fetches.Go(func() (err error) {
			answers[i], err = at.find(ctx, src, id, item)
			return err
		})
	}
	if err := fetches.Wait(); err != nil {
		return false, err
	}
	for i, item := range p.items {
		found[item] = answers[i]
	}
	for _, items := range p.alternatives {
		if common(items, found) {
			return false, nil
		}
	}
	return true, nil
}

// common reports whether a block may have all items.
func common(items []uint32, found map[uint32][]uint64) bool {
	first := found[items[0]]
	for word, bits := range first {
		for _, item := range items[1:] {
			if other := found[item]; word < len(other) {
				bits &= other[word]
			}
		}
		if bits != 0 {
			return true
		}
	}
	return false
}

// find returns a bit for each block that may have an item; all are set when lists would tell.
func (p IDPages) find(ctx context.Context, src Source, id string, item uint32) ([]uint64, error) {
	number := p.page(item)
	raw := make([]byte, p.PageBytes)
	if err := src.ReadAt(ctx, raw, p.at(number)); err != nil {
		return nil, fmt.Errorf("segment %s: read %d bytes at %d: %w", src.Name(), len(raw), p.at(number), err)
	}
	page, err := openIDPage(raw, id, p.Pages, place{kind: kindIDs, ordinal: uint32(number)})
	if err == nil && page.flags&idWhole == 0 {
		err = errNotWhole
	}
	var hits []uint64
	var listed bool
	if err == nil {
		hits, listed, err = page.find(idPosition(item, p.Pages, page.values))
	}
	if err != nil {
		return nil, corrupt(src, fmt.Sprintf("%s, page %d", kindIDs, number), err)
	}
	if listed {
		for i := range hits {
			hits[i] = ^uint64(0)
		}
	}
	return hits, nil
}
