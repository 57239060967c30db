package pipeline

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"text/template"
	"time"
	"unicode/utf8"

	"github.com/Masterminds/sprig/v3"
)

// templateFuncs are the functions of line_format and label_format that need no
// state. Those that can make a text much larger than their arguments check its size first.
var templateFuncs = makeTemplateFuncs()

func makeTemplateFuncs() template.FuncMap {
	funcs := template.FuncMap{
		// The first generation, with the argument order of package strings.
		"ToLower":    strings.ToLower,
		"ToUpper":    strings.ToUpper,
		"Replace":    replaceN,
		"Trim":       strings.Trim,
		"TrimLeft":   strings.TrimLeft,
		"TrimRight":  strings.TrimRight,
		"TrimPrefix": strings.TrimPrefix,
		"TrimSuffix": strings.TrimSuffix,
		"TrimSpace":  strings.TrimSpace,

		"urldecode":        url.QueryUnescape,
		"urlencode":        urlencode,
		"bytes":            convertBytes,
		"duration":         convertDuration,
		"duration_seconds": convertDuration,
		"unixEpochMillis":  func(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) },
		"unixEpochNanos":   func(t time.Time) string { return strconv.FormatInt(t.UnixNano(), 10) },
		"toDateInZone":     toDateInZone,
		"unixToTime":       unixToTime,
		"alignLeft":        alignLeft,
		"alignRight":       alignRight,

		// Built-in functions of text/template, with bounds.
		"print":    func(args ...any) string { return boundedPrint(fmt.Sprint, args) },
		"println":  func(args ...any) string { return boundedPrint(fmt.Sprintln, args) },
		"printf":   boundedPrintf,
		"html":     func(args ...any) string { return escaped(template.HTMLEscaper, args) },
		"js":       func(args ...any) string { return escaped(template.JSEscaper, args) },
		"urlquery": func(args ...any) string { return escaped(template.URLQueryEscaper, args) },

		"b64enc":  b64enc,
		"repeat":  repeat,
		"replace": replaceAll,
		"indent":  indent,
		"nindent": func(n int, s string) string { return "\n" + indent(n, s) },
	}
	lib := sprig.GenericFuncMap()
	for _, name := range []string{
		"b64dec", "lower", "upper", "title", "trunc", "substr", "contains", "hasPrefix", "hasSuffix",
		"trim", "trimAll", "trimSuffix", "trimPrefix", "int", "float64", "add", "sub", "mul", "div", "mod",
		"addf", "subf", "mulf", "divf", "max", "min", "maxf", "minf", "ceil", "floor", "round", "fromJson",
		"date", "toDate", "now", "unixEpoch", "default",
	} {
		f, ok := lib[name]
		if !ok {
			panic("pipeline: no template function " + name)
		}
		funcs[name] = f
	}
	return funcs
}

func urlencode(s string) string {
	sized(3 * len(s))
	return url.QueryEscape(s)
}

func b64enc(s string) string {
	sized(base64.StdEncoding.EncodedLen(len(s)))
	return base64.StdEncoding.EncodeToString([]byte(s))
}

func repeat(count int, s string) string {
	if count > 0 && len(s) > 0 {
		sized(min(count, maxTemplateBytes+1) * len(s))
	}
	return strings.Repeat(s, count)
}

func replaceAll(old, repl, s string) string { return replaceN(s, old, repl, -1) }

func replaceN(s, old, repl string, n int) string {
	if len(repl) > len(old) {
		sized(len(s) + strings.Count(s, old)*(len(repl)-len(old)))
	}
	return strings.Replace(s, old, repl, n)
}

func indent(spaces int, s string) string {
	if spaces > 0 {
		sized(len(s) + min(spaces, maxTemplateBytes+1)*(1+strings.Count(s, "\n")))
	}
	pad := strings.Repeat(" ", spaces)
	return pad + strings.ReplaceAll(s, "\n", "\n"+pad)
}

// alignLeft cuts or pads s to count characters.
func alignLeft(count int, s string) string {
	n := utf8.RuneCountInString(s)
	switch {
	case count < 0 || count == n:
		return s
	case count > n:
		sized(len(s) + count - n)
		return s + strings.Repeat(" ", count-n)
	}
	return string([]rune(s)[:count])
}

// alignRight is alignLeft from the other end: it keeps the last characters.
func alignRight(count int, s string) string {
	n := utf8.RuneCountInString(s)
	switch {
	case count < 0 || count == n:
		return s
	case count > n:
		sized(len(s) + count - n)
		return strings.Repeat(" ", count-n) + s
	}
	return string([]rune(s)[n-count:])
}

func toDateInZone(layout, zone, s string) time.Time {
	loc, err := time.LoadLocation(zone)
	if err != nil {
		loc = time.UTC
	}
	t, _ := time.ParseInLocation(layout, s, loc)
	return t
}

// unixToTime reads days, seconds, milli-, micro- or nanoseconds since 1970; the number
// of digits says which.
func unixToTime(epoch string) (time.Time, error) {
	n, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("unable to parse time '%v': %w", epoch, err)
	}
	switch len(epoch) {
	case 5:
		return time.Unix(n*86400, 0), nil
	case 10:
		return time.Unix(n, 0), nil
	case 13:
		return time.Unix(0, n*1e6), nil
	case 16:
		return time.Unix(0, n*1e3), nil
	case 19:
		return time.Unix(0, n), nil
	}
	return time.Time{}, fmt.Errorf("unable to parse time '%v': %w", epoch, err)
}

// textSize adds up the texts among values.
func textSize(args []any) int {
	n := 0
	for _, a := range args {
		switch a := a.(type) {
		case string:
			n += len(a)
		case []byte:
			n += len(a)
		case map[string]string:
			for k, v := range a {
				n += len(k) + len(v)
			}
		}
	}
	return n
}

func boundedPrint(print func(...any) string, args []any) string {
	sized(textSize(args))
	return print(args...)
}

func escaped(escape func(...any) string, args []any) string {
	sized(6 * textSize(args))
	return escape(args...)
}

// boundedPrintf is fmt.Sprintf with its widths added up beforehand.
func boundedPrintf(format string, args ...any) string {
	size := len(format) + textSize(args)
	verbs := strings.Split(format, "%")
	for _, verb := range verbs[1:] {
		size += verbWidth(verb, args)
		if strings.HasPrefix(verb, "[") || strings.ContainsAny(verb[:min(len(verb), 16)], "qxX") {
			size += 12 * textSize(args)
		}
		sized(size)
	}
	return fmt.Sprintf(format, args...)
}

// verbWidth is an upper bound for the padding that a verb asks for.
func verbWidth(verb string, args []any) int {
	width := 0
	for i := 0; i < len(verb); i++ {
		switch c := verb[i]; {
		case c >= '0' && c <= '9':
			n := 0
			for ; i < len(verb) && verb[i] >= '0' && verb[i] <= '9'; i++ {
				n = min(n*10+int(verb[i]-'0'), 1e6)
			}
			i--
			width += n
		case c == '*':
			for _, a := range args {
				if n, ok := a.(int); ok {
					width += max(min(n, 1e6), min(-n, 1e6))
				}
			}
		case strings.IndexByte("+-# .[]", c) >= 0:
		default:
			return width
		}
	}
	return width
}
