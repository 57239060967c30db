package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/skaldlog/skald/internal/client"
)

// printBuffer gathers lines into fewer writes.
const printBuffer = 64 << 10

// printer writes entries in one of the output modes.
type printer struct {
	w          *bufio.Writer
	mode       string
	layout     string
	zone       *time.Location
	color      bool
	noLabels   bool
	perStream  bool // colour per label set, not by level
	width      int  // least width of the label column
	hideLabels map[string]bool
	showLabels map[string]bool
}

var timeLayouts = map[string]string{
	"rfc3339": time.RFC3339, "rfc3339nano": time.RFC3339Nano, "rfc822z": time.RFC822Z, "rfc1123z": time.RFC1123Z,
	"stampmicro": time.StampMicro, "stampmilli": time.StampMilli, "stampnano": time.StampNano, "unixdate": time.UnixDate,
}

func newPrinter(w io.Writer, o clientOptions) (printer, error) {
	p := printer{w: bufio.NewWriterSize(w, printBuffer), mode: o.output}
	switch o.output {
	case "default", "raw", "jsonl":
	default:
		return p, fmt.Errorf("--output=%s: expected default, raw or jsonl", o.output)
	}
	var ok bool
	if p.layout, ok = timeLayouts[o.timeStyle]; !ok {
		return p, fmt.Errorf("--output-timestamp-format=%s: expected rfc3339, rfc3339nano, rfc822z, rfc1123z, stampmicro, stampmilli, stampnano or unixdate", o.timeStyle)
	}
	switch strings.ToLower(o.timezone) {
	case "local":
		p.zone = time.Local
	case "utc":
		p.zone = time.UTC
	default:
		return p, fmt.Errorf("--timezone=%s: expected Local or UTC", o.timezone)
	}
	switch o.color {
	case "auto":
		p.color = isTerminal(w)
	case "always":
		p.color = true
	case "never":
	default:
		return p, fmt.Errorf("--color=%s: expected auto, always or never", o.color)
	}
	return p, nil
}

const (
	colorTime   = "\x1b[34m"
	colorLabels = "\x1b[2m"
	colorReset  = "\x1b[0m"
)

var levelColors = map[string]string{
	"critical": "\x1b[1;31m", "fatal": "\x1b[1;31m", "error": "\x1b[31m", "warn": "\x1b[33m",
	"debug": "\x1b[2m", "trace": "\x1b[2m",
}

// to is the same printer for another writer, without colour.
func (p printer) to(w io.Writer) printer {
	p.w, p.color = bufio.NewWriterSize(w, printBuffer), false
	return p
}

// print writes entries and flushes; common are labels not worth repeating on each line.
func (p *printer) print(entries []client.Entry, common map[string]string) error {
	for _, e := range entries {
		if err := p.write(e, common); err != nil {
			return err
		}
	}
	return p.w.Flush()
}

// write writes an entry into the buffer.
func (p *printer) write(e client.Entry, common map[string]string) error {
	switch p.mode {
	case "raw":
		_, err := p.w.WriteString(strings.TrimSuffix(e.Line, "\n") + "\n")
		return err
	case "jsonl":
		return p.printJSON(e)
	}
	return p.printDefault(e, common)
}

// raw writes the line alone into the buffer.
func (p *printer) raw(line []byte) error {
	_, err := p.w.Write(bytes.TrimSuffix(line, newline))
	if err != nil {
		return err
	}
	return p.w.WriteByte('\n')
}

var newline = []byte{'\n'}

func (p *printer) printJSON(e client.Entry) error {
	record := struct {
		Labels    map[string]string `json:"labels,omitempty"`
		Line      string            `json:"line"`
		Timestamp string            `json:"timestamp"`
	}{e.Labels, e.Line, time.Unix(0, e.Timestamp).In(p.zone).Format(time.RFC3339Nano)}
	if p.noLabels {
		record.Labels = nil
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(record); err != nil {
		return err
	}
	_, err := p.w.Write(buf.Bytes())
	return err
}

func (p *printer) printDefault(e client.Entry, common map[string]string) error {
	p.colored(colorTime, time.Unix(0, e.Timestamp).In(p.zone).Format(p.layout))
	if !p.noLabels {
		text := formatLabels(p.visible(e.Labels, common))
		p.width = max(p.width, len(text))
		_ = p.w.WriteByte(' ')
		p.colored(p.labelColor(text), text+strings.Repeat(" ", p.width-len(text)))
	}
	_ = p.w.WriteByte(' ')
	p.colored(levelColors[e.Labels["detected_level"]], strings.TrimSpace(e.Line))
	return p.w.WriteByte('\n') // a bufio.Writer keeps its first error
}

func (p *printer) labelColor(text string) string {
	if !p.perStream {
		return colorLabels
	}
	h := fnv.New32a()
	_, _ = io.WriteString(h, text)
	return "\x1b[3" + strconv.Itoa(1+int(h.Sum32()%6)) + "m"
}

func (p *printer) colored(color, text string) {
	if !p.color || color == "" {
		_, _ = p.w.WriteString(text)
		return
	}
	_, _ = p.w.WriteString(color + text + colorReset)
}

func (p *printer) visible(ls, common map[string]string) map[string]string {
	out := make(map[string]string, len(ls))
	for k, v := range ls {
		switch {
		case p.hideLabels[k], len(p.showLabels) > 0 && !p.showLabels[k]:
		case common != nil && common[k] == v && has(common, k):
		default:
			out[k] = v
		}
	}
	return out
}

func has(m map[string]string, k string) bool { _, ok := m[k]; return ok }

// formatLabels prints {a="b", c="d"} with names sorted.
func formatLabels(ls map[string]string) string {
	names := make([]string, 0, len(ls))
	for k := range ls {
		names = append(names, k)
	}
	sort.Strings(names)
	var b strings.Builder
	b.WriteByte('{')
	for i, k := range names {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(k + "=" + strconv.Quote(ls[k]))
	}
	b.WriteByte('}')
	return b.String()
}

// commonLabels are the labels that all entries share; nil for fewer than two label sets.
func commonLabels(entries []client.Entry) map[string]string {
	if len(entries) == 0 {
		return nil
	}
	common := map[string]string{}
	for k, v := range entries[0].Labels {
		common[k] = v
	}
	for _, e := range entries[1:] {
		for k, v := range common {
			if got, ok := e.Labels[k]; !ok || got != v {
				delete(common, k)
			}
		}
	}
	return common
}

// samples prints a metric result as indented JSON, as logcli does.
func (p *printer) samples(result json.RawMessage) error {
	var buf bytes.Buffer
	if err := json.Indent(&buf, result, "", "  "); err != nil {
		return fmt.Errorf("result in the answer: %w", err)
	}
	if p.color {
		buf.WriteByte('\n')
	}
	if _, err := p.w.Write(buf.Bytes()); err != nil {
		return err
	}
	return p.w.Flush()
}

func trimmed(s string) string { return strings.TrimSpace(s) }
