// Package conformance holds a public set of HTTP requests with the answers that Loki 3.7
// gives for them, over a corpus of log entries, and compares the answers of others with
// those. It is used by tests only: over the query engine alone, over a whole server.
//
// The data in testdata is described by its own rules of comparison, which Check follows:
// numbers are equal within 1e-9, times within a millisecond, results that have no order
// in any order, and a text of refusal must be equal to the letter unless the case says
// otherwise.
package conformance

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

//go:embed testdata
var testdata embed.FS

// Case is one request and the answer expected.
type Case struct {
	ID, Category, Description string
	Method, Path              string
	Params                    map[string]Values
	Headers                   map[string]string
	Body                      *string
	Tags                      []string
	Compare                   struct {
		Mode, Order string
		Ignore      []string
	}
	MessageMatch string `json:"message_match"`
	Expected     struct {
		Status int
		Body   json.RawMessage
	}
}

// Values are the values of one parameter.
type Values []string

// UnmarshalJSON takes a string or a list of strings.
func (v *Values) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '[' {
		return json.Unmarshal(b, (*[]string)(v))
	}
	*v = Values{""}
	return json.Unmarshal(b, &(*v)[0])
}

// Param is the first value of a parameter, "" when it is not there.
func (c *Case) Param(name string) string {
	if v := c.Params[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// Quirk reports whether the answer follows from how the reference is built and not from
// the language. Such cases do not count.
func (c *Case) Quirk() bool { return slices.Contains(c.Tags, "quirk") }

// Cases returns all cases, by category and in the order of the files.
func Cases() ([]Case, error) {
	files, err := fs.Glob(testdata, "testdata/cases/*.jsonl")
	if err != nil {
		return nil, err
	}
	var out []Case
	for _, name := range files {
		raw, err := testdata.ReadFile(name)
		if err != nil {
			return nil, err
		}
		err = eachLine(raw, func(line []byte) error {
			var c Case
			if err := json.Unmarshal(line, &c); err != nil {
				return err
			}
			out = append(out, c)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path.Base(name), err)
		}
	}
	return out, nil
}

// Corpus returns the entries as clients send them, in file order: neighbours with equal
// labels share a stream, and labels may come again.
func Corpus() ([]model.Stream, error) {
	packed, err := testdata.ReadFile("testdata/corpus.jsonl.gz")
	if err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	var raw bytes.Buffer
	if _, err := raw.ReadFrom(z); err != nil {
		return nil, err
	}
	var out []model.Stream
	err = eachLine(raw.Bytes(), func(line []byte) error {
		var e struct {
			Labels   map[string]string
			TS       string
			Line     string
			Metadata map[string]string
		}
		if err := json.Unmarshal(line, &e); err != nil {
			return err
		}
		ts, err := strconv.ParseInt(e.TS, 10, 64)
		if err != nil {
			return err
		}
		l := labels.FromMap(e.Labels)
		if len(out) == 0 || !labels.Equal(out[len(out)-1].Labels, l) {
			out = append(out, model.Stream{Labels: l})
		}
		last := &out[len(out)-1]
		last.Entries = append(last.Entries, model.Entry{
			Timestamp: ts, Line: []byte(e.Line), Metadata: labels.FromMap(e.Metadata),
		})
		return nil
	})
	return out, err
}

func eachLine(raw []byte, f func(line []byte) error) error {
	s := bufio.NewScanner(bytes.NewReader(raw))
	s.Buffer(nil, 16<<20)
	for n := 1; s.Scan(); n++ {
		if len(s.Bytes()) == 0 {
			continue
		}
		if err := f(s.Bytes()); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	return s.Err()
}
