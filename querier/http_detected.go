package querier

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/server"
	"github.com/skaldlog/skald/logql/engine"
	"github.com/skaldlog/skald/logql/pipeline"
	"github.com/skaldlog/skald/logql/scan"
	"github.com/skaldlog/skald/logql/syntax"
)

// serveDetectedLabels lists the labels worth exploring and how many values each has.
func (q *Querier) serveDetectedLabels(w http.ResponseWriter, r *http.Request) error {
	p, err := readParams(w, r)
	if err != nil {
		return err
	}
	start, end, err := p.orderedBounds()
	if err != nil {
		return err
	}
	tenants, err := server.TenantsOf(r)
	if err != nil {
		return err
	}
	e, lim := engine.Params{Start: start, End: end}, q.limitsFor(tenants)
	empty := clampLookback(&e, lim, p.now)
	if err := engine.CheckLength(e.Start, e.End, lim.MaxQueryLength.Duration()); err != nil {
		return err
	}
	var warned warnings
	sets, err := q.labelSetsIn(r, tenants, e.Start, e.End, &warned)
	if err != nil {
		return err
	}
	if empty {
		sets = nil
	}
	values := map[string]map[string]bool{}
	for _, ls := range sets {
		ls.Range(func(l labels.Label) {
			if values[l.Name] == nil {
				values[l.Name] = map[string]bool{}
			}
			values[l.Name][l.Value] = true
		})
	}
	type detected struct {
		Label       string `json:"label"`
		Cardinality int    `json:"cardinality"`
	}
	var answer struct {
		DetectedLabels []detected `json:"detectedLabels,omitempty"`
		Warnings       []string   `json:"warnings,omitempty"`
	}
	answer.Warnings = warned.list()
	for name, set := range values {
		if explorable(name, set) {
			answer.DetectedLabels = append(answer.DetectedLabels, detected{name, len(set)})
		}
	}
	slices.SortFunc(answer.DetectedLabels, func(a, b detected) int { return strings.Compare(a.Label, b.Label) })
	return writeValue(w, answer)
}

var uuidText = regexp.MustCompile(`^(?i)[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// explorable leaves out labels whose values are all numbers or UUIDs, for nobody browses
// by those; flags of 0 and 1 stay, and so do the labels that say where something runs.
func explorable(name string, values map[string]bool) bool {
	switch name {
	case "cluster", "namespace", "instance", "pod":
		return true
	}
	flags := len(values) <= 2
	for v := range values {
		flags = flags && (v == "0" || v == "1")
	}
	if flags {
		return true
	}
	for v := range values {
		if _, err := strconv.ParseFloat(v, 64); err != nil && !uuidText.MatchString(v) {
			return true
		}
	}
	return false
}

// field is a field found in lines or metadata.
type field struct {
	Label       string   `json:"label"`
	Type        string   `json:"type"`
	Cardinality int      `json:"cardinality"`
	Parsers     []string `json:"parsers"` // nil: structured metadata
	JSONPath    []string `json:"jsonPath,omitempty"`

	values map[string]bool // true when found by a parser
}

// serveDetectedFields inspects the newest lines of a query.
func (q *Querier) serveDetectedFields(w http.ResponseWriter, r *http.Request) error {
	found, err := q.detectFields(w, r)
	if err != nil {
		return err
	}
	answer := struct {
		Fields   []*field `json:"fields,omitempty"`
		Limit    int      `json:"limit,omitempty"`
		Warnings []string `json:"warnings,omitempty"`
	}{Warnings: found.warnings}
	for _, f := range found.fields {
		f.Cardinality = len(f.values)
		answer.Fields = append(answer.Fields, f)
	}
	slices.SortFunc(answer.Fields, func(a, b *field) int { return strings.Compare(a.Label, b.Label) })
	answer.Fields = answer.Fields[:min(found.limit, len(answer.Fields))]
	if len(answer.Fields) > 0 {
		answer.Limit = found.limit
	}
	return writeValue(w, answer)
}

// serveDetectedFieldValues lists one field's values.
func (q *Querier) serveDetectedFieldValues(w http.ResponseWriter, r *http.Request) error {
	found, err := q.detectFields(w, r)
	if err != nil {
		return err
	}
	answer := struct {
		Values   []string `json:"values,omitempty"`
		Limit    int      `json:"limit,omitempty"`
		Warnings []string `json:"warnings,omitempty"`
	}{Warnings: found.warnings}
	if f := found.fields[r.PathValue("name")]; f != nil {
		for v, parsed := range f.values {
			if parsed {
				v = humanSize(v)
			}
			answer.Values = append(answer.Values, v)
		}
	}
	slices.Sort(answer.Values)
	answer.Values = slices.Compact(answer.Values)
	answer.Values = answer.Values[:min(found.limit, len(answer.Values))]
	if len(answer.Values) > 0 {
		answer.Limit = found.limit
	}
	return writeValue(w, answer)
}

const (
	defaultFieldLimit = 1000
	defaultLineLimit  = 100
)

// detection is what was found in lines.
type detection struct {
	fields   map[string]*field
	limit    int // on what is told of it
	warnings []string
}

func (q *Querier) detectFields(w http.ResponseWriter, r *http.Request) (found detection, err error) {
	p, err := readParams(w, r)
	if err != nil {
		return found, err
	}
	e := engine.Params{Query: p.get("query")}
	if e.Start, e.End, err = p.orderedBounds(); err != nil {
		return found, err
	}
	if e.Limit, err = p.limit("line_limit", defaultLineLimit); err != nil {
		return found, err
	}
	limitName := "limit"
	if p.get(limitName) == "" && p.get("field_limit") != "" {
		limitName = "field_limit"
	}
	if found.limit, err = p.limit(limitName, defaultFieldLimit); err != nil {
		return found, err
	}
	if e.Step, err = p.step(e.Start, e.End); err != nil {
		return found, err
	}
	expr, err := syntax.ParseLog(e.Query)
	if err != nil {
		return found, err
	}
	tenants, err := server.TenantsOf(r)
	if err != nil {
		return found, err
	}
	leave, err := q.admit(r.Context(), tenants, nil)
	if err != nil {
		return found, err
	}
	defer leave()
	result, err := q.execute(r.Context(), tenants, q.limitsFor(tenants), e, expr)
	if err != nil {
		return found, err
	}
	d, err := newDetector()
	if err != nil {
		return found, err
	}
	for _, s := range byStreamLabels(result.Streams) {
		d.inspect(s)
	}
	found.fields, found.warnings = d.fields, result.Warnings
	return found, nil
}

// detector collects fields. Lines are parsed by the same stages that a query would use, so
// that the names found are the names that work in a query.
type detector struct {
	fields       map[string]*field
	json, logfmt *pipeline.Pipeline
}

func newDetector() (*detector, error) {
	j, err := pipeline.New([]syntax.Stage{&syntax.JSONStage{}}, pipeline.Options{})
	if err != nil {
		return nil, err
	}
	l, err := pipeline.New([]syntax.Stage{&syntax.LogfmtStage{}}, pipeline.Options{})
	if err != nil {
		return nil, err
	}
	return &detector{fields: map[string]*field{}, json: j, logfmt: l}, nil
}

// byStreamLabels joins streams that differ in metadata or in parsed labels only: entries newest
// first, streams sorted by the text of their labels. The type and the path that are told of a field are
// those of the entry that is visited last, and this is Loki's order.
func byStreamLabels(streams []scan.Stream) []*scan.Stream {
	joined := map[string]*scan.Stream{}
	for i := range streams {
		name := streams[i].StreamLabels.String()
		if joined[name] == nil {
			joined[name] = &scan.Stream{StreamLabels: streams[i].StreamLabels}
		}
		joined[name].Entries = append(joined[name].Entries, streams[i].Entries...)
	}
	sorted := make([]*scan.Stream, 0, len(joined))
	for _, name := range slices.Sorted(maps.Keys(joined)) {
		s := joined[name]
		slices.SortStableFunc(s.Entries, func(a, b scan.Entry) int { return cmp.Compare(b.Timestamp, a.Timestamp) })
		sorted = append(sorted, s)
	}
	return sorted
}

func (d *detector) inspect(s *scan.Stream) {
	base := s.StreamLabels
	hash := base.Hash()
	for i := range s.Entries {
		e := &s.Entries[i]
		e.Metadata.Range(func(l labels.Label) { d.add(l.Name, l.Value, "", nil) })
		parser, found, paths := d.parse(base, hash, e)
		found.Range(func(l labels.Label) { d.add(l.Name, l.Value, parser, paths.of(l.Name)) })
		e.Parsed.Range(func(l labels.Label) {
			path := paths[l.Name]
			if found.Has(l.Name) {
				path = paths.of(l.Name)
			}
			d.add(l.Name, l.Value, parser, path)
		})
	}
}

func isErrorLabel(name string) bool {
	return name == "__error__" || name == "__error_details__"
}

// parse tries the line as JSON and, if that fails, as logfmt, and returns the parser that
// suits the line and what it found: labels that the query set itself count as found by it. A name
// that is also structured metadata is the same field.
func (d *detector) parse(base labels.Labels, hash uint64, e *scan.Entry) (parser string, found labels.Labels, paths fieldPaths) {
	if _, ls, ok := d.json.ForStream(base, hash).Process(e.Timestamp, e.Line, nil); ok && ls.Err() == "" {
		return "json", ls.Parsed(), jsonPaths(e.Line)
	}
	if _, ls, ok := d.logfmt.ForStream(base, hash).Process(e.Timestamp, e.Line, nil); ok {
		found = ls.Parsed()
	}
	return "logfmt", found, nil
}

// fieldPaths are the paths of keys in a line of JSON, by the names that the json stage gives them.
type fieldPaths map[string][]string

// of returns the path of a label, nil when the line does not have it.
func (p fieldPaths) of(name string) []string {
	if path := p[name]; path != nil {
		return path
	}
	return p[strings.TrimSuffix(name, "_extracted")]
}

// add records a value. parser is "" for structured metadata. The last line of JSON says what the field's
// path is, and that it has none.
func (d *detector) add(name, value, parser string, path []string) {
	if parser != "" && isErrorLabel(name) {
		return
	}
	f := d.fields[name]
	if f == nil {
		f = &field{Label: name, values: map[string]bool{}}
		d.fields[name] = f
	}
	f.Type = typeOf(value)
	if parser != "" && !slices.Contains(f.Parsers, parser) {
		f.Parsers = append(f.Parsers, parser)
	}
	if parser == "json" {
		f.JSONPath = path
	}
	f.values[value] = f.values[value] || parser != ""
}

// typeOf names the first type that a value can be read as.
func typeOf(v string) string {
	if _, err := strconv.ParseInt(v, 10, 64); err == nil {
		return "int"
	}
	if _, err := strconv.ParseFloat(v, 64); err == nil {
		return "float"
	}
	if _, err := strconv.ParseBool(v); err == nil {
		return "boolean"
	}
	if _, err := time.ParseDuration(v); err == nil {
		return "duration"
	}
	if _, err := humanize.ParseBytes(v); err == nil {
		return "bytes"
	}
	return "string"
}

var sizeUnit = regexp.MustCompile(`(?i)(b|[kmgtpe]i?b?)$`)

// humanSize prints sizes in one form, so that 1024KB and 1.0MB are one value.
func humanSize(v string) string {
	if !sizeUnit.MatchString(v) {
		return v
	}
	n, err := humanize.ParseBytes(v)
	if err != nil {
		return v
	}
	return strings.ReplaceAll(humanize.Bytes(n), " ", "")
}

// jsonPaths maps the names that the json stage gives to the paths of keys they come from.
// Of keys that give the same name the first in the line counts, as it does for the stage.
func jsonPaths(line []byte) fieldPaths {
	dec := json.NewDecoder(bytes.NewReader(line))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil
	}
	paths := map[string][]string{}
	if collectPaths(paths, "", nil, dec) != nil {
		return nil
	}
	return paths
}

// maxPath bounds the keys of a path: each copies those before it.
const maxPath = 100

var errDeep = errors.New("objects in more objects than a path has keys")

// collectPaths reads the rest of an object whose brace was read.
func collectPaths(paths map[string][]string, prefix string, keys []string, dec *json.Decoder) error {
	if len(keys) == maxPath {
		return errDeep
	}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return err
		}
		key, _ := t.(string) // the decoder takes nothing else for a key
		name := prefix + sanitize(key, prefix == "")
		path := append(slices.Clip(keys), key)
		if t, err = dec.Token(); err != nil {
			return err
		}
		switch t {
		case json.Delim('{'):
			err = collectPaths(paths, name+"_", path, dec)
		case json.Delim('['):
			err = skipArray(dec)
		}
		if err != nil {
			return err
		}
		if _, taken := paths[name]; !taken && t != json.Delim('{') {
			paths[name] = path
		}
	}
	_, err := dec.Token() // the closing brace
	return err
}

// skipArray reads the rest of an array whose bracket was read.
func skipArray(dec *json.Decoder) error {
	for depth := 1; depth > 0; {
		t, err := dec.Token()
		if err != nil {
			return err
		}
		switch t {
		case json.Delim('['), json.Delim('{'):
			depth++
		case json.Delim(']'), json.Delim('}'):
			depth--
		}
	}
	return nil
}

// sanitize turns a key into (a part of) a label name as the json stage does.
func sanitize(key string, first bool) string {
	out := strings.Map(func(r rune) rune {
		if r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '_'
	}, strings.TrimSpace(key))
	if first && out != "" && out[0] >= '0' && out[0] <= '9' {
		return "_" + out
	}
	return out
}

func writeValue(w http.ResponseWriter, v any) error {
	return json.NewEncoder(setJSON(w)).Encode(v)
}
