package journal

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Entry is an entry of the journal.
type Entry struct {
	Cursor string
	// Time is the entry's realtime, ns since 1970.
	Time int64
	// Fields are all fields by name, as journalctl names them: MESSAGE, _SYSTEMD_UNIT … A field
	// that is there more than once has its last value.
	Fields map[string]string
}

// Message is the text of the entry; false when it has none.
func (e *Entry) Message() (string, bool) {
	m, ok := e.Fields["MESSAGE"]
	return m, ok
}

// priorities are syslog's, in the words of systemd.
var priorities = map[string]string{
	"0": "emerg", "1": "alert", "2": "crit", "3": "error", "4": "warning", "5": "notice", "6": "info", "7": "debug",
}

// Priority is the keyword of the entry's priority, "" when it has none.
func (e *Entry) Priority() string { return priorities[e.Fields["PRIORITY"]] }

// Label is the name of the label that holds a field's value.
func Label(field string) string { return "__journal_" + strings.ToLower(field) }

// parse reads one line of journalctl's JSON. A value is a string, a list of bytes when it is
// not text, a list of values when the field is there more than once, or null when it is too
// large to be shown.
func parse(line []byte) (Entry, error) {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(line, &raw); err != nil {
		return Entry{}, err
	}
	e := Entry{Fields: make(map[string]string, len(raw))}
	for k, v := range raw {
		if s, ok := text(v); ok {
			e.Fields[k] = s
		}
	}
	e.Cursor = e.Fields["__CURSOR"]
	us, err := strconv.ParseInt(e.Fields["__REALTIME_TIMESTAMP"], 10, 64)
	if err != nil || e.Cursor == "" {
		return Entry{}, fmt.Errorf("no cursor or no time in %.100q", line)
	}
	e.Time = us * int64(time.Microsecond)
	return e, nil
}

func text(v json.RawMessage) (string, bool) {
	var s string
	if json.Unmarshal(v, &s) == nil && string(v) != "null" {
		return s, true
	}
	var list []json.RawMessage
	if json.Unmarshal(v, &list) != nil || len(list) == 0 {
		return "", false
	}
	b := make([]byte, 0, len(list))
	for _, item := range list {
		n, err := strconv.ParseUint(string(item), 10, 8)
		if err != nil {
			return text(list[len(list)-1]) // several values
		}
		b = append(b, byte(n))
	}
	return string(b), true
}
