package lint

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const (
	root   = "../.."
	module = "github.com/skaldlog/skald/"
)

// forbidden are the arrows that the architecture does not have: a package under From may
// not import, directly or through others, a package under To. The ring is exempt: it moves
// no data, and everybody may know who is there.
var forbidden = []struct{ From, To, Because string }{
	{"internal/model", "", "the shared words stand below everything"},
	{"internal/fault", "", "kinds of errors know nothing of what fails"},
	{"storage", "logql", "storage is a library that does not know why rows are wanted"},
	{"storage", "ingester", "storage is below the ingester"},
	{"storage", "querier", "storage is below the querier"},
	{"storage", "distributor", "storage is below the distributor"},
	{"storage", "internal/server", "storage knows no HTTP"},
	{"logql", "storage", "LogQL runs over blocks, wherever they are"},
	{"logql", "ingester", "LogQL runs over blocks, wherever they are"},
	{"logql", "querier", "LogQL is a library below the querier"},
	{"logql", "distributor", "LogQL knows no write path"},
	{"logql", "internal/server", "LogQL knows no HTTP"},
	{"logql/syntax", "logql/pipeline", "the language does not know its execution"},
	{"logql/pipeline", "logql/scan", "a pipeline does not know what runs it"},
	{"logql/scan", "logql/engine", "a scan does not know the expression around it"},
	{"ingester", "distributor", "a line goes from distributor to ingester"},
	{"ingester", "querier", "the querier asks the ingester, not the other way"},
	{"ingester", "logql", "the ingester hands out blocks and runs no queries"},
	{"ingester", "internal/server", "the ingester knows no HTTP"},
	{"distributor", "querier", "write path and read path meet in the ingester and the store only"},
	{"distributor", "storage", "the distributor stores nothing"},
	{"distributor/ring", "ingester", "the ring says who, not what"},
	{"distributor/ring", "internal/server", "the ring moves no data"},
	{"querier", "distributor", "write path and read path meet in the ingester and the store only"},
	{"agent", "distributor", "the agent speaks the push protocol only"},
	{"agent", "ingester", "the agent speaks the push protocol only"},
	{"agent", "storage", "the agent speaks the push protocol only"},
	{"agent", "querier", "the agent speaks the push protocol only"},
	{"bench", "ingester", "the benchmark drives any Loki-compatible server from outside"},
	{"bench", "querier", "the benchmark drives any Loki-compatible server from outside"},
	{"bench", "storage", "the benchmark drives any Loki-compatible server from outside"},
}

func TestDependenciesPointOneWay(t *testing.T) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Deps", "./...")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	under := func(pkg, dir string) bool {
		rel, ours := strings.CutPrefix(pkg, module)
		return ours && (dir == "" || rel == dir || strings.HasPrefix(rel, dir+"/"))
	}
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var pkg struct {
			ImportPath string
			Deps       []string
		}
		if err := dec.Decode(&pkg); err != nil {
			t.Fatal(err)
		}
		for _, rule := range forbidden {
			if !under(pkg.ImportPath, rule.From) {
				continue
			}
			for _, dep := range pkg.Deps {
				if under(dep, rule.To) && !(rule.To == "distributor" && under(dep, "distributor/ring")) {
					t.Errorf("%s must not depend on %s: %s", pkg.ImportPath, dep, rule.Because)
				}
			}
		}
	}
}

func TestEveryPackageIntroducesItself(t *testing.T) {
	docs := map[string][]string{}
	dirs := map[string]bool{}
	eachGoFile(t, func(name string, file *ast.File) {
		if strings.HasSuffix(name, "_test.go") {
			return
		}
		dir := path.Dir(name)
		dirs[dir] = true
		if file.Doc != nil {
			docs[dir] = append(docs[dir], name)
			text := file.Doc.Text()
			want := "Package " + file.Name.Name + " "
			if file.Name.Name == "main" {
				want = "Command "
			}
			if !strings.HasPrefix(text, want) {
				t.Errorf("%s: the package doc must start with %q", name, want)
			}
			if len(text) < 80 {
				t.Errorf("%s: the package doc must say what the package is for and what it promises", name)
			}
		}
	})
	for dir := range dirs {
		if n := len(docs[dir]); n != 1 {
			t.Errorf("%s: want exactly one file with a package doc, got %d %v", dir, n, docs[dir])
		}
	}
}

func TestExportedNamesAreDocumented(t *testing.T) {
	eachGoFile(t, func(name string, file *ast.File) {
		if strings.HasSuffix(name, "_test.go") || strings.HasSuffix(name, ".pb.go") {
			return
		}
		for _, decl := range file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && d.Doc == nil && d.Recv == nil {
					t.Errorf("%s: func %s needs a docstring", name, d.Name.Name)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if ts, ok := spec.(*ast.TypeSpec); ok && ts.Name.IsExported() && d.Doc == nil && ts.Doc == nil && ts.Comment == nil {
						t.Errorf("%s: type %s needs a docstring", name, ts.Name.Name)
					}
				}
			}
		}
	})
}

var unfinished = regexp.MustCompile(`//.*\b(TODO|FIXME|XXX|unimplemented|not implemented|for now)\b`)

func TestNothingIsLeftForLater(t *testing.T) {
	eachFile(t, func(name string, text []byte) {
		if !strings.HasSuffix(name, ".go") || strings.HasPrefix(name, "internal/lint/") {
			return
		}
		for i, line := range strings.Split(string(text), "\n") {
			if m := unfinished.FindString(line); m != "" {
				t.Errorf("%s:%d: %q: finish it, or state the limit as a fact", name, i+1, m)
			}
		}
	})
}

func TestFilesAreFormattedAndShort(t *testing.T) {
	eachFile(t, func(name string, text []byte) {
		if !strings.HasSuffix(name, ".go") {
			return
		}
		if out, err := format.Source(text); err != nil || !bytes.Equal(out, text) {
			t.Errorf("%s: run gofmt", name)
		}
		if n := bytes.Count(text, []byte("\n")); n > 900 && !strings.HasSuffix(name, "_test.go") {
			t.Errorf("%s: %d lines are perhaps two ideas; split it", name, n)
		}
	})
}

func eachGoFile(t *testing.T, f func(name string, file *ast.File)) {
	t.Helper()
	eachFile(t, func(name string, text []byte) {
		if !strings.HasSuffix(name, ".go") {
			return
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Errorf("%v", err)
			return
		}
		f(name, file)
	})
}

// eachFile visits the project's text files with slash-separated names relative to the root.
func eachFile(t *testing.T, f func(name string, text []byte)) {
	t.Helper()
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			switch d.Name() {
			case ".git", "testdata", "bin", "skald-data":
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		f(filepath.ToSlash(rel), text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
