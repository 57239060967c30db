package segment

import (
	"bytes"

	"github.com/skaldlog/skald/internal/packed"
)

const styles = len(packed.Styles)

// clockText prints timestamps. What neighbours share is kept: the date for a day, and each
// style's text for a second. Lines have one style as a rule, so the others are never made.
type clockText struct {
	second, nanos int64
	valid         bool
	day           int64
	date          struct {
		known            bool
		year, month, day int
	}
	year   []byte // "2026-"
	text   [styles][]byte
	madeAt [styles]int64 // the second of the text, if there is one
	digits [9]byte       // of the fraction
	fresh  bool          // digits are those of nanos
}

const months = "JanFebMarAprMayJunJulAugSepOctNovDec"

// set prepares for a timestamp and reports whether its year has four digits.
func (c *clockText) set(ts int64) bool {
	second, nanos := ts/1e9, ts%1e9
	if nanos < 0 {
		second, nanos = second-1, nanos+1e9
	}
	c.fresh = c.fresh && nanos == c.nanos
	c.nanos = nanos
	if second == c.second && c.date.known {
		return c.valid
	}
	c.second = second
	if day := floorDiv(second, 86400); day != c.day || !c.date.known {
		c.day, c.date.known = day, true
		c.date.year, c.date.month, c.date.day = civil(day)
		c.year = append(two(two(c.year[:0], c.date.year/100), c.date.year%100), '-')
		c.valid = c.date.year >= 1000 && c.date.year <= 9999
	}
	return c.valid
}

// in returns the timestamp, without the fraction, in a style.
func (c *clockText) in(style byte) []byte {
	b := c.text[style]
	rest := c.second - c.day*86400
	switch before := c.madeAt[style] - c.day*86400; {
	case len(b) > 0 && before == rest:
		return b
	case len(b) > 0 && before >= 0 && before < 86400:
		// The same day: the time is the last eight bytes.
		b = b[:len(b)-8]
	default:
		b = c.appendDate(b[:0], style)
	}
	t := int(rest)
	b = two(append(two(append(two(b, t/3600), ':'), t/60%60), ':'), t%60)
	c.text[style], c.madeAt[style] = b, c.second
	return b
}

func (c *clockText) appendDate(b []byte, style byte) []byte {
	year, month, day := c.date.year, c.date.month, c.date.day
	name := months[3*month-3 : 3*month]
	ymd := func(b []byte, sep byte) []byte {
		return two(append(two(append(two(two(b, year/100), year%100), sep), month), sep), day)
	}
	switch style {
	case packed.StyleT:
		b = append(ymd(b, '-'), 'T')
	case packed.StyleSpace:
		b = append(ymd(b, '-'), ' ')
	case packed.StyleSlash:
		b = append(ymd(b, '/'), ' ')
	case packed.StyleAccess:
		b = append(append(append(two(b, day), '/'), name...), '/')
		b = append(two(two(b, year/100), year%100), ':')
	case packed.StyleKlog:
		b = append(two(two(b, month), day), ' ')
	case packed.StyleSyslog:
		b = two(append(append(b, name...), ' '), day)
		if day < 10 {
			b[len(b)-2] = ' '
		}
		b = append(b, ' ')
	}
	return b
}

// fraction returns the nine digits behind the second.
func (c *clockText) fraction() *[9]byte {
	if !c.fresh {
		c.fresh = true
		n := c.nanos
		for i := 8; i >= 0; i-- {
			c.digits[i] = byte('0' + n%10)
			n /= 10
		}
	}
	return &c.digits
}

// put prints the prepared timestamp into dst, which has the layout's length.
func (c *clockText) put(dst []byte, layout byte) {
	n := copy(dst, c.in(layout>>4))
	if digits := layout & 15; digits > 0 {
		dst[n] = '.'
		copy(dst[n+1:], c.fraction()[:digits])
	}
}

// at returns the layout and the length of the timestamp at the beginning of text, which
// begins like the style; 0 when it is another time.
func (c *clockText) at(text []byte, style byte) (layout byte, n int) {
	want := c.in(style)
	if !bytes.HasPrefix(text, want) {
		return 0, 0
	}
	n = len(want)
	digits := 0
	if n < len(text) && text[n] == '.' {
		for digits < 9 && n+1+digits < len(text) && text[n+1+digits] == c.fraction()[digits] {
			digits++
		}
		if digits > 0 {
			n += 1 + digits
		}
	}
	return style<<4 | byte(digits), n
}

func two(b []byte, n int) []byte { return append(b, byte('0'+n/10%10), byte('0'+n%10)) }

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// civil returns the date of a day counted from 1970-01-01 in the Gregorian calendar.
// It counts in eras of 400 years that begin in March, so that leap days come last.
func civil(day int64) (year, month, dayOfMonth int) {
	day += 719468
	era := floorDiv(day, 146097)
	of := day - era*146097
	y := (of - of/1460 + of/36524 - of/146096) / 365
	inYear := of - (365*y + y/4 - y/100)
	m := (5*inYear + 2) / 153
	dayOfMonth = int(inYear - (153*m+2)/5 + 1)
	month = int(m + 3)
	y += era * 400
	if month > 12 {
		month -= 12
		y++
	}
	return int(y), month, dayOfMonth
}
