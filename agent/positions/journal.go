package positions

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"time"
)

// maxJournal is the size at which a snapshot replaces the journal before its time: small
// enough that a restart reads it in a moment.
const maxJournal = 8 << 20

func (s *Store) due(since, period time.Duration) bool {
	s.file.Lock()
	big := s.file.size > maxJournal || s.file.dirty
	s.file.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed && (since >= period || big)
}

// logf appends an event to the journal's buffer; mu is held.
func (s *Store) logf(format string, args ...any) {
	s.changed = true
	if s.opts.ReadOnly {
		return
	}
	start := len(s.pending)
	s.pending = append(s.pending, "00000000 "...)
	s.pending = fmt.Appendf(s.pending, format, args...)
	copy(s.pending[start:], fmt.Appendf(nil, "%08x", crc32.Checksum(s.pending[start+9:], castagnoli)))
	s.pending = append(s.pending, '\n')
}

func (s *Store) logRecord(l *Ledger) {
	b, err := json.Marshal(l.record())
	if err != nil {
		panic(err) // a Record is plain data
	}
	s.logf("n %s", b)
}

// Flush writes the journal's buffer. It is not synced to the disk.
func (s *Store) Flush() {
	s.file.Lock()
	defer s.file.Unlock()
	s.mu.Lock()
	buf := s.pending
	s.pending = nil
	s.mu.Unlock()
	s.append(buf)
}

// append writes to the journal; file is held.
func (s *Store) append(buf []byte) {
	if len(buf) == 0 || s.file.f == nil {
		return
	}
	s.opts.Step("journal unwritten")
	n, err := s.file.f.Write(buf)
	s.opts.Step("journal written")
	s.file.size += int64(n)
	if err != nil {
		s.file.dirty = true
		s.fail(err)
	}
}

func (s *Store) journalName(n uint64) string { return fmt.Sprintf("%s.journal.%d", s.base, n) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checked returns the payload of a journal line whose checksum is right.
func checked(line []byte) ([]byte, bool) {
	if len(line) < 10 || line[8] != ' ' {
		return nil, false
	}
	want := fmt.Appendf(nil, "%08x", crc32.Checksum(line[9:], castagnoli))
	return line[9:], bytes.Equal(want, line[:8])
}
