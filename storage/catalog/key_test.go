package catalog

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/storage/object"
	"github.com/skaldlog/skald/storage/segment"
)

const id1 = "01JDF5X4Q0000000000000000A"

var ids1 = segment.IDPages{Offset: 0x2f3a10c, Pages: 0x96, PageBytes: 0x10b4}

// noon is 2026-11-24 12:00 UTC.
var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC).UnixNano()

func TestKey(t *testing.T) {
	key := KeyFor("fake", "2026-11-24", 1, noon, noon+5, id1, ids1)
	const want = "fake/2026-11-24/1-1795521600000000000-1795521600000000005-" + id1 + "-2f3a10c_96_10b4.seg"
	if string(key) != want {
		t.Fatalf("got %s\nwant %s", key, want)
	}
	ref, err := ParseKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(Ref{Key: key, Tenant: "fake", Day: "2026-11-24", Level: 1, Min: noon, Max: noon + 5, ID: id1, IDs: ids1}, ref); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestParseKeyRefuses(t *testing.T) {
	good := string(KeyFor("fake", "2026-11-24", 1, noon, noon+5, id1, ids1))
	for _, edit := range [][2]string{
		{"fake/", ""}, {"fake", ".."}, {"fake", "a b"}, {"fake", ""},
		{"2026-11-24", "2026-11-25"}, {"2026-11-24", "2026-11-23"}, {"2026-11-24", "2026-11-31"}, {"2026-11-24", "26-11-24"}, {"2026-11-24", "2026-11-24/x"},
		{"/1-", "/01-"}, {"/1-", "/x-"}, {"/1-", "/-"}, {"/1-", "/-1-"},
		{"1795521600000000000", "179552160000000000"}, {"1795521600000000000", "01795521600000000000"}, {"1795521600000000000", "1795521600000000006"},
		{"1795521600000000000", "+179552160000000000"}, {"1795521600000000000", "m1795521600000000000"}, {"1795521600000000000", "m0000000000000000000"},
		{"1795521600000000005", "1795600000000000000"}, {"1795521600000000005", "9999999999999999999"},
		{id1, strings.ToLower(id1)}, {id1, id1[1:]}, {id1, id1 + "-x"}, {id1, "81JDF5X4Q0000000000000000A"}, {id1, "01JDF5X4Q0000000000000000U"},
		{"-2f3a10c", "-02f3a10c"}, {"-2f3a10c", "-2F3A10C"}, {"-2f3a10c", "-+2f3a10c"}, {"-2f3a10c", "-"}, {"-2f3a10c", "-0"}, {"-2f3a10c", "-2f3a10c2f3a10c2f3a10c"},
		{"_96_", "_"}, {"_96_", "_96_96_"}, {"_96_", "_0_"}, {"_96_", "_400001_"}, {"_10b4", "_7"}, {"_10b4", "_2001"}, {"_10b4", "_10b4-1"},
		{".seg", ""}, {".seg", ".seg.tmp"}, {".seg", ".SEG"},
	} {
		bad := object.Key(strings.Replace(good, edit[0], edit[1], 1))
		if string(bad) == good {
			t.Fatalf("%q is not in the key", edit[0])
		}
		if ref, err := ParseKey(bad); err == nil {
			t.Errorf("%s is taken for %+v", bad, ref)
		} else if !strings.Contains(err.Error(), string(bad)) {
			t.Errorf("error %q does not name the key", err)
		}
	}
}

// Whatever the times, also before 1970 and at the ends of int64, a key reads back.
func TestKeyRoundTrip(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	times := []int64{0, -1, 1, minTime, maxTime, minTime + 1, maxTime - 1}
	for range 1000 {
		times = append(times, int64(rnd.Uint64()))
	}
	for _, ts := range times {
		day := DayOf(ts)
		r, err := DayRange(day)
		if err != nil {
			t.Fatal(err)
		}
		last := r.Through - 1
		if day == DayOf(maxTime) {
			last = maxTime
		}
		if ts < r.From || ts > last || DayOf(r.From) != day || DayOf(last) != day {
			t.Fatalf("day %s of %d has the range %+v", day, ts, r)
		}
		ref, err := ParseKey(KeyFor("t", day, 0, r.From, ts, id1, segment.IDPages{}))
		if err != nil || ref.Min != r.From || ref.Max != ts || ref.Day != day {
			t.Fatalf("%d: got %+v, %v", ts, ref, err)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add("fake/2026-11-24/1-1795521600000000000-1795521600000000005-" + id1 + ".seg")
	f.Add("fake/2026-11-24/1-1795521600000000000-1795521600000000005-" + id1 + "-2f3a10c_96_10b4.seg")
	f.Add("t/1969-12-31/0-m0000000000000000005-m0000000000000000001-" + id1 + ".seg")
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := ParseKey(object.Key(s))
		if err != nil {
			return
		}
		if back := KeyFor(ref.Tenant, ref.Day, ref.Level, ref.Min, ref.Max, ref.ID, ref.IDs); string(back) != s {
			t.Errorf("%q reads as %+v, which is written %q", s, ref, back)
		}
		if err := object.CheckKey(object.Key(s)); err != nil {
			t.Errorf("%q is no object key: %v", s, err)
		}
		if ref.Min > ref.Max || DayOf(ref.Min) != ref.Day || DayOf(ref.Max) != ref.Day {
			t.Errorf("%q has times outside its day: %+v", s, ref)
		}
		if _, err := model.ParseTenant(string(ref.Tenant)); err != nil {
			t.Error(err)
		}
	})
}
