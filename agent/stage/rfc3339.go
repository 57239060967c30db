package stage

import (
	"time"
)

// parseRFC3339 reads an RFC 3339 time with any number of fractional digits, as
// time.Parse(time.RFC3339Nano, …) does, at a fraction of its price; forms that it does not
// know by heart it leaves to that function.
func parseRFC3339(b []byte) (int64, bool) {
	if ts, ok := fastRFC3339(b); ok {
		return ts, true
	}
	t, err := time.Parse(time.RFC3339Nano, string(b))
	if err != nil {
		return 0, false
	}
	return t.UnixNano(), true
}

// fastRFC3339 reads 2006-01-02T15:04:05[.fraction](Z|±hh:mm).
func fastRFC3339(b []byte) (int64, bool) {
	if len(b) < len("2006-01-02T15:04:05Z") || b[4] != '-' || b[7] != '-' || b[10] != 'T' || b[13] != ':' || b[16] != ':' {
		return 0, false
	}
	bad := false
	two := func(i int) int64 {
		hi, lo := b[i]-'0', b[i+1]-'0'
		bad = bad || hi > 9 || lo > 9
		return int64(hi)*10 + int64(lo)
	}
	year := two(0)*100 + two(2)
	month, day, hour, minute, second := two(5), two(8), two(11), two(14), two(17)
	if bad || year < 1970 || year > 2200 || month < 1 || month > 12 || day < 1 || day > daysIn(year, month) ||
		hour > 23 || minute > 59 || second > 59 {
		return 0, false
	}
	b = b[19:]
	nanos := int64(0)
	if b[0] == '.' {
		i, scale := 1, int64(100_000_000)
		for ; i < len(b) && b[i]-'0' <= 9; i++ {
			nanos += int64(b[i]-'0') * scale
			scale /= 10
		}
		if i == 1 || i > 10 {
			return 0, false
		}
		b = b[i:]
	}
	offset := int64(0)
	switch {
	case len(b) == 1 && b[0] == 'Z':
	case len(b) == 6 && (b[0] == '+' || b[0] == '-') && b[3] == ':':
		zh, zm := two0(b[1:]), two0(b[4:])
		if zh < 0 || zm < 0 || zh > 23 || zm > 59 {
			return 0, false
		}
		offset = zh*3600 + zm*60
		if b[0] == '-' {
			offset = -offset
		}
	default:
		return 0, false
	}
	sec := daysBefore(year, month, day)*86400 + hour*3600 + minute*60 + second - offset
	return sec*1e9 + nanos, true
}

func two0(b []byte) int64 {
	hi, lo := b[0]-'0', b[1]-'0'
	if hi > 9 || lo > 9 {
		return -1
	}
	return int64(hi)*10 + int64(lo)
}

func leap(y int64) bool { return y%4 == 0 && (y%100 != 0 || y%400 == 0) }

func daysIn(y, m int64) int64 {
	if m == 2 && leap(y) {
		return 29
	}
	return [...]int64{31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}[m-1]
}

// daysBefore counts the days from 1 January 1970. The year is taken to begin in March, so
// that the leap day is its last.
func daysBefore(y, m, d int64) int64 {
	if m <= 2 {
		y--
		m += 12
	}
	return 365*y + y/4 - y/100 + y/400 + (153*(m-3)+2)/5 + d - 1 - 719468
}
