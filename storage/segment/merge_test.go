package segment

import (
	"bytes"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

// A merge holds the set union of its inputs, and passes verification.
func TestMergeIsUnion(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 2))
		pool := randomEntries(rng, 500+rng.IntN(1500))
		var all []entry
		var inputs []*Reader
		var ids []string
		for i := range 1 + rng.IntN(6) {
			var part []entry
			for _, e := range pool {
				if rng.IntN(3) == 0 {
					part = append(part, e)
				}
			}
			opts := randomOptions(rng)
			opts.ID = string(rune('a' + i))
			ids = append(ids, opts.ID)
			inputs = append(inputs, open(t, write(t, opts, part)))
			all = append(all, part...)
		}
		var buf bytes.Buffer
		info, err := Merge(t.Context(), &buf, inputs, MergeOptions{WriterOptions: randomOptions(rng)})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(ids, info.MergedFrom); diff != "" {
			t.Fatalf("merged from (-want +got):\n%s", diff)
		}
		if _, err := Verify(t.Context(), &memory{data: buf.Bytes()}); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		got := selectRows(t, open(t, buf.Bytes()), &model.Request{Range: allTime, Columns: allColumns})
		if diff := cmp.Diff(unique(sorted(all)), got); diff != "" {
			t.Fatalf("seed %d: rows (-want +got):\n%s", seed, diff)
		}
	}
}

func TestMergeKeepsByRangeStreamAndRow(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	entries := randomEntries(rng, 4000)
	r := open(t, write(t, WriterOptions{BlockRows: 100}, entries))
	mid := (r.Info().MinTime + r.Info().MaxTime) / 2
	span := model.TimeRange{From: r.Info().MinTime, Through: mid}
	var want []row
	for _, u := range unique(sorted(entries)) {
		if span.Contains(u.Time) && !bytes.Contains([]byte(u.Stream), []byte(`app="app1"`)) && !bytes.Contains([]byte(u.Line), []byte("error")) {
			want = append(want, u)
		}
	}
	var buf bytes.Buffer
	_, err := Merge(t.Context(), &buf, []*Reader{r}, MergeOptions{Range: span,
		Keep: func(stream labels.Labels) (bool, func(int64, []byte, labels.Labels) bool) {
			return stream.Get("app") != "app1", func(_ int64, line []byte, _ labels.Labels) bool {
				return !bytes.Contains(line, []byte("error"))
			}
		}})
	if err != nil {
		t.Fatal(err)
	}
	got := selectRows(t, open(t, buf.Bytes()), &model.Request{Range: allTime, Columns: allColumns})
	if diff := cmp.Diff(want, got); diff != "" || len(want) == 0 {
		t.Fatalf("%d rows (-want +got):\n%s", len(want), diff)
	}
}

// A footer may claim any number of streams; no room is made for them before the table is read.
func TestMergeBelievesNoFooter(t *testing.T) {
	r := open(t, write(t, WriterOptions{}, []entry{{stream: labels.FromStrings("app", "a"), line: "x"}}))
	r.footer.streams = 1 << 30
	if _, err := Merge(t.Context(), io.Discard, []*Reader{r}, MergeOptions{}); err == nil || !strings.Contains(err.Error(), "1073741824 streams") {
		t.Errorf("got %v", err)
	}
}
