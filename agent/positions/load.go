package positions

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// load reads the newest good snapshot and the journals after it.
func (s *Store) load() (found bool, err error) {
	snap, err := readSnapshot(s.base)
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrPermission):
		return false, err
	default:
		prev, prevErr := readSnapshot(s.base + ".prev")
		if errors.Is(err, fs.ErrNotExist) && errors.Is(prevErr, fs.ErrNotExist) {
			return false, nil
		}
		s.opts.Logger.Error("the positions file is damaged", "file", s.base, "err", err)
		if prevErr != nil {
			s.opts.Logger.Error("so is the one before it: only the journal is left, and files it does not name are read from the start", "err", prevErr)
		} else {
			s.opts.Logger.Warn("using the previous positions file and the journal; some lines may be sent again")
		}
		s.keepDamaged()
		snap = prev
	}
	for _, r := range snap.Records {
		s.put(&Ledger{store: s, rec: r})
		s.next = max(s.next, r.N+1)
	}
	s.next = max(s.next, snap.Next)
	for k, v := range snap.Cursors {
		s.cursors[k] = v
	}
	for k, v := range snap.Scanned {
		s.scanned[k] = v
	}
	names := s.journals()
	for _, n := range names {
		if n >= snap.Journal {
			if err := s.replay(s.journalName(n)); err != nil {
				return false, err
			}
		}
		s.journalN = max(s.journalN, n)
	}
	s.journalN = max(s.journalN, snap.Journal)
	s.file.prevN = snap.Journal
	return true, nil
}

// keepDamaged puts the damaged snapshot aside for whoever wants to look at it.
func (s *Store) keepDamaged() {
	if !s.opts.ReadOnly {
		_ = os.Rename(s.base, s.base+".damaged") // best effort
	}
}

func readSnapshot(name string) (snapshot, error) {
	var snap snapshot
	b, err := os.ReadFile(name)
	if err != nil {
		return snap, err
	}
	header, body, _ := bytes.Cut(b, []byte{'\n'})
	var version, length int
	var sum uint32
	if _, err := fmt.Sscanf(string(header), "skald-positions %d %x %d", &version, &sum, &length); err != nil {
		return snap, fmt.Errorf("%s: not a snapshot of positions", name)
	}
	switch {
	case version != 1:
		return snap, fmt.Errorf("%s: has version %d, this program reads version 1", name, version)
	case length != len(body):
		return snap, fmt.Errorf("%s: has %d bytes, want %d", name, len(body), length)
	case crc32.Checksum(body, castagnoli) != sum:
		return snap, fmt.Errorf("%s: the checksum is wrong", name)
	}
	if err := json.Unmarshal(body, &snap); err != nil {
		return snap, fmt.Errorf("%s: %w", name, err)
	}
	return snap, nil
}

// journals returns the numbers of the journal files, in order.
func (s *Store) journals() []uint64 {
	var out []uint64
	names, _ := filepath.Glob(globEscape(s.base) + ".journal.*") // the pattern is valid
	for _, name := range names {
		if n, err := strconv.ParseUint(name[strings.LastIndexByte(name, '.')+1:], 10, 64); err == nil {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

func globEscape(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// replay applies a journal up to its first damaged line.
func (s *Store) replay(name string) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	for len(b) > 0 {
		line, rest, whole := bytes.Cut(b, []byte{'\n'})
		event, ok := checked(line)
		if !whole || !ok || s.apply(event) != nil {
			s.opts.Logger.Warn("the journal of positions ends in a damaged line; lines after it may be sent again",
				"file", name, "bytes", len(b))
			return nil
		}
		b = rest
	}
	return nil
}

// apply repeats one event.
func (s *Store) apply(event []byte) error {
	if len(event) < 2 {
		return errors.New("event too short")
	}
	args := string(event[2:])
	var n uint64
	switch event[0] {
	case 'n':
		var r Record
		if err := json.Unmarshal(event[2:], &r); err != nil {
			return err
		}
		s.put(&Ledger{store: s, rec: r})
		s.next = max(s.next, r.N+1)
	case 'c':
		var kv [2]string
		if err := json.Unmarshal(event[2:], &kv); err != nil {
			return err
		}
		s.putCursor(kv[0], kv[1])
	case 'w':
		at, client, _ := strings.Cut(args, " ")
		v, err := strconv.ParseInt(at, 10, 64)
		if err != nil {
			return err
		}
		var name string
		if err := json.Unmarshal([]byte(client), &name); err != nil {
			return err
		}
		s.scanned[name] = v
	case 'p':
		var off int64
		var tail Tail
		if _, err := fmt.Sscanf(args, "%d %d %d %d", &n, &off, &tail.Len, &tail.Sum); err != nil {
			return err
		}
		if l := s.ledgers[n]; l != nil {
			l.rec.Offset, l.rec.Tail = off, tail
			l.rec.Stamps = slices.DeleteFunc(l.rec.Stamps, func(st Stamp) bool { return st.To <= off })
		}
	case 's':
		var st Stamp
		if _, err := fmt.Sscanf(args, "%d %d %d %d", &n, &st.From, &st.To, &st.Base); err != nil {
			return err
		}
		if l := s.ledgers[n]; l != nil && st.To > l.rec.Offset {
			l.rec.Stamps = append(l.rec.Stamps, st)
		}
	case 'f', 'd':
		if _, err := fmt.Sscanf(args, "%d", &n); err != nil {
			return err
		}
		if event[0] == 'd' {
			if l := s.ledgers[n]; l != nil {
				s.drop(l)
			}
		} else if l := s.ledgers[n]; l != nil {
			l.rec.Finished = true
		}
	default:
		return fmt.Errorf("unknown event %q", event[0])
	}
	return nil
}

// importPromtail reads Promtail's positions file.
func (s *Store) importPromtail() error {
	b, err := os.ReadFile(s.promtail)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var file struct {
		Positions map[string]string `yaml:"positions"`
	}
	if err := yaml.Unmarshal(b, &file); err != nil {
		return err
	}
	s.imported = file.Positions
	if fi, err := os.Stat(s.promtail); err == nil && len(file.Positions) > 0 {
		s.promtailAt = fi.ModTime().UnixNano()
	}
	for k, v := range file.Positions {
		if strings.HasPrefix(k, "cursor-") || strings.HasPrefix(k, "journal-") {
			s.cursors[k] = v
		}
	}
	if len(file.Positions) > 0 {
		s.opts.Logger.Info("taking over Promtail's positions; its file stays as it is", "file", s.promtail, "positions", len(file.Positions))
	}
	return nil
}
