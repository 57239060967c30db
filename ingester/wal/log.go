package wal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/skaldlog/skald/internal/fault"
)

// File is what a log needs of the file it appends to. Writes go to the end.
type File interface {
	io.Writer
	Sync() error
	Truncate(size int64) error
	Close() error
}

// Options configure a Log; the zero value syncs every group to a plain file.
type Options struct {
	// NoSync leaves durability to the operating system: a crash of the process loses
	// nothing, a crash of the machine may lose the last seconds.
	NoSync bool
	// Create makes the file, which must not exist yet. Nil means a plain file.
	Create func(path string) (File, error)
	// ObserveSync, when not nil, is told how long each sync took.
	ObserveSync func(time.Duration)
}

// Log is a file open for appending.
//
// Commits are grouped. Whoever finds no commit under way leads: it takes every batch
// that waits, writes them as one frame, syncs once and wakes their owners. Batches that
// arrive meanwhile wait, and the first of them leads the next commit. So a slow disk
// makes groups larger instead of queues longer, nobody waits for a timer, and there is no
// goroutine to own.
type Log struct {
	path string
	opts Options

	// Only the leader touches these; leadership passes under mu.
	file File
	mark [markSize]byte
	buf  []byte
	size int64 // of what is durable and acknowledged

	mu struct {
		sync.Mutex
		queue   []*pending
		leading bool
		broken  error
		size    int64
	}
}

// pending is a batch that waits for its commit.
type pending struct {
	records []byte
	err     error
	lead    bool          // woken to lead the next commit
	wake    chan struct{} // capacity 1
}

var pendings = sync.Pool{New: func() any { return &pending{wake: make(chan struct{}, 1)} }}

// Create starts a new file at path and makes its header durable. The caller syncs the
// directory.
func Create(path string, opts Options) (*Log, error) {
	if opts.Create == nil {
		opts.Create = func(path string) (File, error) {
			return os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
		}
	}
	f, err := opts.Create(path)
	if err != nil {
		return nil, fmt.Errorf("creating write-ahead log: %w", err)
	}
	l := &Log{path: path, opts: opts, file: f, size: headerSize}
	l.mu.size = headerSize
	_, _ = rand.Read(l.mark[:]) // never fails
	_, err = f.Write(header(l.mark))
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return nil, fmt.Errorf("starting write-ahead log %s: %w", path, errors.Join(err, f.Close(), os.Remove(path)))
	}
	return l, nil
}

func header(mark [markSize]byte) []byte {
	h := append(make([]byte, 0, headerSize), magic...)
	h = binary.LittleEndian.AppendUint32(h, version)
	h = append(h, mark[:]...)
	return binary.LittleEndian.AppendUint32(h, crc32.Checksum(h, castagnoli))
}

// Path returns the path the log was created at.
func (l *Log) Path() string { return l.path }

// Size returns the length of the file in bytes.
func (l *Log) Size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.size
}

// Append makes records from Encode durable. It returns nil when they are, and a
// fault.Unavailable when they are not and never will be: a retry in this file may
// succeed, unless the error is ErrBroken. Records may be reused when it has returned.
func (l *Log) Append(records []byte) error {
	p := pendings.Get().(*pending)
	p.records, p.err, p.lead = records, nil, false
	defer func() { p.records = nil; pendings.Put(p) }()

	l.mu.Lock()
	l.mu.queue = append(l.mu.queue, p)
	if l.mu.leading {
		l.mu.Unlock()
		<-p.wake
		if !p.lead {
			return p.err
		}
		l.mu.Lock()
	}
	l.mu.leading = true
	group := l.takeGroup()
	err := l.mu.broken
	l.mu.Unlock()

	if err == nil {
		err = l.commit(group)
	}

	l.mu.Lock()
	if errors.Is(err, ErrBroken) {
		l.mu.broken = err
	}
	l.mu.size = l.size
	if len(l.mu.queue) > 0 {
		next := l.mu.queue[0]
		next.lead = true
		next.wake <- struct{}{}
	} else {
		l.mu.leading = false
	}
	l.mu.Unlock()
	for _, q := range group[1:] { // group[0] is p
		q.err = err
		q.wake <- struct{}{}
	}
	return err
}

// takeGroup removes the batches of the next commit from the queue. The first is the
// leader's own. Called with mu held.
func (l *Log) takeGroup() []*pending {
	n, size := 0, 0
	for n < len(l.mu.queue) && (n == 0 || size+len(l.mu.queue[n].records) <= maxGroup) {
		size += len(l.mu.queue[n].records)
		n++
	}
	group := l.mu.queue[:n:n]
	l.mu.queue = append([]*pending(nil), l.mu.queue[n:]...)
	return group
}

// commit writes a frame and makes it durable.
func (l *Log) commit(group []*pending) error {
	size := frameHeader
	for _, p := range group {
		size += len(p.records)
	}
	l.buf = append(slices.Grow(l.buf[:0], size), l.mark[:]...)
	l.buf = append(l.buf, make([]byte, frameHeader-markSize)...)
	for _, p := range group {
		l.buf = append(l.buf, p.records...)
	}
	body := l.buf[frameHeader:]
	binary.LittleEndian.PutUint32(l.buf[markSize:], uint32(len(body)))
	binary.LittleEndian.PutUint32(l.buf[markSize+4:], crc32.Checksum(body, castagnoli))
	defer func() {
		if cap(l.buf) > 16<<20 {
			l.buf = nil
		}
	}()

	if _, err := l.file.Write(l.buf); err != nil {
		// Most likely the disk is full. A frame cut short would hide whatever is written
		// after it, so it has to go before anything else may be appended.
		if terr := l.file.Truncate(l.size); terr != nil {
			return l.breakOff("cutting off a failed write", errors.Join(err, terr))
		}
		return fault.New(fault.Unavailable, "appending to write-ahead log %s: %w", l.path, err)
	}
	if !l.opts.NoSync {
		start := time.Now()
		// Without this sync an acknowledged batch is gone after a power cut.
		if err := l.file.Sync(); err != nil {
			// The kernel may have dropped the dirty pages and call the next sync a
			// success, so this file is never written again.
			_ = l.file.Truncate(l.size)
			return l.breakOff("syncing", err)
		}
		if l.opts.ObserveSync != nil {
			l.opts.ObserveSync(time.Since(start))
		}
	}
	l.size += int64(len(l.buf))
	return nil
}

func (l *Log) breakOff(doing string, err error) error {
	return fault.New(fault.Unavailable, "%s: %w: %s: %w", l.path, ErrBroken, doing, err)
}

// Broken reports whether the log takes no more records.
func (l *Log) Broken() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.broken != nil
}

// Close syncs and closes the file. No Append may be under way or follow.
func (l *Log) Close() error {
	var err error
	if !l.Broken() {
		err = l.file.Sync()
	}
	l.buf = nil // the memtable may keep the log until it is written
	if err = errors.Join(err, l.file.Close()); err != nil {
		return fmt.Errorf("closing write-ahead log %s: %w", l.path, err)
	}
	return nil
}
