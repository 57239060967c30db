package main

import (
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"time"
)

// report prints the tables in Markdown.
func report(w io.Writer, t target, results []measured) {
	out := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }
	out("\n| query | what | cold ms | warm ms | best ms | CPU ms | cores used | wanted | Loki | VictoriaLogs | / Loki | / VictoriaLogs | answer |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|\n")
	var loki, vlogs, lokiCPU, vlogsCPU, compared float64
	for i := range results {
		m := &results[i]
		warm := ms(m.median())
		if m.question.loki > 0 {
			compared++
			loki += math.Log(warm / m.question.loki)
			vlogs += math.Log(warm / m.question.vlogs)
			quiet := ms(m.cpu) / float64(runtime.NumCPU())
			lokiCPU += math.Log(quiet / m.question.loki)
			vlogsCPU += math.Log(quiet / m.question.vlogs)
		}
		answer := "right"
		if m.wrong != nil {
			answer = "**WRONG**"
		}
		against := fmt.Sprintf("%v | %v | %.3g | %.2f", m.question.loki, m.question.vlogs, warm/m.question.loki, warm/m.question.vlogs)
		if m.question.loki == 0 {
			against = "| | |"
		}
		out("| %s | %s | %s | %s | %s | %s | %.2f | %.2f | %s | %s |\n", m.question.name, strings.ReplaceAll(m.question.what, "|", `\|`), short(ms(m.cold)), short(warm), short(ms(m.warm[0])),
			short(ms(m.cpu)), m.cores, m.wanted, against, answer)
	}
	n := max(1, compared)
	out("| **geometric mean** | | | | | | | | | | **%.3g** | **%.2f** | |\n", math.Exp(loki/n), math.Exp(vlogs/n))
	if t.pid != 0 {
		out("| geometric mean of CPU ms / cores | | | | | | | | | | %.3g | %.2f | |\n", math.Exp(lokiCPU/n), math.Exp(vlogsCPU/n))
	}

	out("\n| query | blocks considered | pruned: labels | time | needle | line blocks read | KB fetched cold | rows scanned | rows matched | from memory |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	for i := range results {
		s := results[i].stats.Skald
		if results[i].question.metadata != nil {
			continue
		}
		out("| %s | %d | %d | %d | %d | %d | %.0f | %d | %d | %d |\n", results[i].question.name, s.BlocksConsidered, s.BlocksPrunedLabels, s.BlocksPrunedTime,
			s.BlocksPrunedNeedle, s.LineBlocks, float64(s.BytesFetched)/1e3, s.RowsScanned, s.RowsMatched, s.MemtableRows)
	}
	if t.pid == 0 {
		return
	}
	if use, err := usageOf(t.pid); err == nil {
		out("\npeak RSS while querying    %8.1f MB\n", float64(use.peakRSS)/1e6)
	}
}

func ms(d time.Duration) float64 { return d.Seconds() * 1000 }

// short prints three digits.
func short(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
