package conf_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/skaldlog/skald/internal/conf"
)

type settings struct {
	file, listen string
	age          time.Duration
	sync         bool
	limit        int
}

func declare() (*flag.FlagSet, *settings) {
	s := &settings{}
	fs := flag.NewFlagSet("test", flag.ContinueOnError)
	fs.StringVar(&s.file, "config.file", "", "YAML `file`")
	fs.StringVar(&s.listen, "http.listen", ":3100", "`address` of the HTTP server")
	fs.DurationVar(&s.age, "ingester.max-age", time.Minute, "age at which a memtable is written out")
	fs.BoolVar(&s.sync, "wal.sync", true, "wait for the disk")
	fs.IntVar(&s.limit, "limits.max", 7, "a limit")
	return fs, s
}

func TestPrecedence(t *testing.T) {
	file := filepath.Join(t.TempDir(), "skald.yaml")
	write(t, file, "http: {listen: ':1'}\ningester:\n  max-age: 2m\nwal.sync: false\nlimits: {max: 3}\n")
	block := 0
	parse := func(env map[string]string, args ...string) (settings, []string) {
		t.Helper()
		fs, s := declare()
		rest, err := conf.Parse(fs, args, conf.Source{
			EnvPrefix: "SKALD_", FileFlag: "config.file",
			LookupEnv: func(k string) (string, bool) { v, ok := env[k]; return v, ok },
			Blocks:    map[string]func(*yaml.Node) error{"limits": func(*yaml.Node) error { block++; s.limit = 3; return nil }},
		})
		if err != nil {
			t.Fatal(err)
		}
		return *s, rest
	}
	expect := func(got, want any) {
		t.Helper()
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}

	got, _ := parse(nil)
	expect(got, settings{"", ":3100", time.Minute, true, 7})
	got, _ = parse(nil, "-config.file="+file)
	expect(got, settings{file, ":1", 2 * time.Minute, false, 3})
	got, _ = parse(map[string]string{"SKALD_CONFIG_FILE": file, "SKALD_HTTP_LISTEN": ":2"})
	expect(got, settings{file, ":2", 2 * time.Minute, false, 3})
	got, rest := parse(map[string]string{"SKALD_HTTP_LISTEN": ":2"}, "one", "--http.listen", ":4", "two", "-limits.max=9", "--config.file", file, "--", "-x")
	expect(got, settings{file, ":4", 2 * time.Minute, false, 9})
	expect(rest, []string{"one", "two", "-x"})
	got, _ = parse(nil, "--no-wal.sync")
	expect(got.sync, false)
	got, _ = parse(nil, "--no-wal.sync", "-wal.sync")
	expect(got.sync, true)
	expect(block, 3)
}

func TestErrorsSayWhatAndWhere(t *testing.T) {
	file := filepath.Join(t.TempDir(), "skald.yaml")
	fails := func(yamlText string, args []string, wants ...string) {
		t.Helper()
		write(t, file, yamlText)
		fs, _ := declare()
		_, err := conf.Parse(fs, append(args, "-config.file="+file), conf.Source{FileFlag: "config.file"})
		if err == nil {
			t.Errorf("%q %v: no error", yamlText, args)
			return
		}
		for _, want := range wants {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q %v: error %q does not say %q", yamlText, args, err, want)
			}
		}
	}
	fails("", []string{"-http.listne=:1"}, `unknown flag "-http.listne=:1"`, `did you mean "http.listen"`)
	fails("", []string{"--listen"}, "http.listen")
	fails("", []string{"-ingester.max-age=soon"}, "-ingester.max-age", `"soon"`, "duration")
	fails("", []string{"-limits.max"}, `invalid value "-config.file=`, "-limits.max")
	fails("http: {port: 1}", nil, file, "line 1", `"http.port"`)
	fails("\nhttp:\n  listen: [[1]]", nil, "line 3", "http.listen")
	fails("wal.sync: maybe", nil, "line 1", "wal.sync", `"maybe"`)
	fails("http: 3", nil, "line 1", `"http"`)
	fails("http: {listen: a, listen: b}", nil, "twice")
	fails("- a", nil, "line 1", "mapping")
	fails("a: [", nil, file)
}

func TestMissingFileIsNamed(t *testing.T) {
	fs, _ := declare()
	_, err := conf.Parse(fs, []string{"-config.file=/nowhere/x.yaml"}, conf.Source{FileFlag: "config.file"})
	if err == nil || !strings.Contains(err.Error(), "/nowhere/x.yaml") {
		t.Errorf("got %v", err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
