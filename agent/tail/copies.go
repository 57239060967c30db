package tail

import (
	"bytes"
	"errors"
	"io"
	"time"

	"github.com/skaldlog/skald/agent/positions"
)

// likeness says how a file of unknown identity relates to what a log has read.
type likeness uint8

const (
	noCopy       likeness = iota
	copyInUse             // it begins as a file that is still there: it may not be complete
	copyOfPart            // it was copied from a file while that was shorter
	copyOfRead            // what it holds has been read from a file that is gone
	copyWithRest          // it holds what was read, and more
)

// String implements fmt.Stringer.
func (k likeness) String() string {
	return [...]string{"new", "copy in use", "copy of part", "copy of what was read", "copy with more"}[k]
}

// match compares a file beside a log with all that the log has read. present gives the
// path of a file in the directory, "" when it is not there. Only a compressed file and one with a rotated name may be compared: a new
// file at the log's own path may begin like the one before it, and is new all the same.
func (t *Tailer) match(key positions.Key, c *candidate, present func(positions.ID) string) (best *positions.Ledger, what likeness) {
	off := int64(-1)
	for _, ledger := range t.store.Ledgers(key) {
		r := ledger.Record()
		if r.Fingerprint.Len == 0 || r.ID == c.st.id {
			continue
		}
		original := present(r.ID)
		alive := original != ""
		if !fits(r.Fingerprint, c.head) {
			if off < 0 && alive && c.z == nil && len(c.head) < r.Fingerprint.Len {
				if k := c.partOf(original, r.ID); k != noCopy {
					best, what = ledger, k
				}
			}
			continue
		}
		holds, whole := c.compare(r)
		switch {
		case holds && r.Offset > off:
			best, off = ledger, r.Offset
			switch {
			case alive || !r.Finished:
				what = copyInUse
			case c.endsAt(r.Offset):
				what = copyOfRead
			default:
				what = copyWithRest
			}
		case !holds && off < 0 && !whole && (alive || c.young(t.wall())):
			best, what = ledger, copyInUse // its original may have gone since it was opened
		case !holds && off < 0 && alive && c.z == nil && c.st.size < r.Offset:
			if k := c.partOf(original, r.ID); k != noCopy {
				best, what = ledger, k
			}
		}
	}
	return best, what
}

// compare reports whether a file's content may be what a record is about, and whether the
// file is whole: the compressor may still be at work.
func (c *candidate) compare(r positions.Record) (holds, whole bool) {
	if c.holds(r) {
		return true, true
	}
	if c.z == nil {
		return false, true
	}
	var b [1]byte
	_, err := c.ReadAt(b[:], max(r.Offset-1, 0))
	return false, err == nil || errors.Is(err, io.EOF)
}

// endsAt reports whether a file's content is off bytes long.
func (c *candidate) endsAt(off int64) bool {
	var b [1]byte
	n, _ := c.ReadAt(b[:], off) // an error ends it as well
	return n == 0
}

// young reports whether a file may be in the making.
func (c *candidate) young(wall int64) bool {
	return wall < c.st.mtime+int64(time.Minute)
}

// partOf compares a file with the beginning of one that it may be a copy of.
func (c *candidate) partOf(original string, id positions.ID) likeness {
	f, st, err := openFile(original)
	if err != nil {
		return copyInUse // renamed a moment ago: it must be looked for again
	}
	defer f.Close()
	switch {
	case st.id != id:
		return copyInUse // as above
	case c.sameEnd(f):
		return copyOfPart
	}
	return noCopy
}

// sameEnd reports whether the last bytes of a copy are those that the original has there.
func (c *candidate) sameEnd(original io.ReaderAt) bool {
	size := min(c.st.size, 4096)
	a, b := make([]byte, size), make([]byte, size)
	n, _ := c.f.ReadAt(a, c.st.size-size) // what cannot be read is not the same
	m, _ := original.ReadAt(b, c.st.size-size)
	return n > 0 && n == m && bytes.Equal(a[:n], b[:m])
}

// copies reports whether one of two files begins as the other does, and goes on so up to the
// end of c: c is a copy of the other, complete or not.
func (c *candidate) copies(other *candidate) bool {
	n := min(len(c.head), len(other.head))
	return n > 0 && bytes.Equal(c.head[:n], other.head[:n]) && c.z == nil && other.z == nil &&
		c.st.size <= other.st.size && c.sameEnd(other.f)
}
