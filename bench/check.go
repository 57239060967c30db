package main

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
)

// reply is a server's answer.
type reply struct {
	Status string          `json:"status"`
	Data   json.RawMessage `json:"data"`
}

type queryData struct {
	Result json.RawMessage `json:"result"`
	Stats  queryStats      `json:"stats"`
}

// queryStats is what Skald says about a query's cost; zero with other servers.
type queryStats struct {
	Skald struct {
		BlocksConsidered   int64 `json:"blocksConsidered"`
		BlocksPrunedTime   int64 `json:"blocksPrunedTime"`
		BlocksPrunedLabels int64 `json:"blocksPrunedLabels"`
		BlocksPrunedNeedle int64 `json:"blocksPrunedNeedle"`
		LineBlocks         int64 `json:"lineBlocks"`
		BytesFetched       int64 `json:"bytesFetched"`
		FetchRequests      int64 `json:"fetchRequests"`
		RowsScanned        int64 `json:"rowsScanned"`
		RowsMatched        int64 `json:"rowsMatched"`
		MemtableRows       int64 `json:"memtableRows"`
	} `json:"skald"`
}

// check compares a server's answer with the truth and returns the server's statistics.
func (t *truth) check(q *question, a *answer, body []byte) (queryStats, error) {
	var r reply
	if err := json.Unmarshal(body, &r); err != nil {
		return queryStats{}, err
	}
	if r.Status != "success" {
		return queryStats{}, fmt.Errorf("status %q", r.Status)
	}
	if q.metadata != nil {
		return queryStats{}, checkMetadata(q, t, r.Data)
	}
	var data queryData
	if err := json.Unmarshal(r.Data, &data); err != nil {
		return queryStats{}, err
	}
	if q.metric == nil {
		return data.Stats, checkEntries(q, a, data.Result)
	}
	return data.Stats, checkMetric(q, t, a, data.Result)
}

func checkMetadata(q *question, t *truth, data json.RawMessage) error {
	want := q.metadata(t)
	var got []string
	if q.name == "series" {
		var series []map[string]string
		if err := json.Unmarshal(data, &series); err != nil {
			return err
		}
		for _, s := range series {
			got = append(got, s["pod"])
		}
	} else if err := json.Unmarshal(data, &got); err != nil {
		return err
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		return fmt.Errorf("got %d: %.200q, want %d: %.200q", len(got), got, len(want), want)
	}
	return nil
}

// checkEntries wants exactly the newest entries, newest first over each stream. Of entries
// as old as the oldest of them, any will do.
func checkEntries(q *question, a *answer, result json.RawMessage) error {
	var streams []struct {
		Stream map[string]string `json:"stream"`
		Values [][]any           `json:"values"`
	}
	if err := json.Unmarshal(result, &streams); err != nil {
		return err
	}
	left := map[logEntry]int{}
	for _, e := range a.entries {
		left[e]++
	}
	got, oldest := 0, int64(math.MaxInt64)
	for _, s := range streams {
		before := int64(math.MaxInt64)
		for _, v := range s.Values {
			stamp, _ := v[0].(string)
			line, _ := v[1].(string)
			ts, err := strconv.ParseInt(stamp, 10, 64)
			if err != nil {
				return err
			}
			e := logEntry{ts, s.Stream["pod"], line}
			if left[e] == 0 {
				return fmt.Errorf("an entry that is none of the newest %d: %+v", q.limit, e)
			}
			if ts > before {
				return fmt.Errorf("stream %s is not in order of time at %d", e.pod, ts)
			}
			left[e]--
			before, oldest = ts, min(oldest, ts)
			got++
		}
	}
	if want := min(q.limit, len(a.entries)); got != want {
		return fmt.Errorf("%d entries, want %d", got, want)
	}
	for e, n := range left {
		if n > 0 && e.ts > oldest {
			return fmt.Errorf("missing entry %+v", e)
		}
	}
	return nil
}

type sample struct {
	Metric map[string]string `json:"metric"`
	Values [][2]any          `json:"values"`
	Value  [2]any            `json:"value"`
}

func checkMetric(q *question, t *truth, a *answer, result json.RawMessage) error {
	var series []sample
	if err := json.Unmarshal(result, &series); err != nil {
		return err
	}
	if q.metric.topk > 0 {
		return checkTop(q, a, series)
	}
	if len(series) != len(a.groups) {
		return fmt.Errorf("%d series, want %d", len(series), len(a.groups))
	}
	start := float64(t.cfg.Start.Unix())
	for _, s := range series {
		group, err := groupOf(q, s)
		if err != nil {
			return err
		}
		windows := a.groups[group]
		if len(windows) != len(s.Values) {
			return fmt.Errorf("series %q: %d points, want %d", group, len(s.Values), len(windows))
		}
		for _, point := range s.Values {
			at, got, err := number(point)
			if err != nil {
				return err
			}
			tick := int(math.Round((at - start) / q.metric.step.Seconds()))
			w := windows[tick]
			if w == nil {
				return fmt.Errorf("series %q: a point at %v, where there is no row", group, at)
			}
			if want := w.value(q.metric); !near(got, want) {
				return fmt.Errorf("series %q at %v: got %v, want %v", group, at, got, want)
			}
		}
	}
	return nil
}

// checkTop wants the largest values and each with its own group. Of groups with equal values
// any will do, and Loki gives them in the order of their labels.
func checkTop(q *question, a *answer, series []sample) error {
	var want []float64
	for _, windows := range a.groups {
		want = append(want, windows[1].sum)
	}
	slices.Sort(want)
	slices.Reverse(want)
	want = want[:min(len(want), q.metric.topk)]
	if len(series) != len(want) {
		return fmt.Errorf("%d series, want %d", len(series), len(want))
	}
	values, seen := make([]float64, 0, len(want)), map[string]bool{}
	for _, s := range series {
		group, err := groupOf(q, s)
		if err != nil {
			return err
		}
		_, got, err := number(s.Value)
		if err != nil {
			return err
		}
		if a.groups[group] == nil || got != a.groups[group][1].sum || seen[group] {
			return fmt.Errorf("group %q with %v is wrong or there twice", group, got)
		}
		seen[group] = true
		values = append(values, got)
	}
	slices.Sort(values)
	slices.Reverse(values)
	if !slices.Equal(values, want) {
		return fmt.Errorf("the values %v, want %v", values, want)
	}
	return nil
}

func groupOf(q *question, s sample) (string, error) {
	want := 1
	if q.metric.label == "" {
		want = 0
	}
	group, ok := s.Metric[q.metric.label]
	if len(s.Metric) != want || ok != (want == 1) {
		return "", fmt.Errorf("series with the labels %v, want only %q", s.Metric, q.metric.label)
	}
	return group, nil
}

// number reads [seconds, "value"].
func number(point [2]any) (at, value float64, err error) {
	at, ok := point[0].(float64)
	text, isText := point[1].(string)
	if !ok || !isText {
		return 0, 0, fmt.Errorf("not a point: %v", point)
	}
	value, err = strconv.ParseFloat(text, 64)
	return at, value, err
}

// near allows for another order of summation.
func near(got, want float64) bool {
	return math.Abs(got-want) <= 1e-9*math.Max(math.Abs(got), math.Abs(want))
}
