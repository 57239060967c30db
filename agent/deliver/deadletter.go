package deliver

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

// DeadLetter is a file of entries that a server refused for good. It is shared by the senders
// of an agent, and written before the entries' position moves.
//
// # Format
//
// One JSON object a line, with the members of DeadEntry. When the file would grow beyond its
// bound it is renamed to NAME.1, in place of an older one of that name, and begun anew; both
// together take at most twice the bound.
type DeadLetter struct {
	path string
	max  int64
	mu   struct {
		sync.Mutex
		f    *os.File
		size int64
	}
}

// DeadEntry is a line of a DeadLetter.
type DeadEntry struct {
	Refused time.Time `json:"refused"` // when
	Client  string    `json:"client"`
	Tenant  string    `json:"tenant,omitempty"`
	Reason  string    `json:"reason"` // the server's answer
	Labels  string    `json:"labels"`
	// Timestamp is the entry's, in nanoseconds since 1970.
	Timestamp int64             `json:"timestamp,string"`
	Metadata  map[string]string `json:"metadata,omitempty"`
	Line      string            `json:"line,omitempty"`
	// Bytes is the line, in Base64, when it is not valid UTF-8.
	Bytes []byte `json:"bytes,omitempty"`
}

// OpenDeadLetter opens the file, or makes it. It takes up to maxBytes, which must be
// positive, and again as much for its predecessor.
func OpenDeadLetter(path string, maxBytes int64) (*DeadLetter, error) {
	if maxBytes <= 0 {
		return nil, fmt.Errorf("dead letters: a bound of %d bytes leaves no room", maxBytes)
	}
	d := &DeadLetter{path: path, max: maxBytes}
	if err := d.open(); err != nil {
		return nil, fmt.Errorf("dead letters: %w", err)
	}
	return d, nil
}

func (d *DeadLetter) open() error {
	f, err := os.OpenFile(d.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	d.mu.f, d.mu.size = f, fi.Size()
	return nil
}

// Write appends an entry.
func (d *DeadLetter) Write(client, tenant string, ls labels.Labels, e model.Entry, reason string) error {
	out := DeadEntry{Refused: time.Now().UTC(), Client: client, Tenant: tenant, Reason: reason, Labels: ls.String(), Timestamp: e.Timestamp}
	if !e.Metadata.IsEmpty() {
		out.Metadata = e.Metadata.Map()
	}
	if utf8.Valid(e.Line) {
		out.Line = string(e.Line)
	} else {
		out.Bytes = e.Line
	}
	text, err := json.Marshal(out)
	if err != nil {
		return err
	}
	text = append(text, '\n')
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.f == nil || d.mu.size > 0 && d.mu.size+int64(len(text)) > d.max {
		if err := d.rotate(); err != nil {
			return err
		}
	}
	n, err := d.mu.f.Write(text)
	d.mu.size += int64(n)
	return err
}

// rotate begins a new file; mu is held.
func (d *DeadLetter) rotate() error {
	if d.mu.f != nil {
		_ = d.mu.f.Close() // what was written is written
		d.mu.f = nil
		if err := os.Rename(d.path, d.path+".1"); err != nil {
			return errors.Join(err, d.open())
		}
	}
	return d.open()
}

// Close closes the file.
func (d *DeadLetter) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.f == nil {
		return nil
	}
	err := d.mu.f.Close()
	d.mu.f = nil
	return err
}
