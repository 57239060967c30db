package distributor

import (
	"bytes"
	"unicode/utf8"
)

// mayBeLogfmt reports whether some equals sign follows one of the fields. It spares most
// lines from being parsed.
func (f *levelFinder) mayBeLogfmt(line []byte) bool {
	for from := 0; ; {
		n := bytes.IndexByte(line[from:], '=')
		if n < 0 {
			return false
		}
		at := from + n
		if at > 0 && f.ends[line[at-1]] {
			start := at - 1
			for start > 0 && at-start < f.longest && line[start-1] > ' ' {
				start--
			}
			for i := start; i <= at-f.shortest; i++ {
				if f.fieldIndex(line[i:at]) >= 0 {
					return true
				}
			}
		}
		from = at + 1
	}
}

// fieldIndex finds key among the fields, in any case; -1 if it is none of them.
func (f *levelFinder) fieldIndex(key []byte) int {
	if len(key) < f.shortest || len(key) > f.longest {
		return -1
	}
next:
	for i, field := range f.lower {
		if len(field) != len(key) {
			continue
		}
		for j, c := range key {
			if asciiLower[c] != field[j] {
				continue next
			}
		}
		return i
	}
	return -1
}

// fromLogfmt returns the value of the preferred field among the pairs before the first
// malformed one.
func (f *levelFinder) fromLogfmt(line []byte) (value []byte) {
	best := len(f.lower)
	for i := 0; best > 0; {
		for i < len(line) && line[i] <= ' ' {
			i++
		}
		start := i
		for i < len(line) && line[i] > ' ' && line[i] != '=' && line[i] != '"' {
			i++
		}
		key := line[start:i]
		if len(key) == 0 || i < len(line) && line[i] == '"' || !utf8.Valid(key) {
			return value
		}
		var v []byte
		if i < len(line) && line[i] == '=' {
			var ok bool
			if v, i, ok = logfmtValue(line, i+1); !ok {
				return value
			}
		}
		if index := f.fieldIndex(key); index >= 0 && index < best {
			best, value = index, v
		}
	}
	return value
}

// logfmtValue reads the value at i and returns where it ends.
func logfmtValue(line []byte, i int) (value []byte, end int, ok bool) {
	start := i
	if i < len(line) && line[i] == '"' {
		for i++; i < len(line); i++ {
			switch line[i] {
			case '\\':
				i++
			case '"':
				return line[start+1 : i], i + 1, true
			}
		}
		return nil, i, false
	}
	for ; i < len(line) && line[i] > ' '; i++ {
		if line[i] == '=' || line[i] == '"' {
			return nil, i, false
		}
	}
	return line[start:i], i, true
}
