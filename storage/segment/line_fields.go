package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// The codec "fields" takes out of the lines what a general codec cannot see through, and
// leaves the rest to zstd:
//
//   - A timestamp in the text usually is the row's timestamp, to some digit: it is cut
//     out, and printed again from the timestamp column.
//   - An id of random hexadecimal digits costs a general codec five to six bits a digit;
//     taken out, it costs four.
//
// On logs with both, lines become a fourth smaller. A token is a byte that does not occur
// in UTF-8, and what follows it:
//
//	0xf8 layout     the row's timestamp; the layout's high four bits are the style (below),
//	                the low four the number of digits of the second's fraction
//	0xf9 n          n (at least 1) pairs of hexadecimal digits, from the next n bytes of ids
//	0xfa            a UUID, from the next 16 bytes of ids
//	0xff b          the byte b, which is 0xf8 or more
//
// The frame's body is the text with tokens, then the ids, both packed.
const (
	tokenTime   = 0xf8
	tokenHex    = 0xf9
	tokenUUID   = 0xfa
	tokenEscape = 0xff
	firstToken  = 0xf8
)

// Styles of timestamps. All are in UTC.
const (
	styleT      = 0 // 2006-01-02T15:04:05
	styleSpace  = 1 // 2006-01-02 15:04:05
	styleAccess = 2 // 02/Jan/2006:15:04:05
	styleKlog   = 3 // 0102 15:04:05
	styleSyslog = 4 // Jan _2 15:04:05
	styleSlash  = 5 // 2006/01/02 15:04:05
	styles      = 6
)

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
	case styleT:
		b = append(ymd(b, '-'), 'T')
	case styleSpace:
		b = append(ymd(b, '-'), ' ')
	case styleSlash:
		b = append(ymd(b, '/'), ' ')
	case styleAccess:
		b = append(append(append(two(b, day), '/'), name...), '/')
		b = append(two(two(b, year/100), year%100), ':')
	case styleKlog:
		b = append(two(two(b, month), day), ' ')
	case styleSyslog:
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

// append prints the prepared timestamp.
func (c *clockText) append(dst []byte, layout byte) []byte {
	dst = append(dst, c.in(layout>>4)...)
	if digits := layout & 15; digits > 0 {
		dst = append(append(dst, '.'), c.fraction()[:digits]...)
	}
	return dst
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

// fieldsEncoder takes tokens out of the lines of a block; its buffers are reused.
type fieldsEncoder struct {
	text, ids []byte
	clock     clockText
	tokens    int
}

// append appends the body of a frame to dst. It reports false, and appends nothing, when
// there is nothing to take out.
func (e *fieldsEncoder) append(dst []byte, b *blockBuilder, level ZstdLevel) ([]byte, bool) {
	e.text, e.ids, e.tokens = e.text[:0], e.ids[:0], 0
	for row, ts := range b.times {
		line := b.line(row)
		if e.clock.set(ts) {
			if from, n, layout := e.findTime(line); n > 0 {
				e.appendIDs(line[:from])
				e.text = append(e.text, tokenTime, layout)
				e.tokens++
				line = line[from+n:]
			}
		}
		e.appendIDs(line)
	}
	if e.tokens == 0 {
		return dst, false
	}
	c := compression{CodecZstd, level}
	return appendPacked(appendPacked(dst, c, e.text), c, e.ids), true
}

// findTime looks for the row's timestamp where each style can be found fast.
func (e *fieldsEncoder) findTime(line []byte) (from, n int, layout byte) {
	c := &e.clock
	try := func(at int, style byte) bool {
		if at < 0 || at >= len(line) {
			return false
		}
		layout, n = c.at(line[at:], style)
		from = at
		return n > 0
	}
	if len(line) < 12 {
		return 0, 0, 0
	}
	switch line[0] {
	case 'I', 'W', 'E', 'F', 'D':
		if try(1, styleKlog) {
			return from, n, layout
		}
	}
	if try(0, styleSyslog) || try(0, styleSlash) {
		return from, n, layout
	}
	if at := bytes.Index(line, c.year); at >= 0 {
		if try(at, styleT) || try(at, styleSpace) {
			return from, n, layout
		}
	}
	if at := bytes.IndexByte(line, '['); at >= 0 && try(at+1, styleAccess) {
		return from, n, layout
	}
	return 0, 0, 0
}

const (
	minHex  = 12 // shorter runs are not worth a token
	uuidLen = 36
)

// appendIDs appends a piece of a line, with ids taken out and odd bytes escaped. A run
// of minHex digits covers a position that is a multiple of minHex, so only those are
// looked at until one is a digit.
func (e *fieldsEncoder) appendIDs(p []byte) {
	done := 0
	for i := minHex - 1; i < len(p); i += minHex {
		if hexDigit(p[i]) > 15 {
			continue
		}
		from, to := i, i+1
		for from > done && hexDigit(p[from-1]) <= 15 {
			from--
		}
		for to < len(p) && hexDigit(p[to]) <= 15 {
			to++
		}
		if to-from == 12 && from-24 >= done && isUUID(p[from-24:to]) {
			e.appendText(p[done : from-24])
			e.text = append(e.text, tokenUUID)
			for k := from - 24; k < to; k += 2 {
				if p[k] == '-' {
					k++
				}
				e.ids = append(e.ids, hexDigit(p[k])<<4|hexDigit(p[k+1]))
			}
			e.tokens++
			done = to
		} else if to-from >= minHex && hasLetter(p[from:to]) {
			pairs := min((to-from)/2, 255)
			to = from + 2*pairs
			e.appendText(p[done:from])
			e.text = append(e.text, tokenHex, byte(pairs))
			for k := from; k < to; k += 2 {
				e.ids = append(e.ids, hexDigit(p[k])<<4|hexDigit(p[k+1]))
			}
			e.tokens++
			done = to
		}
		i = max(i, to-1)
	}
	e.appendText(p[done:])
}

func hasLetter(p []byte) bool {
	for _, b := range p {
		if b >= 'a' {
			return true
		}
	}
	return false
}

// isUUID reports whether p, 36 bytes whose last twelve are hex digits, is a UUID.
func isUUID(p []byte) bool {
	for i, b := range p[:24] {
		switch i {
		case 8, 13, 18, 23:
			if b != '-' {
				return false
			}
		default:
			if hexDigit(b) > 15 {
				return false
			}
		}
	}
	return true
}

// appendText appends text without tokens, which is nearly always plain.
func (e *fieldsEncoder) appendText(p []byte) {
	for {
		i := tokenIn(p)
		e.text = append(e.text, p[:i]...)
		if i == len(p) {
			return
		}
		e.text = append(e.text, tokenEscape, p[i])
		p = p[i+1:]
	}
}

// tokenIn returns where the first byte of 0xf8 or more is, len(p) when there is none.
func tokenIn(p []byte) int {
	i := 0
	for ; i+8 <= len(p); i += 8 {
		w := binary.LittleEndian.Uint64(p[i:])
		if w&(w<<1)&(w<<2)&(w<<3)&(w<<4)&0x8080808080808080 != 0 {
			break
		}
	}
	for ; i < len(p) && p[i] < firstToken; i++ {
	}
	return i
}

// decodeFields appends the lines to dst, whose capacity is enough for all of them.
func decodeFields(dst, body []byte, times []int64, offsets []uint32) ([]byte, error) {
	n := int(offsets[len(offsets)-1])
	text, ids := textPool.Get().(*[]byte), idPool.Get().(*[]byte)
	defer textPool.Put(text)
	defer idPool.Put(ids)
	f := fields{b: body}
	*text = f.packed((*text)[:0], 2*n) // at most every byte is escaped
	*ids = f.packed((*ids)[:0], n)
	if err := f.done(); err != nil {
		return dst, err
	}
	return expandFields(dst, *text, *ids, n, times, offsets)
}

func expandFields(dst, text, ids []byte, n int, times []int64, offsets []uint32) ([]byte, error) {
	var clock clockText
	row := 0
	start := len(dst)
	for {
		i := tokenIn(text)
		if len(dst)-start+i > n {
			return dst, errors.New("lines too long")
		}
		dst = append(dst, text[:i]...)
		text = text[i:]
		if len(text) == 0 {
			break
		}
		token := text[0]
		switch {
		case token == tokenUUID && len(ids) >= 16:
			dst = appendUUID(dst, ids[:16])
			text, ids = text[1:], ids[16:]
		case len(text) < 2:
			return dst, fmt.Errorf("token %#x: %w", token, errShort)
		case token == tokenHex && len(ids) >= int(text[1]):
			for _, b := range ids[:text[1]] {
				dst = append(dst, hexDigits[b>>4], hexDigits[b&15])
			}
			text, ids = text[2:], ids[text[1]:]
		case token == tokenEscape && text[1] >= firstToken:
			dst = append(dst, text[1])
			text = text[2:]
		case token == tokenTime && text[1]>>4 < styles && text[1]&15 <= 9:
			for row < len(times)-1 && int(offsets[row+1]) <= len(dst)-start {
				row++
			}
			if !clock.set(times[row]) {
				return dst, fmt.Errorf("row %d: a time outside of all years", row)
			}
			dst = clock.append(dst, text[1])
			text = text[2:]
		default:
			return dst, fmt.Errorf("bad token %#x", token)
		}
	}
	if got := len(dst) - start; got != n || len(ids) > 0 {
		return dst, fmt.Errorf("%d bytes and %d bytes of ids left over, want %d", got, len(ids), n)
	}
	return dst, nil
}

func appendUUID(dst, id []byte) []byte {
	for i, b := range id {
		switch i {
		case 4, 6, 8, 10:
			dst = append(dst, '-')
		}
		dst = append(dst, hexDigits[b>>4], hexDigits[b&15])
	}
	return dst
}
