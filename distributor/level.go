package distributor

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
)

// Every line that comes in passes through the level_*.go files, so nothing in them allocates and the
// common cases look at few bytes. The rules are Loki's, in this order: a stream label, a
// metadata key, severity_number, a field of a JSON or logfmt line, a word in the line.

const detectedLevel = "detected_level"

// The levels, in the spelling in which they are stored.
const (
	levelUnknown  = "unknown"
	levelTrace    = "trace"
	levelDebug    = "debug"
	levelInfo     = "info"
	levelWarn     = "warn"
	levelError    = "error"
	levelCritical = "critical"
	levelFatal    = "fatal"
)

// levelMetadata holds the metadata of entries that have nothing but a level: nearly all.
var levelMetadata = func() map[string]labels.Labels {
	m := map[string]labels.Labels{}
	for _, level := range []string{
		levelUnknown, levelTrace, levelDebug, levelInfo, levelWarn, levelError, levelCritical, levelFatal,
	} {
		m[level] = labels.FromStrings(detectedLevel, level)
	}
	return m
}()

// normalLevel returns the stored spelling of a level, or "" for a text that is none.
func normalLevel[T string | []byte](text T) string {
	var lower [len("information")]byte
	if len(text) > len(lower) || len(text) < len("inf") {
		return ""
	}
	for i := range len(text) {
		lower[i] = asciiLower[text[i]]
	}
	switch string(lower[:len(text)]) {
	case "trace", "trc":
		return levelTrace
	case "debug", "dbg":
		return levelDebug
	case "info", "inf", "information":
		return levelInfo
	case "warn", "wrn", "warning":
		return levelWarn
	case "error", "err":
		return levelError
	case "critical":
		return levelCritical
	case "fatal":
		return levelFatal
	}
	return ""
}

// kept returns the stored spelling of a level in a label or in metadata, where an unusual
// one is kept as it is.
func kept(value string) string {
	if level := normalLevel(value); level != "" {
		return level
	}
	return value
}

// severityLevel translates OpenTelemetry's severity numbers.
func severityLevel(number string) string {
	n, err := strconv.Atoi(number)
	switch {
	case err != nil:
		return levelInfo
	case n == 0:
		return levelUnknown
	case n <= 4:
		return levelTrace
	case n <= 8:
		return levelDebug
	case n <= 12:
		return levelInfo
	case n <= 16:
		return levelWarn
	case n <= 20:
		return levelError
	case n <= 24:
		return levelFatal
	}
	return levelUnknown
}

// levelFinder knows a tenant's names for the level.
type levelFinder struct {
	fields   []string // in order of preference
	lower    []string // the same in lower case
	depth    int      // how many levels of nested JSON objects to search
	shortest int
	longest  int
	ends     [256]bool // the last bytes of the fields, in either case
}

// maxJSONDepth bounds recursion where the tenant's depth is unlimited.
const maxJSONDepth = 500

func newLevelFinder(fields []string, depth int) *levelFinder {
	f := &levelFinder{depth: depth}
	if depth <= 0 || depth > maxJSONDepth {
		f.depth = maxJSONDepth
	}
	for _, field := range fields {
		if field == "" {
			continue
		}
		lower := strings.ToLower(field)
		f.fields, f.lower = append(f.fields, field), append(f.lower, lower)
		if len(f.fields) == 1 || len(field) < f.shortest {
			f.shortest = len(field)
		}
		f.longest = max(f.longest, len(field))
		end := lower[len(lower)-1]
		f.ends[end] = true
		if end >= 'a' && end <= 'z' {
			f.ends[end-'a'+'A'] = true
		}
	}
	return f
}

// fromLabels returns the level that a label of the stream states, or "".
func (f *levelFinder) fromLabels(lbs labels.Labels) string {
	for _, field := range f.fields {
		if v := lbs.Get(field); v != "" {
			return kept(v)
		}
	}
	return ""
}

// fromMetadata returns the level that structured metadata states, or "".
func (f *levelFinder) fromMetadata(pairs []labels.Label) string {
	for _, field := range f.fields {
		for i := range pairs {
			if pairs[i].Name == field {
				return kept(pairs[i].Value)
			}
		}
	}
	for i := range pairs {
		if pairs[i].Name == "severity_number" {
			return severityLevel(pairs[i].Value)
		}
	}
	return ""
}

// fromLine returns the level that a line states, or unknown.
func (f *levelFinder) fromLine(line []byte) string {
	level := ""
	if looksLikeJSON(line) {
		w := jsonWalk{buf: line, pos: bytes.IndexByte(line, '{'), finder: f}
		w.object(1)
		level = normalLevel(w.value)
	} else if f.mayBeLogfmt(line) {
		level = normalLevel(f.fromLogfmt(line))
	}
	if level != "" {
		return level
	}
	return levelWord(line)
}

// levelWord returns the level that the first level word in the line states, or unknown.
//
// Most words of a line are no level words, and a branch on each would be mispredicted
// half of the time. So three tables are combined without branching: a bit survives only
// where a boundary is followed by the first two letters of one of the words.
func levelWord(line []byte) string {
	boundary, first := byte(0xff), byte(0) // what the bytes before c may be
	for i, c := range line {
		hit := first & secondLetter[c]
		first = boundary & firstLetter[c]
		boundary = beforeWord[c]
		if hit != 0 {
			if level := wordAt(line[i-1:]); level != "" {
				return level
			}
		}
	}
	return levelUnknown
}

// wordAt returns the level if text begins with a level word.
func wordAt(text []byte) string {
	if len(text) < len("err") {
		return ""
	}
	switch text[0] | 0x20 {
	case 't':
		return word(text, "trace", levelTrace)
	case 'd':
		return word(text, "debug", levelDebug)
	case 'f':
		return word(text, "fatal", levelFatal)
	case 'c':
		return word(text, "critical", levelCritical)
	case 'i':
		return word(text, "info", levelInfo)
	case 'e':
		if level := word(text, "err", levelError); level != "" {
			return level
		}
		return word(text, "error", levelError)
	case 'w':
		if level := word(text, "warn", levelWarn); level != "" {
			return level
		}
		return word(text, "warning", levelWarn)
	}
	return ""
}

func word(text []byte, want, level string) string {
	if len(text) < len(want) || len(text) > len(want) && afterWord[text[len(want)]] == 0 {
		return ""
	}
	for i := range len(want) {
		if asciiLower[text[i]] != want[i] {
			return ""
		}
	}
	return level
}

var (
	beforeWord = byteSet(" \t\n[({\"=", 0xff)
	afterWord  = byteSet(" \t\n[](){}:,!\"=", 0xff)

	// One bit for each word: trace, debug, fatal, critical, error, warn, info.
	firstLetter  = lettersOf("tdfcewi")
	secondLetter = lettersOf("rearran")

	asciiLower = func() (t [256]byte) {
		for i := range t {
			t[i] = byte(i)
			if i >= 'A' && i <= 'Z' {
				t[i] |= 0x20
			}
		}
		return t
	}()
)

func byteSet(s string, mark byte) (t [256]byte) {
	for i := range len(s) {
		t[s[i]] = mark
	}
	return t
}

// lettersOf gives the i-th letter, in either case, the i-th bit.
func lettersOf(s string) (t [256]byte) {
	for i := range len(s) {
		t[s[i]] |= 1 << i
		t[s[i]-'a'+'A'] |= 1 << i
	}
	return t
}
