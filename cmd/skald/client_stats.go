package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// costs adds up the statistics of the answers that make up a result.
type costs map[string]float64

// add takes an answer's statistics, numbers by their paths.
func (c *costs) add(stats json.RawMessage) error {
	if len(stats) == 0 {
		return nil
	}
	var tree any
	if err := json.Unmarshal(stats, &tree); err != nil {
		return fmt.Errorf("statistics in the answer: %w", err)
	}
	if *c == nil {
		*c = costs{}
	}
	c.walk("", tree)
	for _, kind := range []string{"Bytes", "Lines"} {
		rate, total := "Summary."+kind+"ProcessedPerSecond", (*c)["Summary.Total"+kind+"Processed"]
		if took := (*c)["Summary.ExecTime"]; took > 0 && total > 0 {
			(*c)[rate] = total / took
		}
	}
	return nil
}

func (c costs) walk(prefix string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, inner := range v {
			if k == "" {
				continue
			}
			name := strings.ToUpper(k[:1]) + k[1:]
			if prefix != "" {
				name = prefix + "." + name
			}
			c.walk(name, inner)
		}
	case float64:
		c[prefix] += v
	}
}

// print writes the numbers that are not zero as a table, with a blank line between
// groups.
func (c costs) print(w io.Writer) error {
	names := slices.Sorted(maps.Keys(c))
	names = slices.DeleteFunc(names, func(name string) bool { return c[name] == 0 })
	width := 0
	for _, name := range names {
		width = max(width, len(name))
	}
	var b strings.Builder
	group := ""
	for _, name := range names {
		g, _, _ := strings.Cut(name, ".")
		if group != "" && g != group {
			b.WriteByte('\n')
		}
		group = g
		fmt.Fprintf(&b, "%-*s  %s\n", width, name, readable(name, c[name]))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// readable prints a number by what its name says: bytes, a time or a count. The times of
// the summary and of execution are seconds, the others nanoseconds.
func readable(name string, v float64) string {
	last := name[strings.LastIndexByte(name, '.')+1:]
	lower := strings.ToLower(last)
	isTime := strings.HasSuffix(last, "Time") || strings.HasSuffix(last, "Duration") || strings.HasSuffix(last, "Latency")
	switch {
	case strings.HasSuffix(last, "BytesProcessedPerSecond"):
		return humanize.Bytes(uint64(v)) + "/s"
	case strings.Contains(lower, "bytes"):
		return humanize.Bytes(uint64(v))
	case isTime && (strings.HasPrefix(name, "Summary.") || strings.HasSuffix(name, "ExecTime")):
		return time.Duration(v * float64(time.Second)).Round(time.Microsecond).String()
	case isTime && v >= 1:
		return time.Duration(v).String()
	case v == float64(int64(v)), strings.HasSuffix(last, "PerSecond"):
		return humanize.Comma(int64(v))
	}
	return strconv.FormatFloat(v, 'f', -1, 64)
}
