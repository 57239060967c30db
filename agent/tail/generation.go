package tail

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/cespare/xxhash/v2"

	"github.com/skaldlog/skald/agent/clock"
	"github.com/skaldlog/skald/agent/positions"
)

// headSize is how many bytes of a file its fingerprint covers at most.
const headSize = 1024

// generation is one file that a log's path has named. Its f is nil while it is closed.
// Offsets and the fingerprint of a compressed file are those of its content.
type generation struct {
	f      *os.File
	z      *unpacked // the content of f when that is compressed
	id     positions.ID
	fp     positions.Fingerprint
	path   string // where it was last seen
	ledger *positions.Ledger
	text   charset

	off     int64          // read so far
	tail    positions.Tail // of what stands before off
	scanned int64          // no line feed in [off, scanned)
	size    int64          // when last looked at; of a compressed file, what has been decompressed
	mtime   int64
	packed  int64 // size of the compressed file
	done    bool  // the compressed file has been decompressed to its end
	base    int64 // times for lines without one are greater than this

	replay []positions.Stamp // times given by the run before, in order of the file

	replaced bool  // the path does not name it any more
	quiet    int64 // since when nothing has changed, ns
	trouble  bool  // it cannot be opened or read, and may be there all the same
	shed     bool  // it has been held for too long; guarded by Tailer.held
}

// stat is what the scheduler wants to know about a file.
type stat struct {
	id    positions.ID
	size  int64
	mtime int64
	links uint64
	held  int64 // bytes on the disk
	mode  os.FileMode
}

func statOf(fi os.FileInfo) stat {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return stat{size: fi.Size(), mtime: fi.ModTime().UnixNano(), links: 1, mode: fi.Mode()}
	}
	return stat{
		id:   positions.ID{Dev: uint64(st.Dev), Ino: st.Ino},                                      //nolint:unconvert // the width differs by platform
		size: fi.Size(), mtime: fi.ModTime().UnixNano(), links: uint64(st.Nlink), mode: fi.Mode(), //nolint:unconvert // as above
		held: int64(st.Blocks) * 512,
	}
}

var errNotRegular = errors.New("not a regular file")

// openFile opens a regular file without waiting for a writer, should it be a pipe.
func openFile(path string) (*os.File, stat, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, stat{}, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w", path, errNotRegular)
	}
	if err != nil {
		_ = f.Close() // nothing was written
		return nil, stat{}, err
	}
	return f, statOf(fi), nil
}

// readHead reads the bytes that fingerprints are made of.
func readHead(f io.ReaderAt, buf *[headSize]byte) ([]byte, error) {
	n, err := f.ReadAt(buf[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return buf[:n], nil
}

func fingerprint(head []byte) positions.Fingerprint {
	return positions.Fingerprint{Len: len(head), Sum: xxhash.Sum64(head)}
}

// fits reports whether a file that begins with head may be the one with the fingerprint.
func fits(fp positions.Fingerprint, head []byte) bool {
	return fp.Len == 0 || len(head) >= fp.Len && xxhash.Sum64(head[:fp.Len]) == fp.Sum
}

// tailFits reports whether what stands in r before offset off may be what tail was made of.
func tailFits(r io.ReaderAt, off int64, tail positions.Tail) bool {
	if tail.Len == 0 {
		return true
	}
	var buf [positions.MaxTail]byte
	b := buf[:min(tail.Len, positions.MaxTail)]
	n, err := r.ReadAt(b, off-int64(len(b)))
	return n == len(b) && (err == nil || errors.Is(err, io.EOF)) && tail.Fits(b)
}

// replayFrom sets the times that were given before to lines that are read again.
func (g *generation) replayFrom(stamps []positions.Stamp) {
	g.replay = slices.Clone(stamps)
	// A range read a second time may have been split: the whole comes before its parts.
	slices.SortFunc(g.replay, func(a, b positions.Stamp) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(b.To, a.To))
	})
	for _, s := range g.replay {
		g.base = max(g.base, s.Base+(s.To-s.From))
	}
}

// tailAt reads the tail of what stands before off.
func (g *generation) tailAt(off int64) positions.Tail {
	var buf [positions.MaxTail]byte
	b := buf[:min(off, positions.MaxTail)]
	if n, _ := g.readAt(b, off-int64(len(b))); n < len(b) { // then the next read will see why
		return positions.Tail{}
	}
	return positions.TailOf(b)
}

// readAt reads the content at an offset.
func (g *generation) readAt(p []byte, off int64) (int, error) {
	if g.z != nil {
		return g.z.ReadAt(p, off)
	}
	return g.f.ReadAt(p, off)
}

// look brings size and fingerprint up to date. It reports false when the file's content is
// not what was read before: it was truncated, and perhaps written anew. Then size is still
// what was known before.
func (g *generation) look() (same bool, err error) {
	fi, err := g.f.Stat()
	if err != nil {
		return true, err
	}
	st := statOf(fi)
	if g.z != nil {
		if st.size != g.packed || st.mtime != g.mtime {
			g.packed, g.mtime, g.done = st.size, st.mtime, false
			g.z.stop() // what follows the end seen before is read by a new start
		}
		return true, nil
	}
	var buf [headSize]byte
	head, err := readHead(g.f, &buf)
	if err != nil {
		return true, err
	}
	if !fits(g.fp, head) || st.size < g.off {
		return false, nil
	}
	g.size, g.mtime = st.size, st.mtime
	if len(head) > g.fp.Len {
		g.fp = fingerprint(head)
		g.text = g.text.ordered(head)
		g.ledger.Update(g.fp, g.path, g.mtime)
	}
	return true, nil
}

// unread reports whether bytes are known to be left.
func (g *generation) unread() bool {
	if g.z != nil {
		return !g.done
	}
	return g.size > max(g.off, g.scanned)
}

// realPath resolves the links in a path; the path itself when that fails.
func realPath(path string) string {
	if r, err := filepath.EvalSymlinks(path); err == nil {
		return r
	}
	return path
}

// add makes a file the log's newest generation. Nothing is added when another log reads it,
// or when it was read to its end before.
func (l *tailLog) add(c *candidate, now int64) *generation {
	if l.knownContent(c) || !l.t.own(l, c.st.id) {
		c.close()
		return nil
	}
	if l.since == 0 {
		l.since = l.t.began
	}
	g := l.generation(c, now)
	g.ledger = l.t.store.Track(positions.Record{
		Key: l.key, ID: g.id, Real: g.path, Fingerprint: g.fp, Modified: g.mtime, Since: l.since,
	})
	l.append(g)
	l.t.limitOpen(l)
	return g
}

// append makes a generation the newest, but for one that stands at the path.
func (l *tailLog) append(g *generation) {
	if n := len(l.gens); n > 0 && !l.gens[n-1].replaced {
		l.gens = slices.Insert(slices.Clone(l.gens), n-1, g)
		return
	}
	l.gens = append(l.gens, g)
}

// resume goes on with a file that was read to its end, and has got the log's name again.
func (l *tailLog) resume(c *candidate, now int64) *generation {
	if l.generationOf(c.st.id) != nil {
		c.close()
		return nil
	}
	for _, ledger := range l.t.store.Ledgers(l.key) {
		r := ledger.Record()
		if r.ID != c.st.id || !r.Finished || !c.holds(r) {
			continue
		}
		ledger.Forget()
		l.goOn(c, r, now)
		return l.generationOf(r.ID)
	}
	return l.add(c, now)
}

// generation makes a generation of a file, to be read from its start.
func (l *tailLog) generation(c *candidate, now int64) *generation {
	l.problem.Store(nil)
	l.t.log.Debug("reading a file", "path", c.path, "log", l.path, "inode", c.st.id.Ino, "compressed", c.z != nil)
	g := &generation{
		f: c.f, z: c.z, id: c.st.id, fp: fingerprint(c.head), path: c.path, size: c.st.size, mtime: c.st.mtime, quiet: now, replaced: true,
		text: newCharset(l.target.Encoding).ordered(c.head),
	}
	if g.z != nil {
		g.size, g.packed = 0, c.st.size
	}
	l.t.Stats.OpenFiles.Add(1)
	return g
}

// goOn makes a copy of what was read of a file, which is gone, the log's newest generation;
// it is read from where the other ended.
func (l *tailLog) goOn(c *candidate, of positions.Record, now int64) {
	if !l.t.own(l, c.st.id) {
		c.close()
		return
	}
	g := l.generation(c, now)
	g.off, g.scanned, g.tail = of.Offset, of.Offset, of.Tail
	g.replayFrom(of.Stamps)
	rec := of
	rec.ID, rec.Real, rec.Fingerprint, rec.Modified, rec.Since, rec.Finished = g.id, g.path, g.fp, g.mtime, l.since, false
	g.ledger = l.t.store.Track(rec)
	l.append(g)
	l.t.limitOpen(l)
}

// moved makes the generation that goes on reading in c what g was.
func (l *tailLog) moved(g *generation, c *candidate) *generation {
	n := l.generation(c, clock.Now())
	n.fp, n.ledger, n.off, n.tail, n.scanned, n.base, n.replay = g.fp, g.ledger, g.off, g.tail, g.off, g.base, g.replay
	l.t.log.Debug("going on in a copy", "path", n.path, "log", l.path, "offset", n.off)
	n.ledger.Move(n.id, n.path, n.mtime)
	l.t.own(l, n.id)
	return n
}
