package querier

import (
	"cmp"
	"fmt"
	"math"
	"net/http"
	"slices"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/logql/engine"
)

// shard is a range of stream hashes, both ends included, and what lies in it.
type shard struct {
	min, max                        uint64
	streams, blocks, bytes, entries int64
}

// serveShards cuts the streams that a selector finds into ranges of their hashes that hold
// about targetBytesPerShard each, as a planner of parallel work would.
func (q *Querier) serveShards(w http.ResponseWriter, r *http.Request) error {
	s, err := q.readSelector(w, r)
	if err != nil {
		return err
	}
	var target limits.Bytes
	if err := target.Set(s.get("targetBytesPerShard")); err != nil || target <= 0 {
		return fault.New(fault.Invalid, "targetBytesPerShard must be a positive value")
	}
	list, warned, err := q.weigh(r.Context(), s.tenants, s.matchers, s.in)
	if err != nil {
		return err
	}
	b := append(warned.append([]byte("{")), `"shards":[`...)
	for i, s := range shards(list, int64(target)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, `{"bounds":{"min":%d,"max":%d},"stats":{"streams":%d,"chunks":%d,"bytes":%d,"entries":%d}}`,
			s.min, s.max, s.streams, s.blocks, s.bytes, s.entries)
	}
	b = append(b, `],"statistics":`...)
	b = appendStats(b, &engine.Result{}, 0)
	return q.writeJSON(w, r, append(b, `,"chunkGroups":[]}`+"\n"...))
}

// shards cover all hashes without a gap; without any stream there is one.
func shards(list []model.Series, target int64) []shard {
	hashes := make([]uint64, len(list))
	order := make([]int, len(list))
	for i := range list {
		hashes[i], order[i] = list[i].Labels.Hash(), i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(hashes[a], hashes[b]) })
	out := []shard{{max: math.MaxUint64}}
	for n, i := range order {
		s := &out[len(out)-1]
		if s.bytes >= target && hashes[i] != hashes[order[n-1]] {
			s.max = hashes[i] - 1
			out = append(out, shard{min: hashes[i], max: math.MaxUint64})
			s = &out[len(out)-1]
		}
		s.streams++
		s.blocks += list[i].Blocks
		s.bytes += list[i].Bytes
		s.entries += list[i].Entries
	}
	return out
}
