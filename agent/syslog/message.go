// Package syslog reads syslog messages, RFC 5424 and RFC 3164, and cuts streams of them into
// messages. It knows no sockets: package agent listens, and feeds what it receives.
//
// Like its readers elsewhere it is liberal: a message that is not of the format keeps its text
// as long as it has a priority, because a line that is stored without its fields is worth more
// than one that is refused.
package syslog

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Message is a syslog message. Byte slices alias what was parsed, but for Param.Value with
// escapes.
type Message struct {
	Facility, Severity uint8
	Time               time.Time // zero when the message has none
	Hostname           []byte
	AppName            []byte
	ProcID             []byte
	MsgID              []byte
	Structured         []Element
	Text               []byte
}

// Element is an element of structured data.
type Element struct {
	ID     []byte
	Params []Param
}

// Param is a parameter of structured data.
type Param struct{ Name, Value []byte }

var severities = [8]string{"emergency", "alert", "critical", "error", "warning", "notice", "informational", "debug"}

var facilities = [24]string{
	"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "clock daemon", "authpriv", "ftp",
	"NTP subsystem", "log audit", "log alert", "cron",
	"local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
}

// SeverityName is the name of the message's severity, such as informational.
func (m *Message) SeverityName() string { return severities[m.Severity&7] }

// FacilityName is the name of the message's facility, such as local0.
func (m *Message) FacilityName() string {
	if int(m.Facility) < len(facilities) {
		return facilities[m.Facility]
	}
	return strconv.Itoa(int(m.Facility))
}

var (
	errPriority = errors.New("want <PRIORITY> at the beginning, 0 to 191")
	errVersion  = errors.New("want a version and a blank after the priority")
)

// priority cuts <N> off.
func (m *Message) priority(b []byte) ([]byte, error) {
	end := bytes.IndexByte(b[:min(len(b), 5)], '>')
	if end < 2 || b[0] != '<' {
		return nil, errPriority
	}
	n := 0
	for _, c := range b[1:end] {
		if c < '0' || c > '9' {
			return nil, errPriority
		}
		n = 10*n + int(c-'0')
	}
	if n > 191 {
		return nil, errPriority
	}
	m.Facility, m.Severity = uint8(n/8), uint8(n%8)
	return b[end+1:], nil
}

// Parse5424 reads a message of RFC 5424. m is overwritten; its Structured is used again.
func Parse5424(b []byte, m *Message) error {
	*m = Message{Structured: m.Structured[:0]}
	b, err := m.priority(b)
	if err != nil {
		return err
	}
	version, rest, ok := bytes.Cut(b, []byte{' '})
	if !ok || len(version) == 0 || len(version) > 3 || version[0] < '1' || version[0] > '9' {
		return errVersion
	}
	var stamp []byte
	for _, f := range []*[]byte{&stamp, &m.Hostname, &m.AppName, &m.ProcID, &m.MsgID} {
		var word []byte
		word, rest, ok = bytes.Cut(rest, []byte{' '})
		if !ok || len(word) == 0 {
			return errors.New("want time, host, application, process, message id and structured data, with blanks between them")
		}
		if len(word) != 1 || word[0] != '-' {
			*f = word
		}
	}
	if stamp != nil {
		if m.Time, err = time.Parse(time.RFC3339Nano, string(stamp)); err != nil {
			return fmt.Errorf("time is %.40q, want RFC 3339", stamp)
		}
	}
	if rest, err = m.structured(rest); err != nil {
		return err
	}
	if len(rest) > 0 {
		if rest[0] != ' ' {
			return errors.New("want a blank after the structured data")
		}
		rest = rest[1:]
	}
	m.Text = bytes.TrimPrefix(rest, []byte("\xef\xbb\xbf"))
	return nil
}

var errStructured = errors.New(`structured data: want - or [id name="value" …]`)

// structured cuts structured data off.
func (m *Message) structured(b []byte) ([]byte, error) {
	if len(b) > 0 && b[0] == '-' {
		return b[1:], nil
	}
	if len(b) == 0 || b[0] != '[' {
		return nil, errStructured
	}
	for len(b) > 0 && b[0] == '[' {
		id, rest := name(b[1:])
		if len(id) == 0 {
			return nil, errStructured
		}
		e := Element{ID: id}
		for len(rest) > 0 && rest[0] == ' ' {
			var p Param
			p.Name, rest = name(rest[1:])
			if len(p.Name) == 0 || len(rest) < 2 || rest[0] != '=' || rest[1] != '"' {
				return nil, errStructured
			}
			var ok bool
			if p.Value, rest, ok = quoted(rest[2:]); !ok {
				return nil, errStructured
			}
			e.Params = append(e.Params, p)
		}
		if len(rest) == 0 || rest[0] != ']' {
			return nil, errStructured
		}
		m.Structured = append(m.Structured, e)
		b = rest[1:]
	}
	return b, nil
}

// name cuts an SD-NAME off.
func name(b []byte) (n, rest []byte) {
	i := 0
	for i < len(b) && b[i] > ' ' && b[i] < 0x7f && b[i] != '=' && b[i] != ']' && b[i] != '"' {
		i++
	}
	return b[:i], b[i:]
}

// quoted reads up to the closing quotation mark, in which \" \\ and \] are escapes.
func quoted(b []byte) (v, rest []byte, ok bool) {
	plain := true
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '\\':
			if i+1 < len(b) && (b[i+1] == '"' || b[i+1] == '\\' || b[i+1] == ']') {
				plain = false
				i++
			}
		case '"':
			if plain {
				return b[:i], b[i+1:], true
			}
			return unescape(b[:i]), b[i+1:], true
		}
	}
	return nil, nil, false
}

func unescape(b []byte) []byte {
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		if b[i] == '\\' && i+1 < len(b) && (b[i+1] == '"' || b[i+1] == '\\' || b[i+1] == ']') {
			i++
		}
		out = append(out, b[i])
	}
	return out
}

// Parse3164 reads a message of RFC 3164, which names no year: the one is taken that brings
// the time nearest to now. A time as in RFC 3339 is understood as well.
func Parse3164(b []byte, now time.Time, m *Message) error {
	*m = Message{Structured: m.Structured[:0]}
	b, err := m.priority(b)
	if err != nil {
		return err
	}
	rest, ok := m.bsdTime(b, now)
	if !ok {
		m.Text = b // only the priority is known
		return nil
	}
	host, rest, ok := bytes.Cut(rest, []byte{' '})
	if !ok {
		m.Text = host
		return nil
	}
	m.Hostname = host
	m.tag(rest)
	return nil
}

const bsdStamp = "Jan _2 15:04:05"

func (m *Message) bsdTime(b []byte, now time.Time) (rest []byte, ok bool) {
	if len(b) > len(bsdStamp) && b[len(bsdStamp)] == ' ' {
		if t, err := time.ParseInLocation(bsdStamp, string(b[:len(bsdStamp)]), now.Location()); err == nil {
			m.Time = nearest(t, now)
			return b[len(bsdStamp)+1:], true
		}
	}
	word, rest, found := bytes.Cut(b, []byte{' '})
	if !found || len(word) > 40 {
		return nil, false
	}
	t, err := time.Parse(time.RFC3339Nano, string(word))
	if err != nil {
		return nil, false
	}
	m.Time = t
	return rest, true
}

// nearest gives a time without a year the year that brings it nearest to now.
func nearest(t, now time.Time) time.Time {
	best := t.AddDate(now.Year(), 0, 0)
	for _, y := range []int{now.Year() - 1, now.Year() + 1} {
		if c := t.AddDate(y, 0, 0); c.Sub(now).Abs() < best.Sub(now).Abs() {
			best = c
		}
	}
	return best
}

// tag reads "app[pid]: text"; without a colon, all is text.
func (m *Message) tag(b []byte) {
	i := 0
	for i < len(b) && b[i] > ' ' && b[i] != ':' && b[i] != '[' {
		i++
	}
	app, rest := b[:i], b[i:]
	var pid []byte
	if len(rest) > 0 && rest[0] == '[' {
		end := bytes.IndexByte(rest, ']')
		if end < 0 {
			m.Text = b
			return
		}
		pid, rest = rest[1:end], rest[end+1:]
	}
	if len(app) == 0 || len(rest) == 0 || rest[0] != ':' {
		m.Text = b
		return
	}
	m.AppName, m.ProcID = app, pid
	m.Text = bytes.TrimPrefix(rest[1:], []byte{' '})
}
