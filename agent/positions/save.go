package positions

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// snapshot is the JSON body of a snapshot file.
type snapshot struct {
	Journal uint64            `json:"journal"` // first journal to apply
	Next    uint64            `json:"next"`
	Cursors map[string]string `json:"cursors,omitempty"`
	Scanned map[string]int64  `json:"scanned,omitempty"` // see Store.Scanned
	Records []Record          `json:"records"`
}

// Save writes a snapshot.
func (s *Store) Save() error {
	if s.opts.ReadOnly {
		return nil
	}
	s.file.Lock()
	defer s.file.Unlock()
	if err := s.save(); err != nil {
		s.fail(err)
		return err
	}
	if s.file.failed != nil {
		s.opts.Logger.Info("positions are written again", "file", s.base)
		s.file.failed = nil
	}
	return nil
}

func (s *Store) save() error {
	// 1. A new journal: events from here on follow the snapshot.
	s.mu.Lock()
	n := s.journalN + 1
	f, err := os.OpenFile(s.journalName(n), os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	buf := s.pending
	s.pending = nil
	snap := snapshot{Journal: n, Next: s.next, Cursors: maps.Clone(s.cursors), Scanned: maps.Clone(s.scanned)}
	for _, k := range slices.Sorted(maps.Keys(s.ledgers)) {
		snap.Records = append(snap.Records, s.ledgers[k].record())
	}
	s.journalN = n
	s.changed = false
	s.mu.Unlock()
	s.append(buf) // the old journal stays complete: the old snapshot may be needed once more
	if s.file.f != nil {
		_ = s.file.f.Close() // its content is in the snapshot
	}
	s.file.f, s.file.size, s.file.dirty = f, 0, false
	s.opts.Step("journal begun")

	// 2. The snapshot, to a temporary file, synced.
	if err := s.writeSnapshot(snap); err != nil {
		s.mu.Lock()
		s.changed = true
		s.mu.Unlock()
		return err
	}
	// 3. Journals that neither snapshot needs.
	for k := s.file.prevN; k > 0; k-- {
		if os.Remove(s.journalName(k-1)) != nil {
			break
		}
	}
	s.file.prevN = n
	return nil
}

func (s *Store) writeSnapshot(snap snapshot) error {
	body, err := json.Marshal(snap)
	if err != nil {
		return err
	}
	tmp := s.base + ".tmp"
	header := fmt.Sprintf("skald-positions 1 %08x %d\n", crc32.Checksum(body, castagnoli), len(body))
	if err := s.writeSynced(tmp, header, body); err != nil {
		return err
	}
	s.opts.Step("snapshot synced")
	prev := s.base + ".prev"
	if _, err := os.Stat(s.base); err == nil {
		// A link, not a rename: at no time is there no snapshot under the name.
		if err := os.Remove(prev); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Link(s.base, prev); err != nil {
			s.opts.Logger.Warn("keeping the previous snapshot of positions failed", "err", err)
		}
	}
	s.opts.Step("snapshot linked")
	if err := os.Rename(tmp, s.base); err != nil {
		return err
	}
	s.opts.Step("snapshot renamed")
	return syncDir(filepath.Dir(s.base))
}

func (s *Store) writeSynced(name, header string, body []byte) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(header)
	if err == nil {
		_, err = f.Write(body[:len(body)/2])
		s.opts.Step("snapshot half written")
	}
	if err == nil {
		_, err = f.Write(body[len(body)/2:])
	}
	if err == nil {
		// Without this a crash could leave a renamed file without its content.
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
