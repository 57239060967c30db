package segment

import (
	"bytes"
	"testing"
	"time"
)

func encodeFields(times []int64, lines ...[]byte) (*blockBuilder, *fieldsEncoder, []byte, bool) {
	b, e := new(blockBuilder), new(fieldsEncoder)
	for i, line := range lines {
		b.add(times[i], line, nil, false)
	}
	var classes lineClasses
	classes.find(b.lines)
	body, ok := e.append(nil, b, &classes, ZstdFastest)
	return b, e, body, ok
}

// What is taken out, in which style, and that it comes back.
func TestFieldsTakesOut(t *testing.T) {
	ts := time.Date(2026, 3, 4, 5, 6, 7, 123456789, time.UTC).UnixNano()
	f := func(line, want string) {
		t.Helper()
		b, e, body, ok := encodeFields([]int64{ts}, []byte(line))
		if got := string(e.text); got != want {
			t.Errorf("%q: text %q, want %q", line, got, want)
		}
		if !ok {
			return
		}
		got, err := decodeFields(make([]byte, 0, len(line)), body, b.times, b.offsets)
		if err != nil || string(got) != line {
			t.Errorf("%q: decoded %q, %v", line, got, err)
		}
	}
	f("ts=2026-03-04T05:06:07.123456789Z", "ts=\xf8\x09Z")
	f("ts=2026-03-04T05:06:07.123Z", "ts=\xf8\x03Z")
	f("2026-03-04 05:06:07.124 INFO", "\xf8\x124 INFO")
	f("2026-03-04 05:06:07,123 INFO", "\xf8\x10,123 INFO")
	f(`1.2.3.4 - - [04/Mar/2026:05:06:07 +0000]`, "1.2.3.4 - - [\xf8\x20 +0000]")
	f("I0304 05:06:07.123456 1 x.go:1] y", "I\xf8\x36 1 x.go:1] y")
	f("Mar  4 05:06:07 host sshd[1]: x", "\xf8\x40 host sshd[1]: x")
	f("2026/03/04 05:06:07 [error] x", "\xf8\x50 [error] x")
	f("2026-03-04T05:06:08Z another time", "2026-03-04T05:06:08Z another time")
	f("id 4bf92f3577b34da6a3ce929d0e0e4736.", "id \xf9\x10.")
	f("id 4bf92f3577b34da6a3ce929d0e0e47363", "id \xf9\x103")
	f("decimal 123456789012345678 stays", "decimal 123456789012345678 stays")
	f("u=4bf92f35-77b3-4da6-a3ce-929d0e0e4736!", "u=\xfa!")
	f("\xf8\xff\xc3 odd 4bf92f3577b34da6", "\xff\xf8\xff\xff\xc3 odd \xf9\x08")
	f("no", "no")
	// Digits that touch letters stay: a search for "feed" or "beef" need not look for ids.
	f("seed4bf92f3577b34da6 4bf92f3577b34da6beefy", "seed4bf92f3577b34da6 4bf92f3577b34da6beefy")
	f("0x4bf92f3577b34da6 z4bf92f35-77b3-4da6-a3ce-929d0e0e4736", "0x\xf9\x08 z4bf92f35-77b3-4da6-a3ce-\xf9\x06")
}

func TestCivilDates(t *testing.T) {
	for day := int64(-800000); day < 800000; day += 7 {
		y, m, d := civil(day)
		want := time.Unix(day*86400, 0).UTC()
		if y != want.Year() || m != int(want.Month()) || d != want.Day() {
			t.Fatalf("day %d: %d-%d-%d, want %s", day, y, m, d, want)
		}
	}
}

// Lines come back as they were, whatever they and their times are.
func FuzzFields(f *testing.F) {
	f.Add([]byte("2026-03-04T05:06:07.5Z"), []byte("4bf92f35-77b3-4da6-a3ce-929d0e0e4736\xff\xf8"), int64(1772600767500000000), int64(-1))
	f.Add([]byte("[04/Mar/2026:05:06:07 +0000]"), []byte("0304"), int64(1772600767000000000), int64(1<<62))
	f.Fuzz(func(t *testing.T, first, second []byte, ts1, ts2 int64) {
		b, _, body, ok := encodeFields([]int64{ts1, ts2}, first, second)
		if !ok {
			return
		}
		got, err := decodeFields(make([]byte, 0, len(b.lines)), body, b.times, b.offsets)
		if err != nil || !bytes.Equal(got, b.lines) {
			t.Fatalf("decoded %q, want %q: %v", got, b.lines, err)
		}
	})
}

// FuzzExpandFields feeds arbitrary texts to the decoder.
func FuzzExpandFields(f *testing.F) {
	f.Add([]byte("\xf8\x09 \xf9\x02 \xfa\xff\xf8"), make([]byte, 18), 77)
	f.Fuzz(func(t *testing.T, text, ids []byte, n int) {
		if n < 0 || n > 1<<16 {
			return
		}
		offsets := []uint32{0, uint32(n / 2), uint32(n)}
		whole := make([]byte, n+expandSlack)
		err := expandFields(whole, n, text, ids, new(clockText), []int64{0, 1e18}, offsets)
		textAt, idAt := make([]uint32, 3), make([]uint32, 3)
		if locateRows(text, len(ids), offsets, textAt, idAt) != nil || err != nil {
			return
		}
		// Row by row it comes to the same.
		times, rows := []int64{0, 1e18}, make([]byte, n+expandSlack)
		for row := range times {
			length := offsets[row+1] - offsets[row]
			if err := expandFields(rows[offsets[row]:], int(length), text[textAt[row]:textAt[row+1]], ids[idAt[row]:idAt[row+1]],
				new(clockText), times[row:row+1], []uint32{0, length}); err != nil {
				t.Fatalf("row %d: %v", row, err)
			}
		}
		if !bytes.Equal(rows[:n], whole[:n]) {
			t.Fatalf("rows %q, together %q", rows[:n], whole[:n])
		}
	})
}
