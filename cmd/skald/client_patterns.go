package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"time"
)

// linePattern is a template of log lines that the server has found.
type linePattern struct {
	Lines   int64  `json:"lines"`
	Level   string `json:"level"`
	Pattern string `json:"pattern"`
}

// runPatterns prints the templates that lines were made from. logcli has no such command.
func runPatterns(ctx context.Context, std stdio, args []string) error {
	var r timeRange
	var limit int
	var step time.Duration
	register := func(fs *flag.FlagSet) {
		r.register(fs)
		fs.IntVar(&limit, "limit", 50, "most `patterns` to print, the most frequent first; 0 prints all")
		fs.DurationVar(&step, "step", 0, "`interval` in which lines are counted, for -o raw; the server chooses by default")
	}
	return clientSpec{"patterns", "LOGQL", 1, 1, register}.run(std, args, func(c *clientCommand) error {
		params, err := r.params()
		if err != nil {
			return err
		}
		params.Set("query", c.args[0])
		if step > 0 {
			params.Set("step", seconds(step))
		}
		var body json.RawMessage
		if err := c.client.Do(ctx, http.MethodGet, "/loki/api/v1/patterns", params, &body); err != nil {
			return err
		}
		return c.printPatterns(body, limit)
	})
}

func (c *clientCommand) printPatterns(body json.RawMessage, limit int) error {
	if c.output == "raw" {
		fmt.Fprintf(c.out.w, "%s\n", body)
		return c.out.w.Flush()
	}
	var answer struct {
		Data []struct {
			Pattern, Level string
			Samples        [][2]int64
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("patterns in the answer: %w", err)
	}
	if limit > 0 && len(answer.Data) > limit {
		answer.Data = answer.Data[:limit]
	}
	enc := json.NewEncoder(c.out.w)
	enc.SetEscapeHTML(false)
	for _, p := range answer.Data {
		found := linePattern{Level: p.Level, Pattern: p.Pattern}
		for _, s := range p.Samples {
			found.Lines += s[1]
		}
		if c.output == "jsonl" {
			if err := enc.Encode(found); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(c.out.w, "%8d  %-8s  %s\n", found.Lines, found.Level, found.Pattern)
	}
	return c.out.w.Flush()
}
