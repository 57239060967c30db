package tail

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPattern(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"/var/log/*.log", "/var/log/a.log", true}, {"/var/log/*.log", "/var/log/x/a.log", false},
		{"/var/log/**/*.log", "/var/log/a.log", true}, {"/var/log/**/*.log", "/var/log/x/y/a.log", true},
		{"/var/log/**", "/var/log/x/y", true}, {"/**/a", "/a", true}, {"/v*r/?.log", "/var/a.log", true},
		{"/l/{a,b{c,d}}.log", "/l/bd.log", true}, {"/l/{a,b}.log", "/l/c.log", false}, {"/l/[^a].log", "/l/a.log", false},
		{"/l/[!a].log", "/l/b.log", true}, {"/l/*", "/l/.hidden", true}, {"/l/a[1].log", "/l/a[1].log", true},
		{"/{a,b}/x/*.log", "/b/x/1.log", true}, {`/l/a\*`, "/l/a*", true}, {`/l/a\*`, "/l/ab", false},
	} {
		p, err := Compile(c.pattern)
		if err != nil {
			t.Errorf("%s: %v", c.pattern, err)
		} else if got := p.Match(c.name); got != c.want {
			t.Errorf("%s matches %s: %v", c.pattern, c.name, got)
		}
	}
	for _, bad := range []string{"", "/l/[a", "/l/{a", "/" + strings.Repeat("{a,b}", 20)} {
		if _, err := Compile(bad); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}

func TestWalk(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{"a.log", "x/b.log", "x/y/c.log", "x/y/d.txt", "pods/p1/app/0.log", "pods/p2/app/0.log", "e[1].log"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, f)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(dir, "x/y/c.log"), filepath.Join(dir, "link.log")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, filepath.Join(dir, "x/loop")); err != nil {
		t.Fatal(err)
	}
	for pattern, want := range map[string][]string{
		"*.log": {"a.log", "e[1].log", "link.log"}, "x/**/*.log": {"x/b.log", "x/y/c.log"}, "pods/*/app/*.log": {"pods/p1/app/0.log", "pods/p2/app/0.log"},
		"e[1].log": {"e[1].log"}, "none/*/x.log": {}, "x/{b,y/c}.log": {"x/b.log", "x/y/c.log"}, "x/y/*": {"x/y/c.log", "x/y/d.txt"},
	} {
		p, err := Compile(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		w := &walk{found: map[string]bool{}, dirs: map[string]bool{}, listed: map[string][]os.DirEntry{}, problem: func(err error) { t.Error(err) }}
		p.walk(w)
		got := []string{}
		for f := range w.found {
			got = append(got, strings.TrimPrefix(f, dir+"/"))
			if !p.Match(f) {
				t.Errorf("%s finds %s and does not match it", pattern, f)
			}
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", pattern, diff)
		}
	}
}

func TestRotatedName(t *testing.T) {
	for name, want := range map[string]bool{
		"app.log.1": true, "app.log-20240501": true, "app.log.20240501-100000": true, "app-2024-05-01.log": true, "app.log": false,
		"app.log.1.gz": true, "app.log.gz": true, "app-1.log.zst": true, "app.log.1.xz": false, "apple.log": false, "app-server.log": false, "other.log.1": false,
	} {
		if got := rotatedName("app.log", name); got != want {
			t.Errorf("%s: %v", name, got)
		}
		back := false
		unrotated("/d/"+name, func(base string) bool { back = base == "/d/app.log"; return back })
		if back != want {
			t.Errorf("unrotated(%s) leads back: %v", name, back)
		}
	}
}
