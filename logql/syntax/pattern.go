package syntax

import (
	"errors"
	"fmt"
	"regexp"
	"unicode/utf8"
)

// PatternPart is a piece of a pattern: a literal, or a capture.
type PatternPart struct {
	Literal string // set for literals, which are never empty
	Name    string // set for captures; "_" is a capture that is thrown away
}

var errInvalidExpression = errors.New("invalid expression")

// ParseExtractPattern parses the argument of | pattern. Its errors are the causes that
// follow "invalid pattern parser: ".
func ParseExtractPattern(pattern string) ([]PatternPart, error) {
	parts, err := parsePattern(pattern)
	if err != nil {
		return nil, err
	}
	seen := make(map[string]bool)
	for _, part := range parts {
		if part.Name != "" && part.Name != "_" {
			seen[part.Name] = true
		}
	}
	if len(seen) == 0 {
		return nil, errors.New("at least one capture is required")
	}
	if err := checkConsecutive(parts); err != nil {
		return nil, err
	}
	clear(seen)
	for _, part := range parts {
		if part.Name == "" || part.Name == "_" {
			continue
		}
		if seen[part.Name] {
			return nil, fmt.Errorf("duplicate capture name (%s): %w", part.Name, errInvalidExpression)
		}
		seen[part.Name] = true
	}
	return parts, nil
}

// ParseLinePattern parses the operand of |> and !>. An empty pattern has no parts.
func ParseLinePattern(pattern string) ([]PatternPart, error) {
	if pattern == "" {
		return nil, nil
	}
	parts, err := parsePattern(pattern)
	if err != nil {
		return nil, err
	}
	if err := checkConsecutive(parts); err != nil {
		return nil, err
	}
	for _, part := range parts {
		if part.Name != "" && part.Name != "_" {
			return nil, fmt.Errorf("named captures are not allowed: found '<%s>'", part.Name)
		}
	}
	return parts, nil
}

func checkConsecutive(parts []PatternPart) error {
	for i := 1; i < len(parts); i++ {
		if a, b := parts[i-1].Name, parts[i].Name; a != "" && b != "" {
			return fmt.Errorf("found consecutive capture '<%s><%s>': %w", a, b, errInvalidExpression)
		}
	}
	return nil
}

func parsePattern(pattern string) ([]PatternPart, error) {
	var parts []PatternPart
	literal := 0 // where the current literal began
	flush := func(end int) {
		if end > literal {
			parts = append(parts, PatternPart{Literal: pattern[literal:end]})
		}
	}
	for i := 0; i < len(pattern); {
		if n := captureLen(pattern[i:]); n > 0 {
			flush(i)
			parts = append(parts, PatternPart{Name: pattern[i+1 : i+n-1]})
			i += n
			literal = i
			continue
		}
		_, size := utf8.DecodeRuneInString(pattern[i:])
		i += size
	}
	flush(len(pattern))
	if len(parts) == 0 {
		return nil, errors.New("parse error at line 1, col 1: syntax error: unexpected $end, expecting IDENTIFIER or LITERAL")
	}
	return parts, nil
}

// captureLen returns the length of the capture that s begins with, 0 if it is a literal.
func captureLen(s string) int {
	if len(s) < 3 || s[0] != '<' || !isNameByte(s[1]) || s[1] >= '0' && s[1] <= '9' {
		return 0
	}
	for i := 2; i < len(s); i++ {
		if s[i] == '>' {
			return i + 1
		}
		if !isNameByte(s[i]) {
			return 0
		}
	}
	return 0
}

// CheckExtractRegexp checks the argument of | regexp. Its errors are the causes that
// follow "invalid regexp parser: ".
func CheckExtractRegexp(expr string) error {
	re, err := regexp.Compile(expr)
	if err != nil {
		return err
	}
	seen := make(map[string]bool)
	for _, name := range re.SubexpNames() {
		if name == "" {
			continue
		}
		if seen[name] {
			return fmt.Errorf("duplicate extracted label name '%s'", name)
		}
		seen[name] = true
	}
	if len(seen) == 0 {
		return errors.New("at least one named capture must be supplied")
	}
	return nil
}
