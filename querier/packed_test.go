package querier

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/logql/scan"
	"github.com/skaldlog/skald/logql/syntax"
	"github.com/skaldlog/skald/storage/segment"
)

// segmentSelector answers from one segment. Plain keeps from the scan whatever lets it read
// less: needles, and lines whose fields are still taken out.
type segmentSelector struct {
	r      *segment.Reader
	plain  bool
	packed atomic.Int64 // blocks of which packed lines were handed out
}

func (s *segmentSelector) Select(ctx context.Context, req *model.Request) (*model.Selection, error) {
	asked := *req
	if s.plain {
		asked.Needles, req.Needles = nil, nil
	}
	part, err := s.r.Select(ctx, &asked)
	for i, b := range part.Blocks {
		part.Blocks[i] = &segmentBlock{b, s}
	}
	return &model.Selection{Parts: []model.Part{part}}, err
}

func (s *segmentSelector) StreamLabel(_ context.Context, _ []*labels.Matcher, _ model.TimeRange, name string) (bool, error) {
	return name == "app", nil
}

type segmentBlock struct {
	model.Block
	s *segmentSelector
}

func (b *segmentBlock) Packed(ctx context.Context) (model.Packed, error) {
	if b.s.plain {
		return nil, nil
	}
	p, err := b.Block.Packed(ctx)
	if p != nil {
		b.s.packed.Add(1)
	}
	return p, err
}

// tokenLine makes a line of words, ids and the row's timestamp in many neighbourhoods.
func tokenLine(rng *rand.Rand, ts int64) string {
	words := []string{"error", "Error", "succeeded", "seed", "feed", "x", "Nov", "T", "=", "[", " ", " ", "-", ".", "I", "\n", "\xf9", "é", "k", "timeout"}
	layouts := []string{time.RFC3339Nano, "2006-01-02 15:04:05.000", "02/Jan/2006:15:04:05 -0700", "0102 15:04:05.000000", time.Stamp, "2006/01/02 15:04:05"}
	hex := func(n int) string { return fmt.Sprintf("%016x%016x", rng.Uint64N(1<<20), rng.Uint64())[32-n:] }
	var line strings.Builder
	for range 1 + rng.IntN(8) {
		switch rng.IntN(8) {
		case 0:
			line.WriteString(time.Unix(0, ts).UTC().Format(layouts[rng.IntN(len(layouts))]))
		case 1:
			line.WriteString(hex(1 + rng.IntN(32)))
		case 2:
			h := hex(32)
			line.WriteString(h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:])
		default:
			line.WriteString(words[rng.IntN(len(words))])
		}
	}
	return line.String()
}

// Whatever the filters: pruned blocks and lines that are only made where a look at the packed
// text leaves a chance give the answer that reading everything gives.
func TestPackedAnswersAreWholeAnswers(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 7))
	start := time.Date(2026, 3, 14, 0, 0, 0, 0, time.UTC).UnixNano()
	var file bytes.Buffer
	w := segment.NewWriter(&file, segment.WriterOptions{BlockBytes: 4 << 10})
	var lines []string
	for app := range 3 {
		stream := labels.FromStrings("app", fmt.Sprint("app-", app))
		ts := start
		for range 900 {
			ts += rng.Int64N(int64(time.Minute))
			lines = append(lines, tokenLine(rng, ts))
			md := labels.EmptyLabels()
			if rng.IntN(2) == 0 {
				md = labels.FromStrings("trace_id", fmt.Sprint("t", rng.IntN(300)))
			}
			if err := w.Append(stream, stream.Hash(), ts, []byte(lines[len(lines)-1]), md); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "test.seg")
	if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := segment.OpenFile(t.Context(), path, segment.ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	fast, plain := &segmentSelector{r: r}, &segmentSelector{r: r, plain: true}
	found := 0
	for range 200 {
		query := `{app=~".+"}` + randomFilters(rng, lines)
		expr, err := syntax.ParseLog(query)
		if err != nil {
			continue // a piece of a line that no query can spell
		}
		q := scan.LogsQuery{Range: model.TimeRange{From: start, Through: start + int64(48*time.Hour)}, Limit: 1 + rng.IntN(3000), Forward: rng.IntN(2) == 0}
		want, err := scan.Logs(t.Context(), plain, expr, q, scan.Options{})
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		got, err := scan.Logs(t.Context(), fast, expr, q, scan.Options{})
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		if w, g := flat(want), flat(got); !slices.Equal(w, g) {
			t.Fatalf("%s (-whole +packed):\n%s", query, cmp.Diff(w, g))
		}
		found += len(got)
	}
	if found < 100 || fast.packed.Load() < 100 {
		t.Errorf("%d streams found, %d blocks read packed: the test tests nothing", found, fast.packed.Load())
	}
}

// flat spells an answer out.
func flat(streams []scan.Stream) (out []string) {
	for _, s := range streams {
		out = append(out, s.Labels.String())
		for _, e := range s.Entries {
			out = append(out, fmt.Sprintf("%d %s", e.Timestamp, e.Line))
		}
	}
	return out
}

// randomFilters makes filters of pieces of lines.
func randomFilters(rng *rand.Rand, lines []string) string {
	piece := func(most int) string {
		for {
			line := lines[rng.IntN(len(lines))]
			i := rng.IntN(len(line))
			p := line[i:min(len(line), i+1+rng.IntN(most))]
			if strings.ToValidUTF8(p, "") == p {
				return p
			}
		}
	}
	quoted := func(p string) string { return strings.NewReplacer(`.`, `[.]`, `[`, `\[`, `+`, `\+`).Replace(p) }
	var out strings.Builder
	for range 1 + rng.IntN(3) {
		switch rng.IntN(9) {
		case 0, 1:
			fmt.Fprintf(&out, " |= %q", piece(12))
		case 2, 3:
			fmt.Fprintf(&out, " != %q", piece(6))
		case 4:
			fmt.Fprintf(&out, " |~ %q", "(?i)"+quoted(piece(8)))
		case 5:
			fmt.Fprintf(&out, " |~ %q", quoted(piece(6))+".*"+quoted(piece(3)))
		case 6:
			fmt.Fprintf(&out, " !~ %q", quoted(piece(4))+"[a-f]?")
		case 7:
			fmt.Fprintf(&out, ` | trace_id="t%d"`, rng.IntN(300))
		case 8:
			fmt.Fprintf(&out, " |= %q or %q", piece(9), piece(9))
		}
	}
	return out.String()
}
