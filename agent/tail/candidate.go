package tail

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/skaldlog/skald/agent/positions"
)

// candidate is an open file that may become a generation.
type candidate struct {
	f    *os.File
	z    *unpacked
	st   stat
	head []byte
	path string
}

// ReadAt implements io.ReaderAt for the content.
func (c *candidate) ReadAt(p []byte, off int64) (int, error) {
	if c.z != nil {
		return c.z.ReadAt(p, off)
	}
	return c.f.ReadAt(p, off)
}

// refresh brings what is known of a file at a log's path up to date; c may be nil.
func (c *candidate) refresh() {
	if c == nil || c.z != nil {
		return
	}
	fi, err := c.f.Stat()
	if err != nil {
		return
	}
	var buf [headSize]byte
	if head, err := readHead(c.f, &buf); err == nil {
		c.st, c.head = statOf(fi), bytes.Clone(head)
	}
}

// rewritten reports whether a file at a log's path is not what it was when it was last
// refreshed; c may be nil.
func (c *candidate) rewritten() bool {
	if c == nil || c.z != nil {
		return false
	}
	var buf [headSize]byte
	fi, err := c.f.Stat()
	if err != nil || fi.Size() < c.st.size {
		return true
	}
	head, err := readHead(c.f, &buf)
	return err != nil || !bytes.HasPrefix(head, c.head)
}

func (c *candidate) close() {
	if c.z != nil {
		c.z.stop()
	}
	_ = c.f.Close() // read only
}

// record describes a file that is read to its end.
func (c *candidate) record(l *tailLog, modified int64) positions.Record {
	r := positions.Record{Key: l.key, ID: c.st.id, Real: c.path, Fingerprint: fingerprint(c.head), Modified: modified, Since: l.since}
	if c.z == nil {
		var buf [positions.MaxTail]byte
		b := buf[:min(c.st.size, positions.MaxTail)]
		r.Offset = c.st.size
		if n, _ := c.f.ReadAt(b, r.Offset-int64(len(b))); n == len(b) { // without a tail the head must do
			r.Tail = positions.TailOf(b)
		}
	}
	return r
}

// openCandidate opens a file; nil when it cannot be read.
func (l *tailLog) openCandidate(path string) *candidate {
	c, err := l.t.openCandidate(l.target, path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.fail("open", err)
	}
	if isTrouble(err) {
		l.await()
	}
	return c
}

func (t *Tailer) openCandidate(tg *target, path string) (*candidate, error) {
	if err := t.fault("open", path); err != nil {
		return nil, err
	}
	f, st, err := openFile(path)
	if err != nil {
		return nil, err
	}
	c := &candidate{f: f, st: st, path: realPath(path)}
	if format := packedFormat(tg, f, path); format != "" {
		c.z = newUnpacked(f, format)
	}
	var buf [headSize]byte
	if c.head, err = readHead(c, &buf); err != nil {
		c.close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// holds reports whether a file's content may be what a record is about.
func (c *candidate) holds(r positions.Record) bool {
	return fits(r.Fingerprint, c.head) && (c.z != nil || c.st.size >= r.Offset) && tailFits(c, r.Offset, r.Tail)
}

// openAs opens a file if it is the one that is meant; what is checked is what is returned,
// since the path may name another file a moment later.
func (l *tailLog) openAs(path string, rec positions.Record) *candidate {
	c := l.openCandidate(path)
	if c != nil && (c.st.id != rec.ID || !c.holds(rec)) {
		c.close()
		return nil
	}
	return c
}
