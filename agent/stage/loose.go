package stage

import (
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Some of Promtail's stages accept a number, a string or a boolean for each other. These
// types read their fields.

type looseInt int64

func (i *looseInt) UnmarshalYAML(n *yaml.Node) error {
	v, err := strconv.ParseInt(strings.TrimSpace(n.Value), 10, 64)
	if err != nil {
		return fmt.Errorf("line %d: %q is not an integer", n.Line, n.Value)
	}
	*i = looseInt(v)
	return nil
}

type looseBool bool

func (b *looseBool) UnmarshalYAML(n *yaml.Node) error {
	switch strings.ToLower(n.Value) {
	case "y", "yes", "on":
		*b = true
		return nil
	case "n", "no", "off", "":
		*b = false
		return nil
	}
	v, err := strconv.ParseBool(n.Value)
	if err != nil {
		return fmt.Errorf("line %d: %q is neither true nor false", n.Line, n.Value)
	}
	*b = looseBool(v)
	return nil
}

type looseString string

func (s *looseString) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d: want a string", n.Line)
	}
	*s = looseString(n.Value)
	return nil
}

// byteSize reads 8192, "8kb" or "8KiB"; all units are powers of 1024.
func byteSize(s string) (int64, error) {
	num := strings.TrimRight(strings.ToLower(strings.TrimSpace(s)), "bikmgt ")
	unit := strings.TrimSpace(strings.ToLower(strings.TrimSpace(s))[len(num):])
	shift, ok := map[string]uint{"": 0, "b": 0, "k": 10, "kb": 10, "kib": 10, "m": 20, "mb": 20, "mib": 20,
		"g": 30, "gb": 30, "gib": 30, "t": 40, "tb": 40, "tib": 40}[unit]
	v, err := strconv.ParseFloat(strings.TrimSpace(num), 64)
	if !ok || err != nil || v < 0 || v > 1<<20 && shift > 20 {
		return 0, fmt.Errorf("%q is not a size such as 8192 or 8kb", s)
	}
	return int64(v * float64(uint64(1)<<shift)), nil
}

type looseFloat float64

func (f *looseFloat) UnmarshalYAML(n *yaml.Node) error {
	v, err := strconv.ParseFloat(strings.TrimSpace(n.Value), 64)
	if err != nil {
		return fmt.Errorf("line %d: %q is not a number", n.Line, n.Value)
	}
	*f = looseFloat(v)
	return nil
}
