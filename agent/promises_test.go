package agent

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// docs/agent-promises.md names a test or a row for each promise, and what it names exists.
func TestPromisesAreShown(t *testing.T) {
	doc, err := os.ReadFile("../docs/agent-promises.md")
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	for _, dir := range []string{".", "../internal/integration"} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			source.Write(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	named := regexp.MustCompile("`(Test[A-Za-z0-9]+)`")
	for _, m := range named.FindAllStringSubmatch(string(doc), -1) {
		if !strings.Contains(source.String(), "func "+m[1]+"(t *testing.T)") {
			t.Errorf("there is no test %s", m[1])
		}
	}
	for i := 1; i <= 25; i++ {
		_, row, ok := strings.Cut(string(doc), fmt.Sprintf("\n| P%d |", i))
		row, _, _ = strings.Cut(row, "\n")
		if !ok || !named.MatchString(row) && !strings.Contains(row, "row \"") && !strings.Contains(row, "rows ") && !strings.Contains(row, "the rows of") {
			t.Errorf("P%d names neither test nor row: %q", i, row)
		}
	}
	quoted := regexp.MustCompile(`(?:row|rows|,) "([^"…]+)"`)
	for _, m := range quoted.FindAllStringSubmatch(string(doc), -1) {
		found := strings.HasSuffix(m[1], ":") // kill -9: and a step
		for _, f := range faults {
			found = found || f.name == m[1] || strings.HasPrefix(f.name, strings.TrimSuffix(m[1], " …"))
		}
		if !found {
			t.Errorf("there is no row %q", m[1])
		}
	}
}
