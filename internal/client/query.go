package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"sort"
	"strconv"
	"time"
)

// Answer is the data of a query: streams, or samples of one of the other types.
type Answer struct {
	Type string // "streams", "matrix", "vector", "scalar"
	// Entries are those of all streams, in the order of the request's direction.
	Entries []Entry
	// Samples is the result of a metric query, as JSON.
	Samples json.RawMessage
	// Stats is the server's account of what the query cost, as JSON.
	Stats    json.RawMessage
	Warnings []string
}

// Entry is one line of an answer.
type Entry struct {
	Timestamp int64 // ns
	Labels    map[string]string
	Line      string
}

// QueryRange asks for [start, end) in nanoseconds.
type QueryRange struct {
	Query          string
	Start, End     int64
	Limit          int
	Forward        bool
	Step, Interval time.Duration // 0: the server's choice
}

// Params are the request's parameters.
func (q QueryRange) Params() url.Values {
	direction := "BACKWARD"
	if q.Forward {
		direction = "FORWARD"
	}
	p := url.Values{
		"query": {q.Query}, "limit": {strconv.Itoa(q.Limit)}, "direction": {direction},
		"start": {strconv.FormatInt(q.Start, 10)}, "end": {strconv.FormatInt(q.End, 10)},
	}
	if q.Step > 0 {
		p.Set("step", strconv.FormatFloat(q.Step.Seconds(), 'f', -1, 64))
	}
	if q.Interval > 0 {
		p.Set("interval", strconv.FormatFloat(q.Interval.Seconds(), 'f', -1, 64))
	}
	return p
}

// Range runs one range query.
func (c *Client) Range(ctx context.Context, q QueryRange) (*Answer, error) {
	return c.query(ctx, "/loki/api/v1/query_range", q.Params(), q.Forward)
}

// Instant runs an instant query at the time, in nanoseconds.
func (c *Client) Instant(ctx context.Context, query string, at int64, limit int, forward bool) (*Answer, error) {
	direction := "BACKWARD"
	if forward {
		direction = "FORWARD"
	}
	return c.query(ctx, "/loki/api/v1/query", url.Values{
		"query": {query}, "time": {strconv.FormatInt(at, 10)}, "limit": {strconv.Itoa(limit)}, "direction": {direction},
	}, forward)
}

// Volume asks one of the volume endpoints, whose answers are samples.
func (c *Client) Volume(ctx context.Context, path string, params url.Values) (*Answer, error) {
	return c.query(ctx, path, params, false)
}

type streamJSON struct {
	Stream map[string]string    `json:"stream"`
	Values [][2]json.RawMessage `json:"values"`
}

func (c *Client) query(ctx context.Context, path string, params url.Values, forward bool) (*Answer, error) {
	var body struct {
		Warnings []string `json:"warnings"`
		Data     struct {
			ResultType string          `json:"resultType"`
			Result     json.RawMessage `json:"result"`
			Stats      json.RawMessage `json:"stats"`
		} `json:"data"`
	}
	if err := c.Do(ctx, http.MethodGet, path, params, &body); err != nil {
		return nil, err
	}
	a := &Answer{Type: body.Data.ResultType, Stats: body.Data.Stats, Warnings: body.Warnings}
	if a.Type != "streams" {
		a.Samples = body.Data.Result
		return a, nil
	}
	var streams []streamJSON
	if err := json.Unmarshal(body.Data.Result, &streams); err != nil {
		return nil, fmt.Errorf("streams in the answer: %w", err)
	}
	for _, s := range streams {
		entries, err := s.entries()
		if err != nil {
			return nil, err
		}
		a.Entries = append(a.Entries, entries...)
	}
	sort.SliceStable(a.Entries, func(i, j int) bool {
		if forward {
			return a.Entries[i].Timestamp < a.Entries[j].Timestamp
		}
		return a.Entries[i].Timestamp > a.Entries[j].Timestamp
	})
	return a, nil
}

func (s streamJSON) entries() ([]Entry, error) {
	out := make([]Entry, len(s.Values))
	for i, v := range s.Values {
		var ts string
		out[i].Labels = s.Stream
		if err := json.Unmarshal(v[0], &ts); err != nil {
			return nil, fmt.Errorf("timestamp %s in the answer: %w", v[0], err)
		}
		ns, err := strconv.ParseInt(ts, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("timestamp %q in the answer: %w", ts, err)
		}
		out[i].Timestamp = ns
		if err := json.Unmarshal(v[1], &out[i].Line); err != nil {
			return nil, fmt.Errorf("line in the answer: %w", err)
		}
	}
	return out, nil
}

// maxPage bounds the entries asked for at a time, when many share one timestamp.
const maxPage = 1 << 17

// Pages runs a log query of any size as a sequence of requests for about batch entries,
// and hands each page's new entries to f. A limit of 0 means everything. A metric query
// is one page. Pages overlap in one timestamp, because more entries of that time may
// follow; entries already handed out are skipped. A server that refuses a page of batch
// entries and says what it allows gets smaller ones.
func (c *Client) Pages(ctx context.Context, q QueryRange, batch int, f func(*Answer) error) error {
	left := q.Limit
	unlimited := q.Limit == 0
	allowed := maxPage
	var border []Entry // handed out, with the last page's last timestamp
	for {
		want := batch
		if !unlimited {
			want = min(batch, left)
		}
		q.Limit = min(want+len(border), allowed)
		if len(border) >= q.Limit {
			return fmt.Errorf("%d entries or more share the timestamp %d, and the server gives at most %d at a time", len(border), border[0].Timestamp, allowed)
		}
		answer, err := c.Range(ctx, q)
		if most, ok := entriesAllowed(err); ok && most < q.Limit {
			allowed, batch = most, min(batch, most)
			continue
		}
		if err != nil {
			return err
		}
		got := len(answer.Entries)
		answer.Entries = without(answer.Entries, border)
		if !unlimited && len(answer.Entries) > left {
			answer.Entries = answer.Entries[:left]
		}
		if err := f(answer); err != nil {
			return err
		}
		left -= len(answer.Entries)
		if answer.Type != "streams" || got < q.Limit || !unlimited && left <= 0 {
			return nil
		}
		if len(answer.Entries) == 0 {
			return fmt.Errorf("the server repeats the %d entries at %d ns and does not go on", len(border), border[0].Timestamp)
		}
		border = nextBorder(border, answer.Entries)
		if q.Forward {
			q.Start = border[0].Timestamp
		} else {
			q.End = border[0].Timestamp + 1
		}
	}
}

// nextBorder returns the entries handed out so far that share the last one's timestamp.
func nextBorder(border, entries []Entry) []Entry {
	last := entries[len(entries)-1].Timestamp
	if len(border) > 0 && border[0].Timestamp != last {
		border = border[:0]
	}
	for _, e := range entries {
		if e.Timestamp == last {
			border = append(border, e)
		}
	}
	return border
}

var tooManyEntries = regexp.MustCompile(`max_entries_limit_per_query \(\d+ > (\d+)\)`)

// entriesAllowed recognizes the refusal of a page that is too large, and the size it names.
func entriesAllowed(err error) (int, bool) {
	var status *StatusError
	if !errors.As(err, &status) || status.Status != http.StatusBadRequest {
		return 0, false
	}
	m := tooManyEntries.FindStringSubmatch(status.Body)
	if m == nil {
		return 0, false
	}
	n, err := strconv.Atoi(m[1])
	return n, err == nil && n > 0
}

// without removes the entries that border holds, each as often as it stands there.
func without(entries, border []Entry) []Entry {
	if len(border) == 0 {
		return entries
	}
	seen := make(map[string]int, len(border))
	for _, e := range border {
		seen[e.key()]++
	}
	kept := entries[:0]
	for _, e := range entries {
		if e.Timestamp == border[0].Timestamp && seen[e.key()] > 0 {
			seen[e.key()]--
			continue
		}
		kept = append(kept, e)
	}
	return kept
}

func (e Entry) key() string {
	labels, _ := json.Marshal(e.Labels) // a map of strings cannot fail; keys are sorted
	return string(labels) + "\x00" + e.Line
}
