package main

import (
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestEveryRouteIsDocumented compares docs/api.md with what a server registers, and asks
// for the paths that it says are not there.
func TestEveryRouteIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	served, missing, _ := strings.Cut(string(text), "## Not served")
	documented := map[string]string{}
	for _, row := range tableRows(served) {
		if strings.HasPrefix(row[0], "/") {
			documented[row[0]] = row[1]
		}
	}
	n := testNode(t, "-data.dir="+t.TempDir())
	for _, r := range n.http.Routes() {
		methods := "all"
		if len(r.Methods) > 0 {
			sorted := slices.Clone(r.Methods)
			slices.SortFunc(sorted, func(a, b string) int { return slices.Index(methodOrder, a) - slices.Index(methodOrder, b) })
			methods = strings.Join(sorted, " ")
		}
		if got, ok := documented[r.Pattern]; got != methods || !ok {
			t.Errorf("%s takes %s; docs/api.md says %q", r.Pattern, methods, got)
		}
		delete(documented, r.Pattern)
	}
	for path := range documented {
		t.Errorf("docs/api.md has %s, which is not served", path)
	}
	rows := tableRows(missing)
	if len(rows) == 0 {
		t.Error("docs/api.md does not say what is not served")
	}
	for _, row := range rows {
		if code, body := request(t, http.MethodGet, "http://"+n.http.Addr().String()+row[0], nil, nil); code != http.StatusNotFound || string(body) != "404 page not found\n" {
			t.Errorf("%s: %d %s", row[0], code, body)
		}
	}
}

var methodOrder = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete}

// tableRows returns the cells of the rows of all Markdown tables, whose first is in code.
func tableRows(text string) (rows [][]string) {
	for _, line := range strings.Split(text, "\n") {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.Trim(strings.TrimSpace(cells[i]), "`")
		}
		rows = append(rows, cells)
	}
	return rows
}

func TestConfigModes(t *testing.T) {
	dir := t.TempDir()
	url := startNode(t, "-data.dir="+dir, "-compact.interval=7m")
	config := func(mode string) string {
		_, body := request(t, http.MethodGet, url+"/config"+mode, nil, nil)
		return string(body)
	}
	for mode, want := range map[string]string{"": "compact.interval: 7m0s\n", "?mode=diff": "compact.interval: 7m0s\n", "?mode=defaults": "compact.interval: 10m0s\n"} {
		got := config(mode)
		if !strings.Contains(got, want) {
			t.Errorf("%s: no %q in\n%s", mode, want, got)
		}
		if differs := mode == "?mode=diff"; strings.Contains(got, "compact.verify") == differs {
			t.Errorf("%s shows what it should not:\n%s", mode, got)
		}
	}
	if got := config("?mode=x"); got != "mode=x: expected diff or defaults" {
		t.Error(got)
	}
}

// TestFormsAreBounded: a form with a large file in it is refused, and not put on the disk.
func TestFormsAreBounded(t *testing.T) {
	base := startNode(t, "-data.dir="+t.TempDir())
	for path, field := range map[string]string{"/log_level": "log_level", "/ring": "forget"} {
		body := "--x\r\nContent-Disposition: form-data; name=\"f\"; filename=\"f\"\r\n\r\n" + strings.Repeat("a", 1<<20) +
			"\r\n--x\r\nContent-Disposition: form-data; name=\"" + field + "\"\r\n\r\nerror\r\n--x--\r\n"
		header := http.Header{"Content-Type": {"multipart/form-data; boundary=x"}}
		if code, text := request(t, http.MethodPost, base+path, header, strings.NewReader(body)); code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
}
