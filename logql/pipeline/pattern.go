package pipeline

import (
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"
)

// patternPart is a literal, or a capture when name is not empty. The capture that keeps
// nothing is called _.
type patternPart struct {
	literal string
	name    string
}

func (p patternPart) capture() bool { return p.name != "" }

// parsePattern divides a pattern into parts. What is not <name> is literal text.
func parsePattern(s string) ([]patternPart, error) {
	if s == "" {
		return nil, errors.New("parse error at line 1, col 1: syntax error: unexpected $end, expecting IDENTIFIER or LITERAL")
	}
	if !utf8.ValidString(s) {
		return nil, errors.New("invalid UTF-8 in pattern")
	}
	var parts []patternPart
	text := 0
	flush := func(end int) {
		if end > text {
			parts = append(parts, patternPart{literal: s[text:end]})
		}
	}
	for i := 0; i < len(s); {
		n := captureLen(s[i:])
		if n == 0 {
			i++
			continue
		}
		flush(i)
		parts = append(parts, patternPart{name: s[i+1 : i+n-1]})
		i += n
		text = i
	}
	flush(len(s))
	return parts, nil
}

// captureLen returns the length of the <name> that s starts with, 0 when there is none.
func captureLen(s string) int {
	if len(s) < 3 || s[0] != '<' || !isLabelRune(rune(s[1])) || s[1] >= '0' && s[1] <= '9' {
		return 0
	}
	for i := 2; i < len(s); i++ {
		if s[i] == '>' {
			return i + 1
		}
		if !isLabelRune(rune(s[i])) {
			return 0
		}
	}
	return 0
}

// checkPattern finds captures that stand side by side.
func checkPattern(parts []patternPart) error {
	for i := 1; i < len(parts); i++ {
		if parts[i-1].capture() && parts[i].capture() {
			return fmt.Errorf("found consecutive capture '<%s><%s>': invalid expression", parts[i-1].name, parts[i].name)
		}
	}
	return nil
}

// patternNames returns the names of the captures that are kept.
func patternNames(parts []patternPart) ([]string, error) {
	var names []string
	for _, p := range parts {
		if p.capture() && p.name != "_" {
			names = append(names, p.name)
		}
	}
	if len(names) == 0 {
		return nil, errors.New("at least one capture is required")
	}
	if err := checkPattern(parts); err != nil {
		return nil, err
	}
	for i, n := range names {
		if slices.Contains(names[:i], n) {
			return nil, fmt.Errorf("duplicate capture name (%s): invalid expression", n)
		}
	}
	return names, nil
}
