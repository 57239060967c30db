package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// detectedField is a field that the server has found in log lines.
type detectedField struct {
	Label       string   `json:"label"`
	Type        string   `json:"type"`
	Cardinality uint64   `json:"cardinality"`
	Parsers     []string `json:"parsers"`
}

func runDetectedFields(ctx context.Context, std stdio, args []string) error {
	var r timeRange
	var limit, lineLimit int
	var step time.Duration
	register := func(fs *flag.FlagSet) {
		r.register(fs)
		fs.IntVar(&limit, "limit", 100, "most `fields` or values to print")
		fs.IntVar(&lineLimit, "line-limit", 1000, "`lines` to look at")
		fs.DurationVar(&step, "step", 10*time.Second, "accepted for logcli's sake")
	}
	return clientSpec{"detected-fields", "LOGQL [FIELD]", 1, 2, register}.run(std, args, func(c *clientCommand) error {
		params, err := r.params()
		if err != nil {
			return err
		}
		params.Set("query", c.args[0])
		params.Set("limit", strconv.Itoa(limit))
		params.Set("line_limit", strconv.Itoa(lineLimit))
		params.Set("step", seconds(step))
		path := "/loki/api/v1/detected_fields"
		if len(c.args) == 2 {
			path = "/loki/api/v1/detected_field/" + url.PathEscape(c.args[1]) + "/values"
		}
		var body json.RawMessage
		if err := c.client.Do(ctx, http.MethodGet, path, params, &body); err != nil {
			return err
		}
		return c.printFields(body)
	})
}

func (c *clientCommand) printFields(body json.RawMessage) error {
	var found struct {
		Fields []detectedField `json:"fields"`
		Values []string        `json:"values"`
	}
	if err := json.Unmarshal(body, &found); err != nil {
		return fmt.Errorf("fields in the answer: %w", err)
	}
	slices.SortFunc(found.Fields, func(a, b detectedField) int { return strings.Compare(a.Label, b.Label) })
	slices.Sort(found.Values)
	switch c.output {
	case "raw":
		fmt.Fprintf(c.out.w, "%s\n", body)
	case "jsonl":
		enc := json.NewEncoder(c.out.w)
		enc.SetEscapeHTML(false)
		for _, f := range found.Fields {
			if err := enc.Encode(f); err != nil {
				return err
			}
		}
		for _, v := range found.Values {
			if err := enc.Encode(v); err != nil {
				return err
			}
		}
	default:
		for _, f := range found.Fields {
			fmt.Fprintf(c.out.w, "label: %s\t\ttype: %s\t\tcardinality: %d\n", f.Label, f.Type, f.Cardinality)
		}
		for _, v := range found.Values {
			fmt.Fprintln(c.out.w, v)
		}
	}
	return c.out.w.Flush()
}
