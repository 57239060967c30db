package ingester

import (
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

// A memtable is made for two readers, the garbage collector and the query. Rows lie in
// slabs, in order of arrival, as plain columns without pointers: a million entries are
// some hundred objects to the collector. And a row, once written, is never moved or
// changed, so a query takes the list of slabs and the number of rows under the lock, and
// then reads and sorts at leisure while writers go on.
//
// Sorting when a query comes (and once when the table is frozen) is cheaper than keeping
// rows sorted: a counting sort over the stream numbers, and time is nearly sorted already.

const (
	// A row is found by slab number and position in the slab, packed into 32 bits.
	slabRowBits = 14
	maxSlabRows = 1 << slabRowBits

	// Slabs grow from the first size to the last, so that a tenant with ten lines costs
	// kilobytes and one with a million lines few allocations.
	firstSlabBytes = 4 << 10
	lastSlabBytes  = 1 << 20

	rowBytes    = 8 + 4 + 4 + 4 // of the fixed columns
	slabBytes   = 160           // of a slab's own headers
	streamBytes = 120           // of a stream's entries in the table; its labels are the tenant's
)

// slab holds rows in order of arrival. The slices have their final length from the
// start; rows below the published count are immutable.
type slab struct {
	n       int // rows; guarded by the table's lock while the slab is the last one
	used    int // bytes of data; guarded likewise
	times   []int64
	streams []uint32
	lineEnd []uint32 // row i's line is data[rowEnd[i-1]:lineEnd[i]]
	rowEnd  []uint32 // and its metadata data[lineEnd[i]:rowEnd[i]]
	data    []byte
}

// ref names a row of a table.
type ref uint32

func (s *slab) start(i int) uint32 {
	if i == 0 {
		return 0
	}
	return s.rowEnd[i-1]
}

// memStream is a stream in a table; immutable.
type memStream struct {
	labels labels.Labels
	hash   uint64
	next   uint32 // 1 + the number of another stream with the same hash, 0 for none
}

// streamStat sums up a stream's rows.
type streamStat struct {
	rows, bytes, first, last int64
}

// table holds the rows of one tenant in one generation.
type table struct {
	tenant model.Tenant
	// charge is told how much memory the table takes, as it grows.
	charge func(bytes int64)

	mu struct {
		sync.RWMutex
		slabs   []*slab
		streams []memStream
		stats   []streamStat
		ids     map[uint64]uint32 // hash → 1 + number of the newest stream with it
		names   []string          // metadata names by number
		nameIDs map[string]uint32
		rows    int
		bytes   int64 // of lines and metadata
	}

	// order caches the streams' numbers sorted by labels; see sortedStreams.
	order atomic.Pointer[[]uint32]
}

// newTable returns an empty table with room for so many streams.
func newTable(tenant model.Tenant, streams int, charge func(int64)) *table {
	t := &table{tenant: tenant, charge: charge}
	t.mu.streams, t.mu.stats = make([]memStream, 0, streams), make([]streamStat, 0, streams)
	t.mu.ids = make(map[uint64]uint32, streams)
	t.mu.nameIDs = make(map[string]uint32)
	return t
}

// append copies the entries of the streams into the table, and keeps their labels, which
// must never change. hashes holds the streams' Labels.Hash(). The rows are visible to snapshots from the moment it returns.
func (t *table) append(streams []model.Stream, hashes []uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range streams {
		if i%touchStreams == 0 {
			t.touch(hashes[i:])
		}
		if len(streams[i].Entries) == 0 {
			continue
		}
		id := t.streamID(streams[i].Labels, hashes[i])
		st := &t.mu.stats[id]
		for e := range streams[i].Entries {
			t.row(id, st, &streams[i].Entries[e])
		}
	}
}

// touch reads what append needs of the streams with the first hashes. Called with the lock held.
//
//go:noinline
func (t *table) touch(hashes []uint64) (sum int64) {
	hashes = hashes[:min(touchStreams, len(hashes))]
	var at [touchStreams]uint32
	for i, hash := range hashes {
		at[i] = t.mu.ids[hash]
	}
	for _, at := range at[:len(hashes)] {
		if at != 0 {
			sum += int64(t.mu.streams[at-1].next) + t.mu.stats[at-1].rows
		}
	}
	return sum // so that the reads are none that a compiler leaves out
}

// streamID returns the number of a stream, and makes one when it is new here.
func (t *table) streamID(ls labels.Labels, hash uint64) uint32 {
	if at := t.find(ls, hash); at != 0 {
		return at - 1
	}
	t.mu.streams = append(t.mu.streams, memStream{labels: ls, hash: hash, next: t.mu.ids[hash]})
	t.mu.stats = append(t.mu.stats, streamStat{})
	t.mu.ids[hash] = uint32(len(t.mu.streams))
	t.charge(streamBytes)
	return uint32(len(t.mu.streams) - 1)
}

// find returns 1 + the number of a stream, 0 when it is not here. Called with the lock held.
func (t *table) find(ls labels.Labels, hash uint64) uint32 {
	at := t.mu.ids[hash]
	for at != 0 && !labels.Equal(t.mu.streams[at-1].labels, ls) {
		at = t.mu.streams[at-1].next
	}
	return at
}

func (t *table) row(id uint32, st *streamStat, e *model.Entry) {
	most := len(e.Line) // what the row can take in data
	if !e.Metadata.IsEmpty() {
		most += int(e.Metadata.ByteSize()) + 2*binary.MaxVarintLen32*e.Metadata.Len()
	}
	s := t.slabFor(most)
	i := s.n
	s.times[i], s.streams[i] = e.Timestamp, id
	s.used += copy(s.data[s.used:], e.Line)
	s.lineEnd[i] = uint32(s.used)
	if !e.Metadata.IsEmpty() {
		e.Metadata.Range(func(l labels.Label) {
			s.used += binary.PutUvarint(s.data[s.used:], uint64(t.nameID(l.Name)))
			s.used += binary.PutUvarint(s.data[s.used:], uint64(len(l.Value)))
			s.used += copy(s.data[s.used:], l.Value)
		})
	}
	s.rowEnd[i] = uint32(s.used)
	s.n++

	if st.rows == 0 || e.Timestamp < st.first {
		st.first = e.Timestamp
	}
	if st.rows == 0 || e.Timestamp > st.last {
		st.last = e.Timestamp
	}
	st.rows++
	st.bytes += int64(len(e.Line))
	t.mu.rows++
	t.mu.bytes += int64(s.rowEnd[i] - s.start(i))
}

func (t *table) nameID(name string) uint32 {
	if id, ok := t.mu.nameIDs[name]; ok {
		return id
	}
	id := uint32(len(t.mu.names))
	name = string([]byte(name)) // it aliases the push
	t.mu.names = append(t.mu.names, name)
	t.mu.nameIDs[name] = id
	t.charge(streamBytes + int64(len(name)))
	return id
}

// slabFor returns a slab with room for a row of the size.
func (t *table) slabFor(size int) *slab {
	if n := len(t.mu.slabs); n > 0 {
		if s := t.mu.slabs[n-1]; s.n < len(s.times) && len(s.data)-s.used >= size {
			return s
		}
	}
	s := t.newSlab(size)
	t.mu.slabs = append(t.mu.slabs, s)
	return s
}

// newSlab shapes a slab by the rows seen so far, so that its columns fill up together
// whether lines have ten bytes or ten thousand.
func (t *table) newSlab(size int) *slab {
	bytes := min(firstSlabBytes<<(2*min(len(t.mu.slabs), 4)), lastSlabBytes)
	average := 128
	if t.mu.rows > 0 {
		average = max(1, int(t.mu.bytes)/t.mu.rows)
	}
	rows := min(bytes/average+bytes/average/8+8, maxSlabRows)
	bytes = max(size, min(bytes, rows*average+rows*average/8+64))
	t.charge(int64(bytes + rows*rowBytes + slabBytes))
	columns := make([]uint32, 3*rows)
	return &slab{
		times:   make([]int64, rows),
		streams: columns[:rows:rows],
		lineEnd: columns[rows : 2*rows : 2*rows],
		rowEnd:  columns[2*rows:],
		data:    make([]byte, bytes),
	}
}

// snapshot is an immutable prefix of a table.
type snapshot struct {
	table   *table
	slabs   []*slab
	last    int // rows of the last slab
	rows    int
	streams []memStream
	names   []string
}

// snapshot returns what the table holds now.
func (t *table) snapshot() *snapshot {
	t.mu.RLock()
	defer t.mu.RUnlock()
	s := &snapshot{table: t, slabs: slices.Clip(t.mu.slabs), rows: t.mu.rows, streams: slices.Clip(t.mu.streams), names: slices.Clip(t.mu.names)}
	if n := len(s.slabs); n > 0 {
		s.last = s.slabs[n-1].n
	}
	return s
}

// streamStats returns the streams and a copy of their statistics.
func (t *table) streamStats() ([]memStream, []streamStat) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.Clip(t.mu.streams), slices.Clone(t.mu.stats)
}

// count returns the number of published rows of slab i.
func (s *snapshot) count(i int) int {
	if i == len(s.slabs)-1 {
		return s.last
	}
	return s.slabs[i].n
}

func (s *snapshot) at(r ref) (*slab, int) {
	return s.slabs[r>>slabRowBits], int(r & (maxSlabRows - 1))
}

func (s *snapshot) time(r ref) int64 {
	sl, i := s.at(r)
	return sl.times[i]
}

// row returns a row's line and its encoded metadata.
func (s *snapshot) row(r ref) (line, metadata []byte) {
	sl, i := s.at(r)
	end := sl.lineEnd[i]
	return sl.data[sl.start(i):end:end], sl.data[end:sl.rowEnd[i]:sl.rowEnd[i]]
}

// eachMetadata calls fn with the name's number and the value of each pair.
func eachMetadata(metadata []byte, fn func(name uint32, value []byte)) {
	for len(metadata) > 0 {
		name, n := binary.Uvarint(metadata)
		size, m := binary.Uvarint(metadata[n:])
		metadata = metadata[n+m:]
		fn(uint32(name), metadata[:size:size])
		metadata = metadata[size:]
	}
}
