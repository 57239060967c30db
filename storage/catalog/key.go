package catalog

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/storage/object"
	"github.com/skaldlog/skald/storage/segment"
)

// Ref says what a segment's key tells about it.
type Ref struct {
	Key    object.Key
	Tenant model.Tenant
	// Day is the UTC day of all of the segment's rows, as 2006-01-02.
	Day string
	// Level counts how often rows were merged: 0 as uploaded by an ingester, up to MaxLevel.
	Level int
	// Min and Max are the first and last timestamp of its rows.
	Min, Max int64
	// ID is the segment's ULID.
	ID string
	// IDs is where the segment's id table lies, if it has one for all of its blocks. Readers compare
	// what a key says of ids with the segment as they do with the times.
	IDs segment.IDPages
	// Size is the object's size in bytes; 0 when the Ref comes from ParseKey.
	Size int64
}

// Suffix ends the key of every segment, and of nothing else.
const Suffix = ".seg"

// MaxLevel is the highest compaction level that a key can say.
const MaxLevel = 9

const dayLayout = "2006-01-02"

// DayOf returns the UTC day of a timestamp, as 2006-01-02.
func DayOf(ts int64) string { return time.Unix(0, ts).UTC().Format(dayLayout) }

// DayRange returns the timestamps of a day.
func DayRange(day string) (model.TimeRange, error) {
	t, err := time.Parse(dayLayout, day)
	if err != nil || t.Format(dayLayout) != day {
		return model.TimeRange{}, fmt.Errorf("got day %q, want it as %s", day, dayLayout)
	}
	const nsPerDay = int64(24 * time.Hour)
	first := t.Unix() / 86400
	if first < minDay || first > maxDay {
		return model.TimeRange{}, fmt.Errorf("day %s is out of the range of nanosecond timestamps", day)
	}
	// The first and last days are cut by the range of int64.
	r := model.TimeRange{From: minTime, Through: maxTime}
	if first > minDay {
		r.From = first * nsPerDay
	}
	if first < maxDay {
		r.Through = (first + 1) * nsPerDay
	}
	return r, nil
}

// The range of timestamps, and the days since 1970 in which it begins and ends.
const (
	minTime = -1 << 63
	maxTime = 1<<63 - 1
	minDay  = minTime/(24*int64(time.Hour)) - 1
	maxDay  = maxTime / (24 * int64(time.Hour))
)

// KeyFor returns the key of a segment:
//
//	<tenant>/<day>/<level>-<min>-<max>-<id>.seg
//	<tenant>/<day>/<level>-<min>-<max>-<id>-<offset>_<pages>_<bytes>.seg
//
// Times are 19 digits, so that keys of a level sort by time; one before 1970 is "m" and
// the 19 digits of its magnitude. Offset, pages and bytes of a page are those of the id table, in
// hexadecimal digits; without them, there is none that could be asked before the segment is opened.
// ParseKey is the inverse.
func KeyFor(tenant model.Tenant, day string, level int, min, max int64, id string, ids segment.IDPages) object.Key {
	var b strings.Builder
	b.Grow(len(tenant) + len(day) + 2*20 + len(id) + 40)
	b.WriteString(string(tenant))
	b.WriteByte('/')
	b.WriteString(day)
	b.WriteByte('/')
	b.WriteString(strconv.Itoa(level))
	b.WriteByte('-')
	writeTime(&b, min)
	b.WriteByte('-')
	writeTime(&b, max)
	b.WriteByte('-')
	b.WriteString(id)
	if ids != (segment.IDPages{}) {
		separator := byte('-')
		for _, n := range []int64{ids.Offset, int64(ids.Pages), int64(ids.PageBytes)} {
			b.WriteByte(separator)
			b.WriteString(strconv.FormatInt(n, 16))
			separator = '_'
		}
	}
	b.WriteString(Suffix)
	return object.Key(b.String())
}

const timeDigits = 19

func writeTime(b *strings.Builder, ts int64) {
	magnitude := uint64(ts)
	if ts < 0 {
		b.WriteByte('m')
		magnitude = -magnitude
	}
	digits := strconv.FormatUint(magnitude, 10)
	for range timeDigits - len(digits) {
		b.WriteByte('0')
	}
	b.WriteString(digits)
}

func parseTime(s string) (int64, error) {
	digits, negative := strings.CutPrefix(s, "m")
	magnitude, err := strconv.ParseUint(digits, 10, 64)
	switch {
	case err != nil || len(digits) != timeDigits:
		return 0, fmt.Errorf("got time %q, want %d digits", s, timeDigits)
	case !negative && magnitude > maxTime, negative && magnitude > 1<<63:
		return 0, fmt.Errorf("time %q does not fit 64 bits", s)
	case negative && magnitude == 0:
		return 0, fmt.Errorf("got time %q, want it without m", s)
	case negative:
		return int64(-magnitude), nil
	}
	return int64(magnitude), nil
}

func parseIDs(s string) (ids segment.IDPages, err error) {
	parts := strings.Split(s, "_")
	var n [3]uint64
	for i := range n {
		if len(parts) != len(n) || strings.HasPrefix(parts[i], "0") || strings.ToLower(parts[i]) != parts[i] {
			return ids, errIDs(s)
		}
		if n[i], err = strconv.ParseUint(parts[i], 16, 63); err != nil {
			return ids, errIDs(s)
		}
	}
	ids = segment.IDPages{Offset: int64(n[0]), Pages: int(n[1]), PageBytes: int(n[2])}
	if !ids.Valid(maxTime) {
		return segment.IDPages{}, errIDs(s)
	}
	return ids, nil
}

func errIDs(s string) error {
	return fmt.Errorf("got the place of ids %q, want offset_pages_bytes of a table", s)
}

// ParseKey reads a segment's key. It accepts exactly what KeyFor makes of valid arguments,
// so two keys never mean the same segment, and a Ref's times lie in its day.
func ParseKey(key object.Key) (Ref, error) {
	ref, err := parseKey(key)
	if err != nil {
		return Ref{}, fmt.Errorf("segment key %q: %w", string(key), err)
	}
	return ref, nil
}

func parseKey(key object.Key) (Ref, error) {
	ref := Ref{Key: key}
	tenant, rest, ok1 := strings.Cut(string(key), "/")
	day, name, ok2 := strings.Cut(rest, "/")
	if !ok1 || !ok2 {
		return ref, errors.New("want tenant/day/name")
	}
	var err error
	if ref.Tenant, err = model.ParseTenant(tenant); err != nil {
		return ref, err
	}
	dayRange, err := DayRange(day)
	if err != nil {
		return ref, err
	}
	ref.Day = day
	stem, ok := strings.CutSuffix(name, Suffix)
	fields := strings.Split(stem, "-")
	if !ok || len(fields) < 4 || len(fields) > 5 {
		return ref, fmt.Errorf("got name %q, want level-min-max-id%s or level-min-max-id-ids%s", name, Suffix, Suffix)
	}
	if len(fields) == 5 {
		if ref.IDs, err = parseIDs(fields[4]); err != nil {
			return ref, err
		}
	}
	if len(fields[0]) != 1 || fields[0][0] < '0' || fields[0][0] > '0'+MaxLevel {
		return ref, fmt.Errorf("got level %q, want 0 to %d", fields[0], MaxLevel)
	}
	ref.Level = int(fields[0][0] - '0')
	if ref.Min, err = parseTime(fields[1]); err != nil {
		return ref, err
	}
	if ref.Max, err = parseTime(fields[2]); err != nil {
		return ref, err
	}
	if ref.Min > ref.Max {
		return ref, fmt.Errorf("first time %d is after last time %d", ref.Min, ref.Max)
	}
	if ref.Min < dayRange.From || DayOf(ref.Max) != day {
		return ref, fmt.Errorf("times %d to %d do not lie in the day %s", ref.Min, ref.Max, day)
	}
	ref.ID = fields[3]
	if id, err := ulid.ParseStrict(ref.ID); err != nil || id.String() != ref.ID {
		return ref, fmt.Errorf("got id %q, want a ULID", ref.ID)
	}
	return ref, nil
}
