package wire

import (
	"fmt"
	"strings"
)

// NormalName turns a metadata or attribute name into the form under which it is stored:
// every run of bytes that are not ASCII letters or digits becomes one underscore, except
// that a name which begins and ends with two underscores keeps them, and a name that
// begins with a digit gets the prefix key_. Names that are normal already, nearly all,
// are returned as they are.
func NormalName(name string) (string, error) {
	if name == "" {
		return "", fmt.Errorf("label name is empty")
	}
	if isNormal(name) {
		return name, nil
	}
	reserved := len(name) > 4 && strings.HasPrefix(name, "__") && strings.HasSuffix(name, "__")
	var b strings.Builder
	b.Grow(len(name) + 4)
	if name[0] >= '0' && name[0] <= '9' {
		b.WriteString("key_")
	}
	inner := name
	if reserved {
		inner = name[2 : len(name)-2]
		b.WriteString("__")
	}
	for i, run := 0, false; i < len(inner); i++ {
		switch c := inner[i]; {
		case alphanumeric(c):
			b.WriteByte(c)
			run = false
		case !run:
			b.WriteByte('_')
			run = true
		}
	}
	if reserved {
		b.WriteString("__")
	}
	out := b.String()
	if strings.Trim(out, "_") == "" {
		return "", fmt.Errorf("normalization for label name %q resulted in invalid name %q", name, "_")
	}
	return out, nil
}

// isNormal reports whether name begins with a letter or a single underscore and has no
// two underscores in a row.
func isNormal(name string) bool {
	if name[0] >= '0' && name[0] <= '9' || name == "_" {
		return false
	}
	for i := 0; i < len(name); i++ {
		if c := name[i]; !alphanumeric(c) && (c != '_' || i+1 < len(name) && name[i+1] == '_') {
			return false
		}
	}
	return true
}

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
