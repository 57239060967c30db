// Package conf fills a flag.FlagSet from a command line, the environment and a YAML
// file. A setting is declared once, as a flag with a dotted name; its YAML key and its
// environment variable follow from the name:
//
//	flag  -ingester.memtable-bytes=64MB   (one dash or two, before or after arguments)
//	env   SKALD_INGESTER_MEMTABLE_BYTES=64MB
//	YAML  ingester:
//	        memtable-bytes: 64MB          (or the flat key ingester.memtable-bytes)
//
// The command line wins over the environment, which wins over the file, which wins over
// the default. What is not known is an error that says where it stands and what was
// probably meant; nothing is silently ignored.
package conf

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Source says where a FlagSet's values come from besides the command line. The zero value
// means the command line alone.
type Source struct {
	// EnvPrefix turns on environment variables; a flag's variable is the prefix and the
	// flag's name in upper case with every other character as _.
	EnvPrefix string
	// EnvNames gives single flags a variable of another name.
	EnvNames map[string]string
	// LookupEnv defaults to os.LookupEnv.
	LookupEnv func(string) (string, bool)
	// FileFlag is the flag that names the YAML file, "" for none.
	FileFlag string
	// Blocks are YAML keys whose value is more than flags can say; each is decoded by its
	// function before flags and environment are applied.
	Blocks map[string]func(*yaml.Node) error
}

// ErrHelp is returned when the command line asks for help.
var ErrHelp = flag.ErrHelp

// Parse fills fs and returns the arguments that are not flags, in order. An argument "--"
// ends the flags.
func Parse(fs *flag.FlagSet, args []string, src Source) ([]string, error) {
	fs.Init(fs.Name(), flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}

	// The line is read first, because it names the file, and applied last, because it wins.
	given := recorder{FlagSet: fs}
	positional, err := given.parse(args)
	if err != nil {
		return nil, err
	}
	onLine := map[string]bool{}
	for _, s := range given.sets {
		onLine[s.name] = true
	}
	if err := applyFile(fs, src, given.fileName(src), onLine); err != nil {
		return nil, err
	}
	if err := applyEnv(fs, src, onLine); err != nil {
		return nil, err
	}
	for _, s := range given.sets {
		if err := set(fs, s.name, s.value); err != nil {
			return nil, err
		}
	}
	return positional, nil
}

// recorder parses a command line without touching the flags' values, except to check them.
type recorder struct {
	*flag.FlagSet
	sets []setting
}

type setting struct{ name, value string }

func (r *recorder) parse(args []string) (positional []string, err error) {
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "--":
			return append(positional, args...), nil
		case len(arg) < 2 || arg[0] != '-':
			positional = append(positional, arg)
			continue
		}
		name, value, hasValue := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
		if name == "help" || name == "h" {
			return nil, ErrHelp
		}
		f := r.Lookup(name)
		if f == nil {
			if neg := r.Lookup(strings.TrimPrefix(name, "no-")); neg != nil && isBool(neg) && !hasValue {
				r.sets = append(r.sets, setting{neg.Name, "false"})
				continue
			}
			return nil, unknown(r.FlagSet, "flag", arg, name)
		}
		switch {
		case hasValue:
		case isBool(f):
			value = "true"
		case len(args) == 0:
			return nil, fmt.Errorf("flag -%s needs a value (%s)", name, describe(f))
		default:
			value, args = args[0], args[1:]
		}
		r.sets = append(r.sets, setting{name, value})
	}
	return positional, nil
}

func isBool(f *flag.Flag) bool {
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}

func describe(f *flag.Flag) string {
	kind, usage := flag.UnquoteUsage(f)
	if kind == "" {
		return usage
	}
	return kind + ": " + usage
}

// set reports a bad value with the flag's own description, because that says what was expected.
func set(fs *flag.FlagSet, name, value string) error {
	if err := fs.Set(name, value); err != nil {
		return fmt.Errorf("invalid value %q for -%s: %w (expected %s)", value, name, err, describe(fs.Lookup(name)))
	}
	return nil
}

func (s Source) lookup(flagName string) (string, bool) {
	name := s.envName(flagName)
	if name == "" {
		return "", false
	}
	lookup := s.LookupEnv
	if lookup == nil {
		lookup = os.LookupEnv
	}
	return lookup(name)
}

func (s Source) envName(flagName string) string {
	if name := s.EnvNames[flagName]; name != "" || s.EnvPrefix == "" {
		return name
	}
	return s.EnvPrefix + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(flagName))
}

func applyEnv(fs *flag.FlagSet, src Source, skip map[string]bool) (err error) {
	fs.VisitAll(func(f *flag.Flag) {
		if skip[f.Name] || err != nil {
			return
		}
		value, ok := src.lookup(f.Name)
		if !ok {
			return
		}
		if e := set(fs, f.Name, value); e != nil {
			err = fmt.Errorf("environment variable %s: %w", src.envName(f.Name), e)
		}
	})
	return err
}

func applyFile(fs *flag.FlagSet, src Source, path string, skip map[string]bool) error {
	if path == "" {
		return nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("-%s: %w", src.FileFlag, err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if doc.Kind == 0 {
		return nil
	}
	if err := applyNode(fs, src, skip, "", doc.Content[0]); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// fileName finds the YAML file's path before any value is applied.
func (r *recorder) fileName(src Source) string {
	if src.FileFlag == "" {
		return ""
	}
	for i := len(r.sets) - 1; i >= 0; i-- {
		if r.sets[i].name == src.FileFlag {
			return r.sets[i].value
		}
	}
	if path, ok := src.lookup(src.FileFlag); ok {
		return path
	}
	return r.Lookup(src.FileFlag).DefValue
}

func applyNode(fs *flag.FlagSet, src Source, skip map[string]bool, prefix string, node *yaml.Node) error {
	if node.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: expected a mapping of settings%s", node.Line, inside(prefix))
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		name := prefix + key.Value
		if seen[name] {
			return fmt.Errorf("line %d: key %q stands twice", key.Line, name)
		}
		seen[name] = true
		if err := applyKey(fs, src, skip, name, key, value); err != nil {
			return err
		}
	}
	return nil
}

func applyKey(fs *flag.FlagSet, src Source, skip map[string]bool, name string, key, value *yaml.Node) error {
	if decode := src.Blocks[name]; decode != nil {
		return decode(value)
	}
	f := fs.Lookup(name)
	switch {
	case f == nil && value.Kind == yaml.MappingNode && hasPrefix(fs, name+"."):
		return applyNode(fs, src, skip, name+".", value)
	case f == nil:
		return fmt.Errorf("line %d: %w", key.Line, unknown(fs, "key", name, name))
	case skip[name]:
		return nil
	case value.Kind == yaml.ScalarNode:
		return atLine(value.Line, set(fs, name, value.Value))
	case value.Kind == yaml.SequenceNode:
		items := make([]string, len(value.Content))
		for i, item := range value.Content {
			if item.Kind != yaml.ScalarNode {
				return fmt.Errorf("line %d: key %q: expected a list of plain values", item.Line, name)
			}
			items[i] = item.Value
		}
		return atLine(value.Line, set(fs, name, strings.Join(items, ",")))
	}
	return fmt.Errorf("line %d: key %q: expected %s", value.Line, name, describe(f))
}

func atLine(line int, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("line %d: %w", line, err)
}

func inside(prefix string) string {
	if prefix == "" {
		return ""
	}
	return fmt.Sprintf(" under %q", strings.TrimSuffix(prefix, "."))
}

func hasPrefix(fs *flag.FlagSet, prefix string) (found bool) {
	fs.VisitAll(func(f *flag.Flag) { found = found || strings.HasPrefix(f.Name, prefix) })
	return found
}

// unknown names the closest flags, so that a typing error is mended without the manual.
func unknown(fs *flag.FlagSet, what, written, name string) error {
	var known []string
	fs.VisitAll(func(f *flag.Flag) { known = append(known, f.Name) })
	switch best := Closest(name, known); len(best) {
	case 0:
		return fmt.Errorf("unknown %s %q; see --help for all of them", what, written)
	case 1:
		return fmt.Errorf("unknown %s %q; did you mean %q?", what, written, best[0])
	default:
		return fmt.Errorf("unknown %s %q; did you mean %q or %q?", what, written, best[0], best[1])
	}
}

// Closest returns those of the known names that a typing error may have made name of, or
// that it is the end or the beginning of; the nearest first.
func Closest(name string, known []string) []string {
	dist := map[string]int{}
	var best []string
	for _, k := range known {
		d := distance(name, k)
		if strings.HasSuffix(k, "."+name) || strings.HasPrefix(k, name) {
			d = 1
		}
		if d <= 1+len(name)/4 {
			best, dist[k] = append(best, k), d
		}
	}
	slices.SortStableFunc(best, func(a, b string) int { return cmp.Compare(dist[a], dist[b]) })
	return best
}

// distance is Levenshtein's edit distance in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diagonal, row[j] = row[j], min(row[j]+1, row[j-1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

// IsHelp reports whether err asks for the usage text rather than being a mistake.
func IsHelp(err error) bool { return errors.Is(err, ErrHelp) }

// WriteUsage prints every flag, if there are any, with its kind, default and environment
// variable.
func WriteUsage(w io.Writer, fs *flag.FlagSet, src Source) {
	heading := "\nFlags:\n"
	fs.VisitAll(func(f *flag.Flag) {
		_, _ = io.WriteString(w, heading)
		heading = ""
		kind, usage := flag.UnquoteUsage(f)
		fmt.Fprintf(w, "  -%s", f.Name)
		if kind != "" {
			fmt.Fprintf(w, " %s", kind)
		}
		fmt.Fprintf(w, "\n        %s", strings.ReplaceAll(usage, "\n", "\n        "))
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" {
			fmt.Fprintf(w, " (default %s)", f.DefValue)
		}
		if env := src.envName(f.Name); env != "" {
			fmt.Fprintf(w, " [$%s]", env)
		}
		fmt.Fprintln(w)
	})
}
