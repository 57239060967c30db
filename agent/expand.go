package agent

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"unicode"
)

// expand replaces ${…} in a configuration's text, comments included, as Promtail's
// -config.expand-env does. Its rules are a shell's only at first sight: ${VAR:word} is no
// default but a substring, backslashes and dollars count in pairs, and $VAR without braces
// stays. The warnings name the traps that the text seems to have fallen into.
func expand(text string, lookup func(string) (string, bool)) (out string, warnings []string, err error) {
	e := &expander{lookup: lookup}
	s, rest, err := e.run(text, false)
	if err != nil {
		line := 1 + strings.Count(text[:len(text)-len(e.at)], "\n")
		return "", nil, fmt.Errorf("line %d: %w", line, err)
	}
	if rest != "" {
		return "", nil, errors.New("unexpected end of an expansion")
	}
	return s, e.warnings, nil
}

type expander struct {
	lookup   func(string) (string, bool)
	warnings []string
	at       string // the text from the expansion being read on
}

// run copies text up to its end, or, inside braces, up to the closing one.
func (e *expander) run(s string, inside bool) (out, rest string, err error) {
	var b strings.Builder
	for s != "" {
		switch {
		case strings.HasPrefix(s, `\\`), strings.HasPrefix(s, `\/`):
			b.WriteByte(s[1])
			s = s[2:]
		case strings.HasPrefix(s, "$$"):
			b.WriteByte('$')
			s = s[2:]
		case strings.HasPrefix(s, "${"):
			e.at = s
			v, r, err := e.variable(s[2:])
			if err != nil {
				return "", "", err
			}
			b.WriteString(v)
			s = r
		case inside && s[0] == '}':
			return b.String(), s[1:], nil
		default:
			b.WriteByte(s[0])
			s = s[1:]
		}
	}
	if inside {
		return "", "", errors.New("${ without }")
	}
	return b.String(), "", nil
}

// variable reads what follows "${".
func (e *expander) variable(s string) (out, rest string, err error) {
	if r, ok := strings.CutPrefix(s, "#"); ok {
		name, r := varName(r)
		if name == "" || !strings.HasPrefix(r, "}") {
			return "", "", errors.New("want ${#NAME}")
		}
		v, _ := e.lookup(name)
		return strconv.Itoa(len(v)), r[1:], nil
	}
	name, s := varName(s)
	if name == "" {
		return "", "", errors.New("want the name of a variable after ${")
	}
	if name[0] >= '0' && name[0] <= '9' {
		e.warnings = append(e.warnings, fmt.Sprintf("${%s} was replaced as an environment variable; write $${%s} for a group of a regular expression", name, name))
	}
	v, _ := e.lookup(name)
	op := ""
	for _, o := range []string{"}", ":-", ":=", ":+", ":?", "=", ":", "^^", "^", ",,", ",", "##", "#", "%%", "%", "//", "/#", "/%", "/"} {
		if strings.HasPrefix(s, o) {
			op = o
			break
		}
	}
	switch op {
	case "":
		return "", "", fmt.Errorf("${%s is followed by %.1q, which is no operator", name, s)
	case "}":
		return v, s[1:], nil
	}
	arg, rest, err := e.run(s[len(op):], true)
	if err != nil {
		return "", "", err
	}
	return e.operate(name, v, op, arg), rest, nil
}

func varName(s string) (name, rest string) {
	n := 0
	for n < len(s) && (s[n] == '_' || s[n] < 0x80 && (unicode.IsLetter(rune(s[n])) || unicode.IsDigit(rune(s[n])))) {
		n++
	}
	return s[:n], s[n:]
}

func (e *expander) operate(name, v, op, arg string) string {
	switch op {
	case ":-", ":=", "=", ":+", ":?":
		if v == "" {
			return arg
		}
		return v
	case ":":
		return e.substring(name, v, arg)
	case "^":
		return mapFirst(v, strings.ToUpper)
	case "^^":
		return strings.ToUpper(v)
	case ",":
		return mapFirst(v, strings.ToLower)
	case ",,":
		return strings.ToLower(v)
	case "#", "##":
		return trimGlob(v, arg, op == "##", false)
	case "%", "%%":
		return trimGlob(v, arg, op == "%%", true)
	}
	from, to, _ := strings.Cut(arg, "/")
	switch op {
	case "/":
		return strings.Replace(v, from, to, 1)
	case "//":
		return strings.ReplaceAll(v, from, to)
	case "/#":
		if r, ok := strings.CutPrefix(v, from); ok {
			return to + r
		}
	case "/%":
		if r, ok := strings.CutSuffix(v, from); ok {
			return r + to
		}
	}
	return v
}

func (e *expander) substring(name, v, arg string) string {
	offText, lenText, hasLen := strings.Cut(arg, ":")
	off, err := strconv.Atoi(offText)
	if err != nil {
		e.warnings = append(e.warnings, fmt.Sprintf("${%s:%s} is not a default; write ${%s:-%s}", name, arg, name, arg))
		return v
	}
	if off < 0 {
		off += len(v)
	}
	off = min(max(off, 0), len(v))
	v = v[off:]
	if n, err := strconv.Atoi(lenText); hasLen && err == nil {
		v = v[:min(max(n, 0), len(v))]
	}
	return v
}

func mapFirst(s string, f func(string) string) string {
	if s == "" {
		return s
	}
	return f(s[:1]) + s[1:]
}

// trimGlob removes the shortest or longest prefix or suffix that a pattern matches.
func trimGlob(s, pattern string, longest, suffix bool) string {
	best := -1
	// As in a shell, a star matches slashes too.
	flat := func(s string) string { return strings.ReplaceAll(s, "/", "\x00") }
	for n := 0; n <= len(s); n++ {
		part := s[:n]
		if suffix {
			part = s[len(s)-n:]
		}
		if ok, _ := path.Match(flat(pattern), flat(part)); ok { // a bad pattern matches nothing
			best = n
			if !longest {
				break
			}
		}
	}
	switch {
	case best < 0:
		return s
	case suffix:
		return s[:len(s)-best]
	}
	return s[best:]
}
