package wire

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/dustin/go-humanize"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/skaldlog/skald/internal/fault"
)

// labelParser turns the text of a stream's labels into labels, remembering texts it has
// seen: a stream is pushed every second and parsed once.
type labelParser struct {
	parser   parser.Parser
	maxBytes int
	// known has the labels by {a="b"}, and by {"a":"b"} as it stands in a JSON body.
	known *labelTable
}

// Known is the labels of a stream, shared by all pushes with the same text as long as it is
// remembered. With a hundred thousand streams each look-up waits for memory, so what the
// receiver works out from the labels has its place beside them.
type Known struct {
	Labels labels.Labels
	// Note is the receiver's, always of one type. Other tenants may push the same labels.
	Note atomic.Value

	text   string
	object bool // the text is a JSON object: what is right in one form is wrong in the other
}

// cachedText is the longest text that is remembered; longer ones are parsed each time.
const cachedText = 16 << 10

// itemOverhead is about what a remembered text costs besides its bytes, the receiver's note
// included; textCopies is how often its bytes are kept: as text, as labels, and in the note.
const (
	itemOverhead = 270
	textCopies   = 3
)

func newLabelParser(cacheBytes, maxText int) *labelParser {
	return &labelParser{
		parser:   parser.NewParser(parser.Options{}),
		maxBytes: maxText,
		known:    newLabelTable(cacheBytes),
	}
}

// text parses {a="b", c="d"}. The labels share no memory with p.
func (lp *labelParser) text(p []byte) (*Known, error) {
	if k := lp.known.get(p, false); k != nil {
		return k, nil
	}
	text := string(p)
	lbs, err := lp.parse(text)
	if err != nil {
		return nil, err
	}
	return lp.remember(&Known{Labels: lbs, text: text}), nil
}

// remember keeps labels under their text, unless that is long.
func (lp *labelParser) remember(k *Known) *Known {
	if len(k.text) <= cachedText {
		lp.known.put(k)
	}
	return k
}

func (lp *labelParser) parse(text string) (labels.Labels, error) {
	if len(text) > lp.maxBytes {
		return labels.EmptyLabels(), fault.New(fault.TooLarge,
			"request body too large: stream labels size %s exceeds limit of %s",
			humanize.IBytes(uint64(len(text))), humanize.IBytes(uint64(lp.maxBytes)))
	}
	if lbs, ok := lp.plain(text); ok {
		return lbs, nil
	}
	lbs, err := lp.parser.ParseMetric(text)
	if err != nil {
		return labels.EmptyLabels(), fault.New(fault.Invalid, "couldn't parse labels: %w", err)
	}
	return lbs.WithoutEmpty(), nil
}

// plain parses what clients write nearly always: {a="b", c="d"} in the order of names, with
// plain names, and values without escapes. It reports false for anything else, which the
// whole parser then judges.
func (lp *labelParser) plain(text string) (labels.Labels, bool) {
	rest, ok := strings.CutPrefix(text, "{")
	if !ok {
		return labels.EmptyLabels(), false
	}
	b := labels.NewScratchBuilder(8)
	last := ""
	for {
		end := strings.IndexByte(rest, '=')
		if end <= 0 || end+1 >= len(rest) || rest[end+1] != '"' || !plainName(rest[:end]) || rest[:end] <= last {
			return labels.EmptyLabels(), false
		}
		name := rest[:end]
		rest = rest[end+2:]
		n := 0
		for n < len(rest) && rest[n] >= ' ' && rest[n] < 0x7f && rest[n] != '"' && rest[n] != '\\' {
			n++
		}
		if n == 0 || n+1 >= len(rest) || rest[n] != '"' {
			return labels.EmptyLabels(), false
		}
		b.Add(name, rest[:n])
		last, rest = name, rest[n+1:]
		if rest == "}" {
			return b.Labels(), true
		}
		if rest, ok = strings.CutPrefix(rest, ","); !ok {
			return labels.EmptyLabels(), false
		}
		rest = strings.TrimPrefix(rest, " ")
	}
}

// plainName reports whether s is a label's name in ASCII. Those of the parser's own are left
// to it.
func plainName(s string) bool {
	if strings.HasPrefix(s, "__") {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_', i > 0 && c >= '0' && c <= '9':
		default:
			return false
		}
	}
	return true
}

// object parses {"a":"b","c":3}, a JSON object that is known to be whole. What is no
// string counts as its text; the last of equal keys counts.
func (lp *labelParser) object(p []byte) (*Known, error) {
	if k := lp.known.get(p, true); k != nil {
		return k, nil
	}
	text := string(p)
	var pairs []labels.Label
	s := scanner{buf: bytes.Clone(p)} // strings are unescaped in place, and p is the cache's key
	err := s.object(func(name []byte) error {
		value, err := s.labelValue()
		pairs = append(pairs, labels.Label{Name: string(name), Value: string(value)})
		return err
	})
	if err != nil {
		return nil, err
	}
	lbs, err := lp.parse(renderLabels(pairs))
	if err != nil {
		return nil, err
	}
	return lp.remember(&Known{Labels: lbs, text: text, object: true}), nil
}

// renderLabels writes pairs the way clients write labels. Names are written as they are,
// so that the parser judges them.
func renderLabels(pairs []labels.Label) string {
	slices.SortStableFunc(pairs, func(a, b labels.Label) int { return strings.Compare(a.Name, b.Name) })
	out := []byte{'{'}
	for i, p := range pairs {
		if i+1 < len(pairs) && pairs[i+1].Name == p.Name {
			continue
		}
		if len(out) > 1 {
			out = append(out, ", "...)
		}
		out = append(out, p.Name...)
		out = append(out, '=')
		out = strconv.AppendQuote(out, p.Value)
	}
	return string(append(out, '}'))
}
