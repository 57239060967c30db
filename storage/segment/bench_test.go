package segment

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/dustin/go-humanize"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

const (
	benchBytes   = 64 << 20
	benchStreams = 60
)

var benchEntries = sync.OnceValue(func() []entry { return corpusEntries(benchBytes, benchStreams) })

var benchSegment = sync.OnceValue(func() []byte {
	var buf bytes.Buffer
	if _, err := writeTo(&buf, WriterOptions{}, benchEntries()); err != nil {
		panic(err)
	}
	return buf.Bytes()
})

func writeTo(w io.Writer, opts WriterOptions, entries []entry) (Info, error) {
	s := NewWriter(w, opts)
	var last labels.Labels
	var hash uint64
	for i := range entries {
		e := &entries[i]
		if !labels.Equal(e.stream, last) {
			last, hash = e.stream, e.stream.Hash()
		}
		if err := s.Append(last, hash, e.ts, unsafeBytes(e.line), e.metadata); err != nil {
			return Info{}, err
		}
	}
	return s.Close()
}

func unsafeBytes(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// cpuPerGB reports the processor time since start, of all threads, per 10^9 bytes of
// input: unlike the clock on the wall it hardly depends on what else the machine does.
func cpuPerGB(b *testing.B, start float64, bytes int64) {
	b.ReportMetric((cpuSeconds()-start)/float64(b.N)/float64(bytes)*1e9, "cpu-s/GB")
}

func cpuSeconds() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

func rawBytes(entries []entry) (n int64) {
	for i := range entries {
		n += int64(len(entries[i].line))
	}
	return n
}

func BenchmarkWrite(b *testing.B) {
	entries := benchEntries()
	for _, c := range []struct {
		name string
		opts WriterOptions
	}{
		{"fastest", WriterOptions{ZstdLevel: ZstdFastest}},
		{"zstd-fastest", WriterOptions{Codec: CodecZstd}},
		{"default", WriterOptions{ZstdLevel: ZstdDefault}},
		{"better", WriterOptions{ZstdLevel: ZstdBetter}},
		{"none", WriterOptions{Codec: CodecNone, ZstdLevel: ZstdFastest, NoNeedles: true}},
		{"none+needles", WriterOptions{Codec: CodecNone, ZstdLevel: ZstdFastest}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(rawBytes(entries))
			b.ReportAllocs()
			start := cpuSeconds()
			for b.Loop() {
				if _, err := writeTo(io.Discard, c.opts, entries); err != nil {
					b.Fatal(err)
				}
			}
			cpuPerGB(b, start, rawBytes(entries))
		})
	}
}

// benchSelect runs a request and reads of its blocks what read reads.
func benchSelect(b *testing.B, req model.Request, read func(model.Block) error) {
	r, err := Open(b.Context(), &memory{data: benchSegment()}, ReaderOptions{})
	if err != nil {
		b.Fatal(err)
	}
	info := r.Info()
	req.Range = model.TimeRange{From: info.MinTime, Through: info.MaxTime + 1}
	b.SetBytes(info.RawBytes)
	b.ReportAllocs()
	start := cpuSeconds()
	for b.Loop() {
		part, err := r.Select(b.Context(), &req)
		if err != nil {
			b.Fatal(err)
		}
		for _, block := range part.Blocks {
			if err := read(block); err != nil {
				b.Fatal(err)
			}
			block.Release()
		}
	}
	b.ReportMetric(float64(info.Rows)*float64(b.N)/(cpuSeconds()-start)/1e6, "Mrows/cpu-s")
	cpuPerGB(b, start, info.RawBytes)
}

func BenchmarkReadLines(b *testing.B) {
	benchSelect(b, model.Request{Columns: model.Columns{Lines: true}}, func(block model.Block) error {
		if _, err := block.Times(b.Context()); err != nil {
			return err
		}
		if _, err := block.Offsets(b.Context()); err != nil {
			return err
		}
		_, err := block.Lines(b.Context())
		return err
	})
}

func BenchmarkCount(b *testing.B) {
	benchSelect(b, model.Request{}, func(block model.Block) error { _, err := block.Times(b.Context()); return err })
}

func BenchmarkBytes(b *testing.B) {
	benchSelect(b, model.Request{Columns: model.Columns{Lengths: true}}, func(block model.Block) error {
		if _, err := block.Times(b.Context()); err != nil {
			return err
		}
		_, err := block.Offsets(b.Context())
		return err
	})
}

func BenchmarkLevels(b *testing.B) {
	benchSelect(b, model.Request{Columns: model.Columns{Metadata: []string{"detected_level"}}}, func(block model.Block) error {
		if _, err := block.Times(b.Context()); err != nil {
			return err
		}
		_, err := block.Metadata(b.Context(), "detected_level")
		return err
	})
}

func BenchmarkNeedle(b *testing.B) {
	entries := benchEntries()
	trace := ""
	for _, e := range entries {
		if i := bytes.Index([]byte(e.line), []byte(`"trace_id":"`)); i > 0 {
			trace = e.line[i+12 : i+44]
		}
	}
	for _, c := range []struct{ name, text string }{
		{"trace", trace}, {"absent32", "4bf92f3577b34da6a3ce929d0e0e4736"}, {"absent16", "a3ce929d0e0e4736"}, {"order", "order-12345678"}, {"words", "deadline exceeded"},
	} {
		b.Run(c.name, func(b *testing.B) {
			var stats model.Stats
			benchSelect(b, model.Request{Stats: &stats, Columns: model.Columns{Lines: true}, Needles: []model.Needles{{{Text: c.text}}}},
				func(block model.Block) error { _, err := block.Lines(b.Context()); return err })
			b.ReportMetric(float64(stats.LineBlocks.Load())/float64(b.N), "blocks")
			b.ReportMetric(float64(stats.BytesFetched.Load())/float64(b.N), "fetched-B")
		})
	}
}

// mergeInputs are what an ingester merges before an upload: local segments of memtables, each of which
// holds of every stream the rows of its time.
func mergeInputs(b *testing.B, n int) (inputs []*Reader) {
	entries := benchEntries()
	parts := make([][]entry, n)
	for i := range entries {
		at := int(int64(n) * (entries[i].ts - corpusStart) / int64(24*time.Hour))
		at = min(at, n-1)
		parts[at] = append(parts[at], entries[i])
	}
	for _, part := range parts {
		var buf bytes.Buffer
		if _, err := writeTo(&buf, WriterOptions{Codec: CodecS2, NoNeedles: true}, part); err != nil {
			b.Fatal(err)
		}
		r, err := Open(b.Context(), &memory{data: buf.Bytes()}, ReaderOptions{})
		if err != nil {
			b.Fatal(err)
		}
		inputs = append(inputs, r)
	}
	return inputs
}

func BenchmarkMerge(b *testing.B) {
	inputs := mergeInputs(b, 8)
	bytes := rawBytes(benchEntries())
	b.SetBytes(bytes)
	b.ReportAllocs()
	start := cpuSeconds()
	for b.Loop() {
		if _, err := Merge(b.Context(), io.Discard, inputs, MergeOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	cpuPerGB(b, start, bytes)
}

// TestSizes prints what each kind of column takes, beside zstd -3 of each stream's lines
// when SEGMENT_SIZES is set and the zstd command is there.
func TestSizes(t *testing.T) {
	if os.Getenv("SEGMENT_SIZES") == "" {
		t.Skip("set SEGMENT_SIZES to see the sizes of columns")
	}
	entries := benchEntries()
	var streams [][]byte
	for i := range entries {
		if i == 0 || !labels.Equal(entries[i].stream, entries[i-1].stream) {
			streams = append(streams, nil)
		}
		s := &streams[len(streams)-1]
		*s = append(append(*s, entries[i].line...), '\n')
	}
	raw := rawBytes(entries)
	reference := int64(0)
	for _, s := range streams {
		cmd := exec.Command("zstd", "-3", "-c", "-q")
		cmd.Stdin = bytes.NewReader(s)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		reference += int64(len(out))
	}
	t.Logf("%d rows, %s raw, zstd -3 of each stream %s (raw/%.2f)", len(entries), humanize.Bytes(uint64(raw)), humanize.Bytes(uint64(reference)), float64(raw)/float64(reference))
	for _, c := range []struct {
		name string
		opts WriterOptions
	}{
		{"zstd fastest", WriterOptions{Codec: CodecZstd}}, {"zstd better", WriterOptions{Codec: CodecZstd, ZstdLevel: ZstdBetter}},
		{"fastest", WriterOptions{ZstdLevel: ZstdFastest}}, {"default", WriterOptions{ZstdLevel: ZstdDefault}}, {"better", WriterOptions{ZstdLevel: ZstdBetter}},
		{"fastest, 2 MiB", WriterOptions{BlockBytes: 2 << 20}}, {"better, 2 MiB", WriterOptions{BlockBytes: 2 << 20, ZstdLevel: ZstdBetter}},
		{"fastest, 512 KiB", WriterOptions{BlockBytes: 512 << 10}},
	} {
		var buf bytes.Buffer
		if _, err := writeTo(&buf, c.opts, entries); err != nil {
			t.Fatal(err)
		}
		report, err := Verify(t.Context(), &memory{data: buf.Bytes()})
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%-16s %.3f of zstd -3, raw/%.2f:", c.name, float64(buf.Len())/float64(reference), float64(raw)/float64(buf.Len()))
		for _, k := range []kind{kindLines, kindTimes, kindLengths, kindMetadata, kindNeedles, kindStreams, kindPostings, kindIndex} {
			line += fmt.Sprintf(" %s %.2f%%", k, 100*float64(report.Sizes[k.String()])/float64(buf.Len()))
		}
		t.Log(line)
	}
}

func BenchmarkNeedleKeys(b *testing.B) {
	entries := benchEntries()
	defer func(have bool) { haveVectors = have }(haveVectors)
	for _, c := range []struct {
		name    string
		vectors bool
	}{{"with", true}, {"without", false}} {
		if c.vectors && !haveVectors {
			continue
		}
		haveVectors = c.vectors
		b.Run(c.name+" vectors", func(b *testing.B) {
			s := new(needleSet)
			b.SetBytes(rawBytes(entries))
			start := cpuSeconds()
			for b.Loop() {
				block := 0
				for i := range entries {
					s.addLine(unsafeBytes(entries[i].line))
					if block += len(entries[i].line); block >= DefaultBlockBytes {
						cellsOf(s, DefaultNeedleBits)
						block = 0
					}
				}
			}
			cpuPerGB(b, start, rawBytes(entries))
		})
	}
}

// BenchmarkClasses finds the digits in lines, and the ids to index.
func BenchmarkClasses(b *testing.B) {
	entries := benchEntries()
	var found []uint32
	var classes lineClasses
	block := new(blockBuilder)
	b.SetBytes(rawBytes(entries))
	start := cpuSeconds()
	for b.Loop() {
		for i := range entries {
			if block.add(0, unsafeBytes(entries[i].line), nil, false); len(block.lines) >= DefaultBlockBytes {
				classes.find(block.lines)
				found = appendIDs(found[:0], block.lines, block.offsets, classes.long)
				block.reset()
			}
		}
	}
	cpuPerGB(b, start, rawBytes(entries))
}
