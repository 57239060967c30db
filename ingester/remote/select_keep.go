package remote

import (
	"context"
	"sort"

	"github.com/skaldlog/skald/internal/model"
)

// keep finds the rows of the request in a block. Timestamps are read only when the block
// lies partly outside the range.
func (s *selectServer) keep(ctx context.Context, one *served, block model.Block) (*blockHead, error) {
	h := &blockHead{name: block.Name(), names: block.MetadataNames()}
	h.first, h.last = block.Bounds()
	var times []int64
	if !s.req.Range.Covers(h.first, h.last) {
		var err error
		if times, err = block.Times(ctx); err != nil {
			return nil, err
		}
		h.first, h.last = 1<<63-1, -1<<63
	}
	dead := block.Dead()
	for _, run := range block.Runs() {
		if times != nil {
			rows := times[run.Start:run.End]
			end := run.Start + sort.Search(len(rows), func(i int) bool { return rows[i] >= s.req.Range.Through })
			run.Start += sort.Search(len(rows), func(i int) bool { return rows[i] >= s.req.Range.From })
			if run.End = end; run.Start >= run.End {
				continue
			}
			h.first, h.last = min(h.first, times[run.Start]), max(h.last, times[run.End-1])
		}
		from := h.rows
		one.kept, h.rows = appendAlive(one.kept, h.rows, run, dead)
		if h.rows > from {
			h.runs = append(h.runs, model.Run{Labels: run.Labels, Hash: run.Hash, Start: from, End: h.rows})
		}
	}
	one.rows = h.rows
	if all := block.Rows(); all > 0 {
		h.raw = int64(float64(block.RawBytes()) * float64(h.rows) / float64(all))
	}
	return h, nil
}

// appendAlive appends the rows of a run that are not dead.
func appendAlive(kept []span, rows int, run model.Run, dead model.Bitmap) ([]span, int) {
	if dead == nil {
		return append(kept, span{run.Start, run.End}), rows + run.End - run.Start
	}
	for row := run.Start; row < run.End; row++ {
		switch n := len(kept); {
		case dead.Has(row):
			continue
		case n > 0 && kept[n-1].end == row && row > run.Start:
			kept[n-1].end++
		default:
			kept = append(kept, span{row, row + 1})
		}
		rows++
	}
	return kept, rows
}
