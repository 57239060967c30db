package distributor

import (
	"slices"
	"sync"
	"time"

	"github.com/skaldlog/skald/distributor/ring"
	"github.com/skaldlog/skald/ingester/remote"
	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
)

const (
	// chunkBytes is about what is sent at once of a push, before compression.
	chunkBytes = 8 << 20
	// sliceBytes is the most that one stream has in a group's list before it is cut.
	sliceBytes = 4 << 20
	// shardBytes is the least that is worth another shard of a hot stream in one push.
	shardBytes = 64 << 10
)

// group is the streams of a push that go to the same ingesters.
type group struct {
	replicas []*ring.Instance // in ring order of the first stream's token
	token    uint32           // of the first stream
	streams  []model.Stream
	origins  []int // the streams' numbers in the push
}

// set names some instances regardless of order: their numbers, rising.
type set [MaxFactor]uint16

// placer cuts a push into chunks and groups each by replica set.
type placer struct {
	r      *Replicator
	tenant model.Tenant
	limits *limits.Limits
	view   *ring.View

	// Where the next chunk begins.
	stream, entry int
	distributors  int // 0 until somebody asks

	groups []*group // of this chunk
	size   int      // of this chunk, in bytes
	*placerScratch
}

// placerScratch is used again by other pushes.
type placerScratch struct {
	numbers map[*ring.Instance]uint16
	bySet   map[set]int // number of a group
	buf     []*ring.Instance
}

var placerScratches = sync.Pool{New: func() any {
	return &placerScratch{numbers: map[*ring.Instance]uint16{}, bySet: map[set]int{}}
}}

// release gives the scratch back.
func (p *placer) release() {
	if s := p.placerScratch; s != nil {
		clear(s.numbers)
		clear(s.bySet)
		clear(s.buf[:cap(s.buf)])
		placerScratches.Put(s)
		p.placerScratch = nil
	}
}

// next gathers a chunk of the streams and reports whether another one follows.
func (p *placer) next(streams []model.Stream) bool {
	if p.placerScratch == nil {
		p.placerScratch = placerScratches.Get().(*placerScratch)
	}
	clear(p.bySet)
	p.groups, p.size = nil, 0
	for ; p.stream < len(streams); p.stream, p.entry = p.stream+1, 0 {
		s := &streams[p.stream]
		if len(s.Entries) == 0 {
			continue
		}
		hash := s.LabelsHash()
		shards, perShard := 1, sliceBytes
		if most := p.hotShards(s, hash); most > 1 {
			shards, perShard = most, p.perShard(s, most)
		}
		for p.entry < len(s.Entries) {
			if p.size >= chunkBytes {
				return true
			}
			n, bytes := cut(s.Entries[p.entry:], perShard)
			entries := s.Entries[p.entry : p.entry+n : p.entry+n]
			shard := uint32(0)
			if shards > 1 {
				// By time, so that a push that comes again goes where it was.
				shard = uint32((uint64(entries[0].Timestamp) * 0x9e3779b97f4a7c15 >> 32) % uint64(shards))
			}
			p.add(model.Stream{Labels: s.Labels, Entries: entries, Hash: hash}, ring.Token(p.tenant, hash, shard))
			p.entry += n
			p.size += bytes
		}
	}
	return false
}

// hotShards returns over how many places a stream is to be spread.
func (p *placer) hotShards(s *model.Stream, hash uint64) int {
	rate := int(p.limits.ShardStreams.DesiredRate)
	if !p.limits.ShardStreams.Enabled || rate <= 0 {
		return 1
	}
	bytes := 0
	if p.entry == 0 { // counted once
		for i := range s.Entries {
			bytes += remote.MaxEntrySize(&s.Entries[i])
		}
	}
	here := p.r.hot.add(ring.Token(p.tenant, hash, 0), hash, bytes, time.Now())
	if p.distributors == 0 {
		p.distributors = max(1, p.view.Count(ring.Distributor))
	}
	all := here * float64(p.distributors) // clients spread over distributors
	if all < float64(rate) {
		return 1
	}
	return min(1+int(all/float64(rate)), max(1, p.view.Count(ring.Ingester)))
}

// perShard is the size at which a hot stream's entries in one push are cut.
func (p *placer) perShard(s *model.Stream, shards int) int {
	bytes := 0
	for i := range s.Entries {
		bytes += remote.MaxEntrySize(&s.Entries[i])
	}
	return min(max(bytes/shards+1, shardBytes), sliceBytes)
}

// cut returns how many entries, at least one, fit the size, and their bytes.
func cut(entries []model.Entry, size int) (n, bytes int) {
	for i := range entries {
		b := remote.MaxEntrySize(&entries[i])
		if i > 0 && bytes+b > size {
			return i, bytes
		}
		bytes += b
	}
	return len(entries), bytes
}

// add puts a stream in the group of its replicas.
func (p *placer) add(s model.Stream, token uint32) {
	p.buf = p.view.Replicas(token, p.r.cfg.Factor, p.buf)
	var key set
	for i, in := range p.buf {
		n, ok := p.numbers[in]
		if !ok {
			n = uint16(len(p.numbers) + 1)
			p.numbers[in] = n
		}
		key[i] = n
	}
	slices.Sort(key[:])
	at, ok := p.bySet[key]
	if !ok {
		at = len(p.groups)
		p.bySet[key] = at
		p.groups = append(p.groups, &group{replicas: slices.Clone(p.buf), token: token})
	}
	g := p.groups[at]
	g.streams = append(g.streams, s)
	g.origins = append(g.origins, p.stream)
}
