package positions

import (
	"slices"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
)

// ID is what the file system calls a file.
type ID struct {
	Dev uint64 `json:"dev"`
	Ino uint64 `json:"ino"`
}

// Fingerprint is the XXH64 of the first Len bytes of a file. It tells apart two files that
// got the same inode number one after the other, and a truncated file from the one before.
type Fingerprint struct {
	Len int    `json:"len"`
	Sum uint64 `json:"sum,string"`
}

// Tail is the XXH64 of the last Len bytes before an offset: it tells whether a file's content
// is still what was read, when its beginning alone does not.
type Tail struct {
	Len int    `json:"len"`
	Sum uint64 `json:"sum,string"`
}

// MaxTail is how many bytes a Tail covers at most.
const MaxTail = 64

// TailOf returns the tail of a range of bytes that ends at an offset.
func TailOf(b []byte) Tail {
	b = b[max(len(b)-MaxTail, 0):]
	if len(b) == 0 {
		return Tail{}
	}
	return Tail{Len: len(b), Sum: xxhash.Sum64(b)}
}

// Fits reports whether b, all that stands before the offset or its last bytes, may be what
// the tail was made of.
func (t Tail) Fits(b []byte) bool {
	return t.Len == 0 || len(b) >= t.Len && xxhash.Sum64(b[len(b)-t.Len:]) == t.Sum
}

// Key names a log: the sequence of files that one path has named.
type Key struct {
	Client string `json:"client,omitempty"`
	Job    string `json:"job"`
	Path   string `json:"path"`
}

// Stamp records the times given to lines of a range that bring none.
type Stamp struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
	Base int64 `json:"base"`
}

// Record is what is stored about one generation.
type Record struct {
	Key
	ID
	N           uint64      `json:"n"`    // unique, and higher for later generations
	Real        string      `json:"real"` // path without symbolic links, when last seen
	Fingerprint Fingerprint `json:"fp"`
	Offset      int64       `json:"offset"`
	Tail        Tail        `json:"tail"`     // of what stands before Offset
	Modified    int64       `json:"modified"` // time of the last change that was seen, ns
	// Since is when the log began to be followed: files beside it that were changed later are
	// the log's as well.
	Since int64 `json:"since"`
	// Finished says that the file is not read any more; its record stays while the file does,
	// so that it is not mistaken for a new one.
	Finished bool    `json:"finished,omitempty"`
	Stamps   []Stamp `json:"stamps,omitempty"`
}

// Ledger accounts for one generation. Its fields are guarded by the store's mutex.
type Ledger struct {
	store     *Store
	rec       Record
	spans     []*Span // not yet passed, in order of the file
	finishing bool
	gone      bool
}

// Record returns the generation's state; Stamps are those that still matter.
func (l *Ledger) Record() Record {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	return l.record()
}

func (l *Ledger) record() Record {
	r := l.rec
	r.Stamps = slices.Clone(l.rec.Stamps)
	for _, s := range l.spans {
		if s.stamped {
			r.Stamps = append(r.Stamps, Stamp{s.from, s.to, s.base})
		}
	}
	return r
}

// Update sets what was learned about the file. The offset and the stamps do not change.
func (l *Ledger) Update(fp Fingerprint, realPath string, modified int64) {
	s := l.store
	s.mu.Lock()
	defer s.mu.Unlock()
	same := l.rec.Fingerprint == fp && l.rec.Real == realPath
	l.rec.Fingerprint, l.rec.Real, l.rec.Modified = fp, realPath, modified
	if !same && !l.gone {
		s.logRecord(l)
	}
}

// Begin opens a span at from, held once by the caller, who must Seal and Release it.
// continued says that text from before the span is kept back and will be joined with text of
// it. Reading must then not begin here after a restart: the position passes such a span
// together with the one before it.
func (l *Ledger) Begin(from, base int64, continued bool) *Span {
	sp := &Span{ledger: l, from: from, to: from, base: base, continued: continued}
	sp.refs.Store(1)
	l.store.mu.Lock()
	l.spans = append(l.spans, sp)
	l.store.mu.Unlock()
	return sp
}

// Finish says that no more spans will come. The record is kept until Forget or Purge.
func (l *Ledger) Finish() {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	l.finishing = true
	l.advance()
}

// Forget removes the record; its spans count no more.
func (l *Ledger) Forget() {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	l.store.forget(l)
}

// Move says that the content is now in another file, compressed or copied.
func (l *Ledger) Move(id ID, realPath string, modified int64) {
	s := l.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.gone {
		return
	}
	s.drop(l)
	l.rec.ID, l.rec.Real, l.rec.Modified = id, realPath, modified
	s.put(l)
	s.logRecord(l)
}

// Settled reports whether all that was read has been delivered.
func (l *Ledger) Settled() bool {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	return len(l.spans) == 0
}

// Detach says that the file does not hold the content any more: it was truncated, or is gone.
// The record stays, without identity. It shows that the path has been followed, and what a
// copy of the content begins with.
func (l *Ledger) Detach() {
	s := l.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.gone {
		return
	}
	s.drop(l)
	l.rec.ID = ID{}
	s.put(l)
	l.finishing = true
	l.advance()
	s.logRecord(l)
}

// advance moves the position over released spans, to the last place where reading can begin.
func (l *Ledger) advance() {
	n := 0
	for i, s := range l.spans {
		if !s.released {
			break
		}
		if i+1 == len(l.spans) || !l.spans[i+1].continued {
			n = i + 1
		}
	}
	if n > 0 {
		passed := slices.Clone(l.spans[:n])
		l.rec.Offset, l.rec.Tail = passed[n-1].to, passed[n-1].tail
		l.spans = slices.Delete(l.spans, 0, n)
		// In the same stretch of the journal, so that both positions move or none.
		defer func() {
			for _, s := range passed {
				if s.after != nil {
					s.after.release()
				}
			}
		}()
		l.rec.Stamps = slices.DeleteFunc(l.rec.Stamps, func(s Stamp) bool { return s.To <= l.rec.Offset })
		if !l.gone {
			l.store.logf("p %d %d %d %d", l.rec.N, l.rec.Offset, l.rec.Tail.Len, l.rec.Tail.Sum)
		}
	}
	if l.finishing && len(l.spans) == 0 && !l.rec.Finished && !l.gone {
		l.rec.Finished = true
		l.store.logf("f %d", l.rec.N)
	}
}

// compact joins released spans that wait behind one that is held for long, so that their
// number stays small.
func (l *Ledger) compact() {
	out := l.spans[:0]
	for _, s := range l.spans {
		if k := len(out) - 1; k >= 0 && out[k].released && s.released && !out[k].stamped && !s.stamped && s.after == nil {
			out[k].to, out[k].tail = s.to, s.tail
			continue
		}
		out = append(out, s)
	}
	clear(l.spans[len(out):])
	l.spans = out
}

// Span is a range of a file's bytes on its way to the server.
type Span struct {
	ledger *Ledger
	refs   atomic.Int32

	from, to, base               int64 // guarded by the store's mutex, as are:
	tail                         Tail
	stamped, released, continued bool
	after                        *Span // released when this one is passed
}

// Split ends the span at offset at and returns a new one from there, held once by the caller.
// Nothing that was kept back at the offset began before it.
func (s *Span) Split(at, base int64) *Span {
	rest := s.ledger.Begin(at, base, false)
	st := s.ledger.store
	st.mu.Lock()
	s.to = at
	st.mu.Unlock()
	return rest
}

// After says that the text kept back when the span began is the end of another generation,
// whose position then waits until this span is passed.
func (s *Span) After(other *Ledger) {
	st := s.ledger.store
	st.mu.Lock()
	defer st.mu.Unlock()
	end, tail := other.rec.Offset, other.rec.Tail
	if n := len(other.spans); n > 0 {
		end, tail = other.spans[n-1].to, other.spans[n-1].tail
	}
	s.after = &Span{ledger: other, from: end, to: end, tail: tail, continued: true}
	s.after.refs.Store(1)
	other.spans = append(other.spans, s.after)
}

// Seal sets the end of the span and the tail of what it holds. stamped says that the lines' times are of the reader's
// making and must be remembered; they are, when the store's Flush returns.
func (s *Span) Seal(to int64, tail Tail, stamped bool) {
	st := s.ledger.store
	st.mu.Lock()
	defer st.mu.Unlock()
	s.to, s.tail, s.stamped = to, tail, stamped
	if stamped && !s.ledger.gone {
		st.logf("s %d %d %d %d", s.ledger.rec.N, s.from, to, s.base)
	}
}

// Retain holds the position before the span once more.
func (s *Span) Retain() { s.refs.Add(1) }

// Release gives up one hold.
func (s *Span) Release() {
	if s.refs.Add(-1) != 0 {
		return
	}
	st := s.ledger.store
	st.mu.Lock()
	defer st.mu.Unlock()
	s.settle()
}

// release is Release for those who hold the store's mutex.
func (s *Span) release() {
	if s.refs.Add(-1) == 0 {
		s.settle()
	}
}

// settle notes that nobody holds the span any more.
func (s *Span) settle() {
	s.released = true
	l := s.ledger
	if l.spans[0].released {
		l.advance()
	}
	if len(l.spans) > 256 && len(l.spans)%64 == 0 {
		l.compact()
	}
}

// Before reports whether both spans are of one generation and s does not stand after o.
func (s *Span) Before(o *Span) bool { return s.ledger == o.ledger && s.from <= o.from }
