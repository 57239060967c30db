package segment

import (
	"bytes"
	"encoding/binary"
	"math/bits"

	"github.com/skaldlog/skald/internal/packed"
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
//	0xf8 layout     the row's timestamp; the layout's high four bits are the style, the low
//	                four the number of digits of the second's fraction
//	0xf9 n          n (at least 6) pairs of hexadecimal digits, from the next n bytes of ids
//	0xfa            a UUID, from the next 16 bytes of ids
//	0xff b          the byte b, which is 0xf8 or more
//
// Package packed has the numbers, and the rules by which a text can be searched before its
// fields are put back. The frame's body is the text with tokens, then the ids, both packed.

// fieldsEncoder takes tokens out of the lines of a block; its buffers are reused.
type fieldsEncoder struct {
	text, ids []byte
	clock     clockText
	tokens    int
	plain     bool   // no byte needs to be escaped
	hex       []span // the stretches of digits that do not end before the row
	at        int    // where the last timestamp was found
	style     byte
}

// append appends the body of a frame to dst. It reports false, and appends nothing, when
// there is nothing to take out. The classes are those of the block's lines.
func (e *fieldsEncoder) append(dst []byte, b *blockBuilder, classes *lineClasses, level ZstdLevel) ([]byte, bool) {
	e.text, e.ids, e.tokens = e.text[:0], e.ids[:0], 0
	e.plain, e.hex = classes.plain, classes.hex
	for row, ts := range b.times {
		line, start := b.line(row), int(b.offsets[row])
		for len(e.hex) > 0 && e.hex[0].to <= start {
			e.hex = e.hex[1:]
		}
		if e.clock.set(ts) {
			if from, n, layout := e.findTime(line); n > 0 {
				e.appendIDs(line, start, 0, from)
				e.text = append(e.text, packed.Time, layout)
				e.tokens++
				e.appendIDs(line, start, from+n, len(line))
				continue
			}
		}
		e.appendIDs(line, start, 0, len(line))
	}
	if e.tokens == 0 {
		return dst, false
	}
	c := compression{codec: CodecZstd, level: level}
	return appendPacked(appendPacked(dst, c, e.text), c, e.ids), true
}

// marks are bytes that every timestamp of a style has. Most lines lack those of most styles, which then
// need not be printed to be compared.
var marks = [styles]struct {
	at int
	is byte
}{
	packed.StyleT: {10, 'T'}, packed.StyleSpace: {10, ' '}, packed.StyleAccess: {2, '/'},
	packed.StyleKlog: {7, ':'}, packed.StyleSyslog: {6, ' '}, packed.StyleSlash: {4, '/'},
}

// findTime looks for the row's timestamp, first where the row before had its own, then where each style can
// be found fast.
func (e *fieldsEncoder) findTime(line []byte) (from, n int, layout byte) {
	if n, layout = e.timeAt(line, e.at, e.style); n > 0 {
		return e.at, n, layout
	}
	try := func(at int, style byte) bool {
		from = at
		n, layout = e.timeAt(line, at, style)
		if n > 0 {
			e.at, e.style = at, style
		}
		return n > 0
	}
	if len(line) < 12 {
		return 0, 0, 0
	}
	switch line[0] {
	case 'I', 'W', 'E', 'F', 'D':
		if try(1, packed.StyleKlog) {
			return from, n, layout
		}
	}
	if try(0, packed.StyleSyslog) || try(0, packed.StyleSlash) {
		return from, n, layout
	}
	if at := bytes.Index(line, e.clock.year); at >= 0 {
		if try(at, packed.StyleT) || try(at, packed.StyleSpace) {
			return from, n, layout
		}
	}
	if at := bytes.IndexByte(line, '['); at >= 0 && try(at+1, packed.StyleAccess) {
		return from, n, layout
	}
	return 0, 0, 0
}

// timeAt returns the length and layout of the timestamp at a place of a line, if it is the row's.
func (e *fieldsEncoder) timeAt(line []byte, at int, style byte) (n int, layout byte) {
	if mark := marks[style]; at+mark.at >= len(line) || line[at+mark.at] != mark.is {
		return 0, 0
	}
	layout, n = e.clock.at(line[at:], style)
	return n, layout
}

const minHex = packed.MinHex // shorter runs are not worth a token

// appendIDs appends line[done:end], with ids taken out and odd bytes escaped. The line begins at start in
// the block's lines.
func (e *fieldsEncoder) appendIDs(line []byte, start, done, end int) {
	p := line[:end]
	for _, digits := range e.hex {
		from, to := max(digits.from-start, done), min(digits.to-start, end)
		if digits.from-start >= end {
			break
		}
		switch {
		case to-from == 12 && from-24 >= done && isUUID(p[from-24:to]) && packed.MayStand(line, from-24, to):
			e.appendText(p[done : from-24])
			e.text = append(e.text, packed.UUID)
			e.appendPairs(p[from-24 : from-16])
			e.appendPairs(p[from-15 : from-11])
			e.appendPairs(p[from-10 : from-6])
			e.appendPairs(p[from-5 : from-1])
		case to-from >= minHex && hasLetter(p[from:to]) && packed.MayStand(line, from, to):
			pairs := min((to-from)/2, 255)
			to = from + 2*pairs
			e.appendText(p[done:from])
			e.text = append(e.text, packed.Hex, byte(pairs))
		default:
			continue
		}
		e.appendPairs(p[from:to])
		e.tokens++
		done = to
	}
	e.appendText(p[done:])
}

// appendPairs appends the bytes that digits stand for to the ids.
func (e *fieldsEncoder) appendPairs(digits []byte) {
	for k := 0; k+2 <= len(digits); k += 2 {
		e.ids = append(e.ids, hexDigit(digits[k])<<4|hexDigit(digits[k+1]))
	}
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
	for !e.plain {
		i := tokenIn(p)
		if i == len(p) {
			break
		}
		e.text = append(append(e.text, p[:i]...), packed.Escape, p[i])
		p = p[i+1:]
	}
	e.text = append(e.text, p...)
}

// tokenIn returns where the first byte of 0xf8 or more is, len(p) when there is none.
func tokenIn(p []byte) int {
	i := 0
	for ; i+8 <= len(p); i += 8 {
		if found := fieldBytes(binary.LittleEndian.Uint64(p[i:])); found != 0 {
			return i + bits.TrailingZeros64(found)>>3
		}
	}
	for ; i < len(p) && p[i] < packed.First; i++ {
	}
	return i
}
