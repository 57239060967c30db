package tail

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Pattern names files: * ? [a-z] [^a] {a,b} inside one element of the path, and ** for any
// number of elements. Names that begin with a dot are like others. A pattern that is the
// name of an existing file names it, whatever characters are in it.
type Pattern struct {
	literal string
	alts    [][]string // for each alternative of the braces, the elements of the path
}

// maxAlternatives bounds what braces expand to.
const maxAlternatives = 1024

// Compile makes a pattern absolute and checks it.
func Compile(s string) (*Pattern, error) {
	if s == "" {
		return nil, fmt.Errorf("empty file pattern")
	}
	abs, err := filepath.Abs(s)
	if err != nil {
		return nil, fmt.Errorf("file pattern %q: %w", s, err)
	}
	p := &Pattern{literal: abs}
	expanded, err := expandBraces(abs, nil)
	if err != nil {
		return nil, fmt.Errorf("file pattern %q: %w", s, err)
	}
	for _, alt := range expanded {
		parts := strings.Split(strings.TrimPrefix(filepath.Clean(alt), "/"), "/")
		for i, e := range parts {
			e = strings.ReplaceAll(e, "[!", "[^")
			if _, err := path.Match(e, ""); err != nil {
				return nil, fmt.Errorf("file pattern %q: %w", s, err)
			}
			parts[i] = e
		}
		p.alts = append(p.alts, parts)
	}
	return p, nil
}

// expandBraces appends the alternatives of s to out.
func expandBraces(s string, out []string) ([]string, error) {
	open := indexUnescaped(s, 0, '{')
	if open < 0 {
		if len(out) >= maxAlternatives {
			return nil, fmt.Errorf("braces give more than %d alternatives", maxAlternatives)
		}
		return append(out, s), nil
	}
	depth, start := 0, open+1
	var parts []string
	for i := open; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '{':
			depth++
		case ',':
			if depth == 1 {
				parts = append(parts, s[start:i])
				start = i + 1
			}
		case '}':
			if depth--; depth > 0 {
				continue
			}
			var err error
			for _, p := range append(parts, s[start:i]) {
				if out, err = expandBraces(s[:open]+p+s[i+1:], out); err != nil {
					return nil, err
				}
			}
			return out, nil
		}
	}
	return nil, fmt.Errorf("brace without an end")
}

func indexUnescaped(s string, from int, c byte) int {
	for i := from; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case c:
			return i
		}
	}
	return -1
}

// Match reports whether the pattern matches an absolute path.
func (p *Pattern) Match(name string) bool {
	if name == p.literal {
		return true
	}
	parts := strings.Split(strings.TrimPrefix(name, "/"), "/")
	for _, alt := range p.alts {
		if matchParts(alt, parts) {
			return true
		}
	}
	return false
}

func matchParts(pat, parts []string) bool {
	for len(pat) > 0 {
		if pat[0] == "**" {
			for i := range len(parts) + 1 {
				if matchParts(pat[1:], parts[i:]) {
					return true
				}
			}
			return false
		}
		if len(parts) == 0 {
			return false
		}
		if ok, _ := path.Match(pat[0], parts[0]); !ok { // checked by Compile
			return false
		}
		pat, parts = pat[1:], parts[1:]
	}
	return len(parts) == 0
}

// walk finds what the pattern matches now. dir is called with each directory whose content
// matters, problem with what could not be read.
type walk struct {
	found   map[string]bool
	dirs    map[string]bool
	listed  map[string][]os.DirEntry // what directories hold; each is read once
	problem func(error)
}

// maxDepth bounds ** where directories are linked into themselves.
const maxDepth = 40

func (p *Pattern) walk(w *walk) {
	if fi, err := os.Stat(p.literal); err == nil && !fi.IsDir() {
		w.found[p.literal] = true
		w.dirs[filepath.Dir(p.literal)] = true
		_, _ = w.list(filepath.Dir(p.literal)) // for rotated names; the file itself is found
		return
	}
	for _, alt := range p.alts {
		w.expand("/", alt, 0)
	}
}

func (w *walk) expand(dir string, pat []string, depth int) {
	if len(pat) == 0 || depth > maxDepth {
		return
	}
	if !hasMeta(pat[0]) {
		w.step(dir, unescape(pat[0]), pat, depth)
		return
	}
	if pat[0] == "**" {
		if len(pat) == 1 {
			pat = []string{"**", "*"}
		}
		w.expand(dir, pat[1:], depth)
	}
	w.dirs[dir] = true
	list, err := w.list(dir)
	if err != nil {
		if !os.IsNotExist(err) {
			w.problem(err)
		}
		return
	}
	for _, e := range list {
		switch {
		case pat[0] == "**":
			// Directories only, and not through links: a link may lead back up.
			if e.IsDir() {
				w.expand(filepath.Join(dir, e.Name()), pat, depth+1)
			}
		default:
			if ok, _ := path.Match(pat[0], e.Name()); !ok {
				continue
			}
			if len(pat) == 1 && e.Type().IsRegular() {
				w.found[filepath.Join(dir, e.Name())] = true
			} else {
				w.step(dir, e.Name(), pat, depth)
			}
		}
	}
}

// list reads a directory.
func (w *walk) list(dir string) ([]os.DirEntry, error) {
	if l, ok := w.listed[dir]; ok {
		return l, nil
	}
	l, err := os.ReadDir(dir)
	if err == nil {
		w.listed[dir] = l
	}
	return l, err
}

// step goes from dir to one of its members.
func (w *walk) step(dir, name string, pat []string, depth int) {
	full := filepath.Join(dir, name)
	if len(pat) > 1 {
		if _, err := os.Stat(full); err != nil {
			w.dirs[dir] = true // where it will appear
		}
		w.expand(full, pat[1:], depth+1)
		return
	}
	w.dirs[dir] = true
	fi, err := os.Stat(full)
	switch {
	case err != nil:
		if !os.IsNotExist(err) {
			w.problem(err)
		}
	case fi.Mode().IsRegular():
		w.found[full] = true
	}
}

func hasMeta(s string) bool { return strings.ContainsAny(s, `*?[`) }

func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
