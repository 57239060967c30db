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
}

// append appends the body of a frame to dst. It reports false, and appends nothing, when
// there is nothing to take out.
func (e *fieldsEncoder) append(dst []byte, b *blockBuilder, level ZstdLevel) ([]byte, bool) {
	e.text, e.ids, e.tokens = e.text[:0], e.ids[:0], 0
	for row, ts := range b.times {
		line := b.line(row)
		if e.clock.set(ts) {
			if from, n, layout := e.findTime(line); n > 0 {
				e.appendIDs(line, 0, from)
				e.text = append(e.text, packed.Time, layout)
				e.tokens++
				e.appendIDs(line, from+n, len(line))
				continue
			}
		}
		e.appendIDs(line, 0, len(line))
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
		if try(1, packed.StyleKlog) {
			return from, n, layout
		}
	}
	if try(0, packed.StyleSyslog) || try(0, packed.StyleSlash) {
		return from, n, layout
	}
	if at := bytes.Index(line, c.year); at >= 0 {
		if try(at, packed.StyleT) || try(at, packed.StyleSpace) {
			return from, n, layout
		}
	}
	if at := bytes.IndexByte(line, '['); at >= 0 && try(at+1, packed.StyleAccess) {
		return from, n, layout
	}
	return 0, 0, 0
}

const minHex = packed.MinHex // shorter runs are not worth a token

// appendIDs appends line[done:end], with ids taken out and odd bytes escaped. A run of
// minHex digits covers a position that is a multiple of minHex, so only those are looked
// at until one is a digit.
func (e *fieldsEncoder) appendIDs(line []byte, done, end int) {
	p := line[:end]
	for i := done + minHex - 1; i < len(p); i += minHex {
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
		if to-from == 12 && from-24 >= done && isUUID(p[from-24:to]) && packed.MayStand(line, from-24, to) {
			e.appendText(p[done : from-24])
			e.text = append(e.text, packed.UUID)
			for k := from - 24; k < to; k += 2 {
				if p[k] == '-' {
					k++
				}
				e.ids = append(e.ids, hexDigit(p[k])<<4|hexDigit(p[k+1]))
			}
			e.tokens++
			done = to
		} else if to-from >= minHex && hasLetter(p[from:to]) && packed.MayStand(line, from, to) {
			pairs := min((to-from)/2, 255)
			to = from + 2*pairs
			e.appendText(p[done:from])
			e.text = append(e.text, packed.Hex, byte(pairs))
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
		e.text = append(e.text, packed.Escape, p[i])
		p = p[i+1:]
	}
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
