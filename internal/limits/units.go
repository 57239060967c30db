package limits

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	common "github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"
)

// Duration is a time span in nanoseconds, written the way Prometheus does: 30d1h, 10m,
// 0s. Weeks, days and years are allowed; fractions and signs are not.
type Duration time.Duration

const (
	minute = Duration(time.Minute)
	hour   = Duration(time.Hour)
	day    = 24 * hour
)

// ParseDuration reads a Prometheus duration.
func ParseDuration(s string) (Duration, error) {
	d, err := common.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("got %q, want a duration such as 90s, 10m or 30d1h", s)
	}
	return Duration(d), nil
}

// String prints the canonical form: 721h is 30d1h, 7d is 1w.
func (d Duration) String() string { return common.Duration(d).String() }

// Duration converts to the type of package time.
func (d Duration) Duration() time.Duration { return time.Duration(d) }

// Set parses s into d.
func (d *Duration) Set(s string) (err error) {
	*d, err = ParseDuration(s)
	return err
}

// GoDuration is a time span written as package time does: 1.5h, 300ms.
type GoDuration time.Duration

func (d GoDuration) String() string { return time.Duration(d).String() }

// Set parses s into d.
func (d *GoDuration) Set(s string) error {
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("got %q, want a duration such as 300ms or 1.5h", s)
	}
	*d = GoDuration(v)
	return nil
}

// Bytes is a size in bytes. Units are binary: 1KB is 1024 bytes.
type Bytes int64

var byteUnits = []struct {
	size Bytes
	name string
}{{1 << 60, "EB"}, {1 << 50, "PB"}, {1 << 40, "TB"}, {gb, "GB"}, {mb, "MB"}, {kb, "KB"}, {1, "B"}}

// ParseBytes reads a size: 256KB, 1.5MB, or a bare number of bytes, in any case.
func ParseBytes(s string) (Bytes, error) {
	bad := fmt.Errorf("got %q, want a size such as 256KB, 1.5MB or a number of bytes", s)
	text := strings.ToUpper(strings.TrimSpace(s))
	number := strings.TrimRight(text, "BKMGTPEI ")
	unit := strings.TrimSpace(text[len(number):])
	size := Bytes(0)
	for _, u := range byteUnits {
		if unit == u.name || unit == strings.TrimSuffix(u.name, "B") || unit == strings.Replace(u.name, "B", "IB", 1) {
			size = u.size
		}
	}
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || size == 0 || !(v >= 0) || v*float64(size) >= math.MaxInt64 {
		return 0, bad
	}
	if n, err := strconv.ParseInt(number, 10, 64); err == nil {
		return Bytes(n) * size, nil // exact also above 2^53
	}
	return Bytes(v * float64(size)), nil
}

// String prints b in the largest unit that needs no fraction: 3MB, 1536KB, 12B.
func (b Bytes) String() string {
	if b == 0 {
		return "0B"
	}
	for _, u := range byteUnits {
		if b%u.size == 0 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10) + "B"
}

// Set parses s into b.
func (b *Bytes) Set(s string) (err error) {
	*b, err = ParseBytes(s)
	return err
}

// Time is a moment, written as RFC 3339 or as a UTC date; "0" is the zero time.
type Time struct{ time.Time }

func (t Time) String() string {
	if t.IsZero() {
		return "0"
	}
	return t.Format(time.RFC3339Nano)
}

// Set parses s into t.
func (t *Time) Set(s string) error {
	if s == "" || s == "0" {
		t.Time = time.Time{}
		return nil
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if v, err := time.Parse(layout, s); err == nil {
			t.Time = v
			return nil
		}
	}
	return fmt.Errorf("got %q, want a time such as 2006-01-02T15:04:05Z or 2006-01-02", s)
}

// The types above are one text in YAML and JSON alike.

func setFromNode(n *yaml.Node, v interface{ Set(string) error }) error {
	if n.Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d: got a list or map, want one value", n.Line)
	}
	if err := v.Set(n.Value); err != nil {
		return fmt.Errorf("line %d: %w", n.Line, err)
	}
	return nil
}

func (d *Duration) UnmarshalYAML(n *yaml.Node) error   { return setFromNode(n, d) }
func (d *GoDuration) UnmarshalYAML(n *yaml.Node) error { return setFromNode(n, d) }
func (b *Bytes) UnmarshalYAML(n *yaml.Node) error      { return setFromNode(n, b) }
func (t *Time) UnmarshalYAML(n *yaml.Node) error       { return setFromNode(n, t) }
func (c *CommaList) UnmarshalYAML(n *yaml.Node) error  { return setFromNode(n, c) }

func (d Duration) MarshalYAML() (any, error)   { return d.String(), nil }
func (d GoDuration) MarshalYAML() (any, error) { return d.String(), nil }
func (b Bytes) MarshalYAML() (any, error)      { return b.String(), nil }
func (t Time) MarshalYAML() (any, error)       { return t.String(), nil }
func (c CommaList) MarshalYAML() (any, error)  { return c.String(), nil }

func (d Duration) MarshalJSON() ([]byte, error)   { return json.Marshal(d.String()) }
func (d GoDuration) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }
func (b Bytes) MarshalJSON() ([]byte, error)      { return json.Marshal(b.String()) }
func (t Time) MarshalJSON() ([]byte, error)       { return json.Marshal(t.String()) }
func (c CommaList) MarshalJSON() ([]byte, error)  { return json.Marshal(c.String()) }
