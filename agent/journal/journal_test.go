package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
)

// sink refuses the first pushes and remembers the rest.
type sink struct {
	mu     sync.Mutex
	refuse int
	lines  map[string]int
	seen   func(n int)
}

func (s *sink) Push(_ context.Context, _ model.Tenant, streams []model.Stream) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse > 0 {
		s.refuse--
		return fault.New(fault.Unavailable, "not now")
	}
	for _, st := range streams {
		for _, e := range st.Entries {
			s.lines[fmt.Sprintf("%s%d%s%s", st.Labels, e.Timestamp, e.Line, e.Metadata)]++
		}
	}
	s.seen(len(s.lines))
	return nil
}

// TestFollowsFromTheCursor runs against a journalctl that prints the entries after the
// cursor it is given, ends now and then, and is killed with the reader.
func TestFollowsFromTheCursor(t *testing.T) {
	const total = 300
	dir := t.TempDir()
	script := filepath.Join(dir, "journalctl")
	text := fmt.Sprintf(`#!/bin/sh
from=0
for a in "$@"; do case "$a" in --after-cursor=c*) from=${a#--after-cursor=c};; esac; done
i=$((from+1)); n=0
while [ $i -le %d ] && [ $n -lt 200 ]; do
  echo '{"__CURSOR":"c'$i'","__REALTIME_TIMESTAMP":"'$((1700000000000000+i))'","MESSAGE":"line '$i'","_SYSTEMD_UNIT":"cron.service","PRIORITY":"3"}'
  i=$((i+1)); n=$((n+1))
done
[ $n -lt 200 ] && sleep 60
exit 0
`, total)
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	s := &sink{refuse: 2, lines: map[string]int{}}
	s.seen = func(n int) {
		if n == total {
			stop()
		}
	}
	cfg := Config{
		Command: script, CursorFile: filepath.Join(dir, "cursor"), Labels: map[string]string{"job": "systemd-journal"},
		Push: s, Logger: slog.New(slog.DiscardHandler),
	}
	if err := Run(ctx, cfg); !errors.Is(err, context.Canceled) {
		t.Fatalf("Run: %v", err)
	}
	for i := 1; i <= total; i++ {
		key := fmt.Sprintf(`{job="systemd-journal", unit="cron.service"}%dline %d{detected_level="error"}`, (1_700_000_000_000_000+i)*1000, i)
		if s.lines[key] != 1 {
			t.Fatalf("line %d came %d times", i, s.lines[key])
		}
	}
	cursor, err := os.ReadFile(cfg.CursorFile)
	if err != nil || !strings.HasPrefix(string(cursor), "c") {
		t.Errorf("cursor %q, %v", cursor, err)
	}
}

func TestParse(t *testing.T) {
	expect := func(line, wantLine, wantMeta string, ok bool) {
		t.Helper()
		e, err := parse([]byte(line))
		if (err == nil) != ok || ok && (string(e.Line) != wantLine || e.Metadata.String() != wantMeta) {
			t.Errorf("%s: got %q %s, %v", line, e.Line, e.Metadata, err)
		}
	}
	expect(`{"__CURSOR":"a","__REALTIME_TIMESTAMP":"1","MESSAGE":"x","PRIORITY":"4","SYSLOG_IDENTIFIER":"su"}`, "x", `{detected_level="warn", syslog_identifier="su"}`, true)
	expect(`{"__CURSOR":"a","__REALTIME_TIMESTAMP":"1","MESSAGE":[104,105,255]}`, "hi\xff", `{}`, true)
	expect(`{"__CURSOR":"a","__REALTIME_TIMESTAMP":"1","MESSAGE":null}`, "", `{}`, true)
	expect(`{"__CURSOR":"a","__REALTIME_TIMESTAMP":"1","MESSAGE":"x","SYSLOG_IDENTIFIER":["a","b"],"_SYSTEMD_UNIT":["c"]}`, "x", `{}`, true)
	expect(`{"__REALTIME_TIMESTAMP":"1","MESSAGE":"x"}`, "", "", false)
	expect(`{"__CURSOR":"a","MESSAGE":"x"}`, "", "", false)
	expect(`{"__CURSOR":"a","__REALTIME_TIMESTAMP":"1","MESSAGE":[1000]}`, "", "", false)
	expect(`nonsense`, "", "", false)
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"__CURSOR":"a","__REALTIME_TIMESTAMP":"1","MESSAGE":[104,105]}`))
	f.Fuzz(func(_ *testing.T, line []byte) { _, _ = parse(line) })
}
