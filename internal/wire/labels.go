package wire

import (
	"bytes"
	"slices"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/gencache"
)

// labelParser turns the text of a stream's labels into labels, remembering texts it has
// seen: a stream is pushed every second and parsed once.
type labelParser struct {
	parser   parser.Parser
	maxBytes int
	texts    *gencache.Cache[string, labels.Labels] // by {a="b"}
	objects  *gencache.Cache[string, labels.Labels] // by {"a":"b"}, as it stands in a JSON body
}

// cachedText is the longest text that is remembered; longer ones are parsed each time.
const cachedText = 16 << 10

// itemOverhead is about what a remembered text costs besides its bytes.
const itemOverhead = 200

func newLabelParser(cacheBytes, maxText int) *labelParser {
	return &labelParser{
		parser:   parser.NewParser(parser.Options{}),
		maxBytes: maxText,
		texts:    gencache.New[string, labels.Labels](cacheBytes / 2),
		objects:  gencache.New[string, labels.Labels](cacheBytes / 2),
	}
}

// text parses {a="b", c="d"}. The labels share no memory with p.
func (lp *labelParser) text(p []byte) (labels.Labels, error) {
	if lbs, ok := lp.texts.Get(alias(p)); ok {
		return lbs, nil
	}
	text := string(p)
	lbs, err := lp.parse(text)
	if err == nil && len(text) <= cachedText {
		lp.texts.Put(text, lbs, 2*len(text)+itemOverhead)
	}
	return lbs, err
}

func (lp *labelParser) parse(text string) (labels.Labels, error) {
	if len(text) > lp.maxBytes {
		return labels.EmptyLabels(), fault.New(fault.TooLarge,
			"request body too large: stream labels size %s exceeds limit of %s",
			humanize.IBytes(uint64(len(text))), humanize.IBytes(uint64(lp.maxBytes)))
	}
	lbs, err := lp.parser.ParseMetric(text)
	if err != nil {
		return labels.EmptyLabels(), fault.New(fault.Invalid, "couldn't parse labels: %w", err)
	}
	return lbs.WithoutEmpty(), nil
}

// object parses {"a":"b","c":3}, a JSON object that is known to be whole. A number counts
// as its text; the last of equal keys counts.
func (lp *labelParser) object(p []byte) (labels.Labels, error) {
	if lbs, ok := lp.objects.Get(alias(p)); ok {
		return lbs, nil
	}
	key := ""
	if len(p) <= cachedText {
		key = string(p)
	}
	var pairs []labels.Label
	s := scanner{buf: bytes.Clone(p)} // strings are unescaped in place, and p is the cache's key
	err := s.object(func(name []byte) error {
		value, err := s.labelValue()
		pairs = append(pairs, labels.Label{Name: string(name), Value: string(value)})
		return err
	})
	if err != nil {
		return labels.EmptyLabels(), err
	}
	lbs, err := lp.parse(renderLabels(pairs))
	if err == nil && key != "" {
		lp.objects.Put(key, lbs, 2*len(key)+itemOverhead)
	}
	return lbs, err
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
