package conformance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Check compares an answer with the expected one. It returns nil when they are the same
// under the rules of the set, and otherwise the first difference.
func (c *Case) Check(status int, body []byte) error {
	if status != c.Expected.Status {
		return fmt.Errorf("status %d, want %d; body %.300q", status, c.Expected.Status, body)
	}
	if status/100 != 2 {
		return c.checkRefusal(body)
	}
	if c.Compare.Mode == "text" {
		var want string
		if err := json.Unmarshal(c.Expected.Body, &want); err != nil {
			want = string(c.Expected.Body)
		}
		return equalText(string(body), want)
	}
	var got, want any
	if len(bytes.TrimSpace(body)) > 0 || c.Expected.Status != 204 {
		if err := json.Unmarshal(body, &got); err != nil {
			return fmt.Errorf("body is not JSON: %w: %.200q", err, body)
		}
	}
	if err := json.Unmarshal(c.Expected.Body, &want); err != nil {
		return err
	}
	if s := at(want, "status"); s != nil && at(got, "status") != s {
		return fmt.Errorf("status field %v, want %v", at(got, "status"), s)
	}
	compare, ok := modes[c.Compare.Mode]
	if !ok {
		return fmt.Errorf("unknown mode %q", c.Compare.Mode)
	}
	return compare(c, got, want)
}

func (c *Case) checkRefusal(body []byte) error {
	if c.MessageMatch == "status-only" {
		return nil
	}
	var want string
	if err := json.Unmarshal(c.Expected.Body, &want); err != nil {
		return err
	}
	var g, w any
	if strings.HasPrefix(want, "{") && json.Unmarshal([]byte(want), &w) == nil && json.Unmarshal(body, &g) == nil {
		return equalJSON(g, w)
	}
	return equalText(string(body), want)
}

func equalText(got, want string) error {
	if strings.TrimRight(got, " \t\r\n") != strings.TrimRight(want, " \t\r\n") {
		return fmt.Errorf("text differs:\n got: %s\nwant: %s", got, want)
	}
	return nil
}

func equalJSON(got, want any) error {
	if !reflect.DeepEqual(got, want) {
		g, _ := json.Marshal(got)
		w, _ := json.Marshal(want)
		return fmt.Errorf("JSON differs:\n got: %.2000s\nwant: %.2000s", g, w)
	}
	return nil
}

var modes map[string]func(c *Case, got, want any) error

func init() {
	modes = map[string]func(c *Case, got, want any) error{
		"streams": checkStreams, "matrix": checkSamples, "vector": checkSamples, "volume": checkSamples, "scalar": checkScalar,
		"set": checkSet, "series": checkSeries, "index_stats": checkIndexStats,
		"detected_labels": checkDetectedLabels, "detected_fields": checkDetectedFields, "field_values": checkFieldValues,
		"json":  func(_ *Case, got, want any) error { return equalJSON(got, want) },
		"shape": func(_ *Case, got, want any) error { return checkShape("", got, want) },
	}
}

// at walks down objects; nil when something is missing.
func at(v any, keys ...string) any {
	for _, k := range keys {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[k]
	}
	return v
}

func list(v any) []any {
	l, _ := v.([]any)
	return l
}

// canonical is a text for a JSON value that is equal for equal values.
func canonical(v any) string {
	b, err := json.Marshal(v) // maps are written sorted
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// entry is a log entry of an answer.
type entry struct{ ts, line, extra string }

// checkStreams compares log answers: per label set, the same entries in order of time.
func checkStreams(c *Case, got, want any) error {
	if t := at(got, "data", "resultType"); t != "streams" {
		return fmt.Errorf("resultType %v, want streams", t)
	}
	if g, w := canonical(list(at(got, "data", "encodingFlags"))), canonical(list(at(want, "data", "encodingFlags"))); g != w {
		return fmt.Errorf("encodingFlags %s, want %s", g, w)
	}
	forward := strings.EqualFold(c.Param("direction"), "forward")
	g, err := streams(got, forward)
	if err != nil {
		return err
	}
	w, err := streams(want, forward)
	if err != nil {
		return fmt.Errorf("expected answer: %w", err)
	}
	return sameMaps(g, w, func(g, w []entry) error {
		order := func(a, b entry) int {
			return strings.Compare(a.ts+"\x00"+a.line+"\x00"+a.extra, b.ts+"\x00"+b.line+"\x00"+b.extra)
		}
		slices.SortFunc(g, order)
		slices.SortFunc(w, order)
		if len(g) != len(w) {
			return fmt.Errorf("%d entries, want %d", len(g), len(w))
		}
		for i := range g {
			if g[i] != w[i] {
				return fmt.Errorf("entry differs:\n got: %+v\nwant: %+v", g[i], w[i])
			}
		}
		return nil
	})
}

func streams(v any, forward bool) (map[string][]entry, error) {
	out := map[string][]entry{}
	for _, s := range list(at(v, "data", "result")) {
		key := canonical(at(s, "stream"))
		last := ""
		for _, e := range list(at(s, "values")) {
			fields := list(e)
			if len(fields) < 2 {
				return nil, fmt.Errorf("stream %s: entry of %d elements", key, len(fields))
			}
			one := entry{ts: fmt.Sprint(fields[0]), line: fmt.Sprint(fields[1])}
			if len(fields) > 2 {
				one.extra = canonical(fields[2])
			}
			if a, b := last, one.ts; last != "" && (forward && later(a, b) || !forward && later(b, a)) {
				return nil, fmt.Errorf("stream %s: %s comes after %s", key, b, a)
			}
			last = one.ts
			out[key] = append(out[key], one)
		}
	}
	return out, nil
}

// later compares two times in nanoseconds, as decimal digits.
func later(a, b string) bool { return len(a) > len(b) || len(a) == len(b) && a > b }

// sameMaps compares two maps from label set to something.
func sameMaps[T any](got, want map[string]T, same func(g, w T) error) error {
	for k := range want {
		if _, ok := got[k]; !ok {
			return fmt.Errorf("label set %s is missing (got %d label sets, want %d; got for example %.300s)", k, len(got), len(want), first(got))
		}
	}
	for k, g := range got {
		w, ok := want[k]
		if !ok {
			return fmt.Errorf("label set %s is too many (got %d label sets, want %d)", k, len(got), len(want))
		}
		if err := same(g, w); err != nil {
			return fmt.Errorf("label set %s: %w", k, err)
		}
	}
	return nil
}

func first[T any](m map[string]T) string {
	for k := range m {
		return k
	}
	return "none"
}

// number reads a sample's value.
func number(v any) (float64, error) {
	s, ok := v.(string)
	if !ok {
		return 0, fmt.Errorf("sample value %v is not a string", v)
	}
	return strconv.ParseFloat(s, 64)
}

func equalNumbers(a, b float64) bool {
	return a == b || math.IsNaN(a) && math.IsNaN(b) ||
		math.Abs(a-b) <= max(1e-12, 1e-9*max(math.Abs(a), math.Abs(b)))
}

// estimates compares values of the volume endpoints.
func estimates(a, b float64) bool {
	return math.Abs(a-b) <= max(4096, 0.35*max(math.Abs(a), math.Abs(b)))
}

// point is a sample, its time rounded to milliseconds.
type point struct {
	ms    int64
	value float64
}

func samples(v any) (map[string][]point, []float64, error) {
	out := map[string][]point{}
	var order []float64
	for _, s := range list(at(v, "data", "result")) {
		key := canonical(at(s, "metric"))
		if _, ok := out[key]; ok {
			return nil, nil, fmt.Errorf("label set %s appears twice", key)
		}
		values := list(at(s, "values"))
		if one := at(s, "value"); one != nil {
			values = []any{one}
		}
		out[key] = []point{}
		for _, p := range values {
			pair := list(p)
			if len(pair) != 2 {
				return nil, nil, fmt.Errorf("label set %s: sample of %d elements", key, len(pair))
			}
			t, ok := pair[0].(float64)
			if !ok {
				return nil, nil, fmt.Errorf("label set %s: time %v is no number", key, pair[0])
			}
			x, err := number(pair[1])
			if err != nil {
				return nil, nil, err
			}
			ms := int64(math.Round(t * 1000))
			if n := len(out[key]); n > 0 && out[key][n-1].ms >= ms {
				return nil, nil, fmt.Errorf("label set %s: times do not increase at %d ms", key, ms)
			}
			out[key] = append(out[key], point{ms, x})
			order = append(order, x)
		}
	}
	return out, order, nil
}

// checkSamples compares vectors, matrices and volumes.
func checkSamples(c *Case, got, want any) error {
	if g, w := at(got, "data", "resultType"), at(want, "data", "resultType"); g != w {
		return fmt.Errorf("resultType %v, want %v", g, w)
	}
	g, order, err := samples(got)
	if err != nil {
		return err
	}
	w, _, err := samples(want)
	if err != nil {
		return fmt.Errorf("expected answer: %w", err)
	}
	equal := equalNumbers
	if c.Compare.Mode == "volume" {
		equal = estimates
	}
	err = sameMaps(g, w, func(g, w []point) error {
		if len(g) != len(w) {
			return fmt.Errorf("%d points, want %d\n got: %v\nwant: %v", len(g), len(w), g, w)
		}
		for i := range g {
			if g[i].ms != w[i].ms || !equal(g[i].value, w[i].value) {
				return fmt.Errorf("point %d: %v, want %v", i, g[i], w[i])
			}
		}
		return nil
	})
	if err != nil || c.Compare.Order == "" {
		return err
	}
	order = slices.DeleteFunc(order, math.IsNaN)
	if c.Compare.Order == "desc" {
		slices.Reverse(order)
	}
	if !slices.IsSorted(order) {
		return errors.New("values are not in order " + c.Compare.Order)
	}
	return nil
}

func checkScalar(_ *Case, got, want any) error {
	if g, w := at(got, "data", "resultType"), at(want, "data", "resultType"); g != w {
		return fmt.Errorf("resultType %v, want %v", g, w)
	}
	pair, wanted := list(at(got, "data", "result")), list(at(want, "data", "result"))
	if len(pair) != 2 {
		return fmt.Errorf("scalar of %d elements", len(pair))
	}
	g, err := number(pair[1])
	if err != nil {
		return err
	}
	w, err := number(wanted[1])
	if err == nil && !equalNumbers(g, w) {
		err = fmt.Errorf("scalar %v, want %v", g, w)
	}
	return err
}
