package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fake writes a program in the place of journalctl that prints the entries after the cursor
// it is given, 200 at most, and refuses a cursor it does not know.
func fake(t *testing.T, total int) (command, argsFile string) {
	t.Helper()
	dir := t.TempDir()
	command, argsFile = filepath.Join(dir, "journalctl"), filepath.Join(dir, "args")
	text := fmt.Sprintf(`#!/bin/sh
echo "$@" >> %q
from=0
for a in "$@"; do case "$a" in
  --after-cursor=c*) from=${a#--after-cursor=c};;
  --after-cursor=*) echo "Failed to seek to cursor: Invalid argument" >&2; exit 1;;
esac; done
i=$((from+1)); n=0
while [ $i -le %d ] && [ $n -lt 200 ]; do
  echo '{"__CURSOR":"c'$i'","__REALTIME_TIMESTAMP":"'$((1700000000000000+i))'","MESSAGE":"line '$i'","_SYSTEMD_UNIT":"cron.service","PRIORITY":"3"}'
  i=$((i+1)); n=$((n+1))
done
[ $n -lt 200 ] && exec sleep 60
exit 0
`, argsFile, total)
	if err := os.WriteFile(command, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return command, argsFile
}

// Every entry comes once and in order, though journalctl ends now and then.
func TestRun(t *testing.T) {
	for _, cursor := range []string{"", "c100", "nonsense"} {
		t.Run("cursor "+cursor, func(t *testing.T) {
			const total = 300
			command, argsFile := fake(t, total)
			ctx, stop := context.WithTimeout(context.Background(), time.Minute)
			defer stop()
			var got []string
			err := Run(ctx, Config{
				Command: command, Cursor: cursor, MaxAge: time.Hour, Path: "/j", Matches: []string{"A=b"}, Logger: slog.New(slog.DiscardHandler),
			}, func(list []Entry) error {
				for _, e := range list {
					m, _ := e.Message()
					got = append(got, fmt.Sprintf("%s %d %s %s", m, e.Time, e.Fields["_SYSTEMD_UNIT"], e.Priority()))
				}
				if strings.HasPrefix(got[len(got)-1], fmt.Sprintf("line %d ", total)) {
					stop()
				}
				return nil
			}, func(error) {})
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("Run: %v", err)
			}
			var want []string
			for i := 1; i <= total; i++ {
				if cursor == "c100" && i <= 100 {
					continue
				}
				want = append(want, fmt.Sprintf("line %d %d cron.service error", i, (1_700_000_000_000_000+i)*1000))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			args, err := os.ReadFile(argsFile)
			if err != nil || !strings.Contains(string(args), "--directory=/j") || !strings.Contains(string(args), " A=b\n") {
				t.Errorf("arguments: %s, %v", args, err)
			}
		})
	}
}

func TestRunEndsWhenEmitFails(t *testing.T) {
	command, _ := fake(t, 10)
	full := errors.New("full")
	err := Run(t.Context(), Config{Command: command, Logger: slog.New(slog.DiscardHandler)}, func([]Entry) error { return full }, func(error) {})
	if !errors.Is(err, full) {
		t.Errorf("Run: %v", err)
	}
}

func TestParse(t *testing.T) {
	f := func(line, want string) {
		t.Helper()
		e, err := parse([]byte(line))
		got := "error"
		if err == nil {
			var parts []string
			for k, v := range e.Fields {
				if !strings.HasPrefix(k, "__") {
					parts = append(parts, fmt.Sprintf("%s=%q", k, v))
				}
			}
			slices.Sort(parts)
			got = fmt.Sprintf("%s %d %s", e.Cursor, e.Time, strings.Join(parts, " "))
		}
		if got != want {
			t.Errorf("%s\n got %s\nwant %s", line, got, want)
		}
	}
	f(`{"__CURSOR":"a","__REALTIME_TIMESTAMP":"1","MESSAGE":"x","PRIORITY":"4"}`, `a 1000 MESSAGE="x" PRIORITY="4"`)
	f(`{"__CURSOR":"a","__REALTIME_TIMESTAMP":"1","MESSAGE":[104,105,255]}`, `a 1000 MESSAGE="hi\xff"`)
	f(`{"__CURSOR":"a","__REALTIME_TIMESTAMP":"1","MESSAGE":null}`, `a 1000 `)
	f(`{"__CURSOR":"a","__REALTIME_TIMESTAMP":"1","OBJECT":["a","b"]}`, `a 1000 OBJECT="b"`)
	f(`{"__CURSOR":"a","__REALTIME_TIMESTAMP":"1","MESSAGE":[[104,105],[106]]}`, `a 1000 MESSAGE="j"`)
	f(`{"__CURSOR":"a","__REALTIME_TIMESTAMP":"1","MESSAGE":[1000]}`, `a 1000 `)
	f(`{"__REALTIME_TIMESTAMP":"1","MESSAGE":"x"}`, "error")
	f(`{"__CURSOR":"a","MESSAGE":"x"}`, "error")
	f(`nonsense`, "error")
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"__CURSOR":"a","__REALTIME_TIMESTAMP":"1","MESSAGE":[104,105]}`))
	f.Fuzz(func(_ *testing.T, line []byte) { _, _ = parse(line) })
}
