package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/term"

	"github.com/skaldlog/skald/internal/client"
	"github.com/skaldlog/skald/internal/client/chart"
)

// samples prints a metric result as JSON or as a drawing.
func (c *clientCommand) samples(a *client.Answer, draw bool) error {
	if !draw {
		return c.out.samples(a.Samples)
	}
	series, err := chartSeries(a)
	if err != nil {
		return err
	}
	o := chart.Options{Color: c.out.color, Zone: c.out.zone}
	o.Width, o.Height = c.screen()
	c.bar.clear()
	if a.Type == "matrix" {
		return chart.Lines(c.std.out, series, o)
	}
	return chart.Bars(c.std.out, series, o)
}

// maxChartHeight keeps the plot of a tall terminal flat enough to be compared at a glance.
const maxChartHeight = 20

// screen is the room for a chart: the terminal's, or COLUMNS, or 0 for the default.
func (c *clientCommand) screen() (width, height int) {
	if f, ok := c.std.out.(*os.File); ok {
		if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			return w, min(h/2, maxChartHeight)
		}
	}
	width, _ = strconv.Atoi(os.Getenv("COLUMNS"))
	return width, 0
}

// terminalWidth is 0 where w is no terminal.
func terminalWidth(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}

// chartSeries decodes samples. Labels that all series share are left out of their names.
func chartSeries(a *client.Answer) ([]chart.Series, error) {
	type sample [2]json.RawMessage
	var rows []struct {
		Metric map[string]string `json:"metric"`
		Value  *sample           `json:"value"`
		Values []sample          `json:"values"`
	}
	switch a.Type {
	case "matrix", "vector":
		if err := json.Unmarshal(a.Samples, &rows); err != nil {
			return nil, fmt.Errorf("samples in the answer: %w", err)
		}
	case "scalar":
		rows = append(rows, struct {
			Metric map[string]string `json:"metric"`
			Value  *sample           `json:"value"`
			Values []sample          `json:"values"`
		}{Value: &sample{}})
		if err := json.Unmarshal(a.Samples, rows[0].Value); err != nil {
			return nil, fmt.Errorf("samples in the answer: %w", err)
		}
	default:
		return nil, errors.New("--chart draws the results of metric queries; this is a log query: try count_over_time(… [1m])")
	}
	entries := make([]client.Entry, len(rows))
	for i, r := range rows {
		entries[i].Labels = r.Metric
	}
	var common map[string]string
	if len(rows) > 1 {
		common = commonLabels(entries)
	}
	out := make([]chart.Series, len(rows))
	for i, r := range rows {
		out[i].Name = formatLabels((&printer{}).visible(r.Metric, common))
		if r.Value != nil {
			r.Values = append(r.Values, *r.Value)
		}
		for _, s := range r.Values {
			p, err := chartPoint(s)
			if err != nil {
				return nil, err
			}
			out[i].Points = append(out[i].Points, p)
		}
	}
	return out, nil
}

func chartPoint(s [2]json.RawMessage) (chart.Point, error) {
	var t float64
	var text string
	if err := errors.Join(json.Unmarshal(s[0], &t), json.Unmarshal(s[1], &text)); err != nil {
		return chart.Point{}, fmt.Errorf("sample [%s,%s] in the answer: %w", s[0], s[1], err)
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return chart.Point{}, fmt.Errorf("sample in the answer: %w", err)
	}
	return chart.Point{T: t, V: v}, nil
}
