package segment

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"github.com/skaldlog/skald/internal/packed"
)

// expandSlack is how many bytes behind its output expandFields may overwrite: it copies
// eight at a time.
const expandSlack = 8

// decodeFields makes lines of a frame's body. Dst is used when it is large enough.
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
	dst = grow(dst[:0], n+expandSlack)[:n+expandSlack]
	var clock clockText
	err := expandFields(dst, n, *text, *ids, &clock, times, offsets)
	return dst[:n], err
}

var (
	errTooLong = errors.New("lines too long")
	// hexPairs has the two digits of each byte.
	hexPairs = func() (t [256]uint16) {
		for i := range t {
			t[i] = uint16(hexDigits[i>>4]) | uint16(hexDigits[i&15])<<8
		}
		return t
	}()
)

// fieldBytes has the highest bit of each byte of w that begins a token.
func fieldBytes(w uint64) uint64 {
	return w & (w << 1) & (w << 2) & (w << 3) & (w << 4) & 0x8080808080808080
}

// expandFields fills out[:n] with rows that begin at offsets[0], which is 0; out is longer
// by expandSlack. All of text and ids must be used up.
func expandFields(out []byte, n int, text, ids []byte, clock *clockText, times []int64, offsets []uint32) error {
	row, o := 0, 0
	for {
		// What is no token is copied while the next one is looked for.
		for len(text) >= 8 && o <= n {
			w := binary.LittleEndian.Uint64(text)
			binary.LittleEndian.PutUint64(out[o:], w)
			k := bits.TrailingZeros64(fieldBytes(w)) >> 3
			text, o = text[k:], o+k
			if k < 8 {
				break
			}
		}
		for len(text) > 0 && text[0] < packed.First && o < n {
			out[o] = text[0]
			text, o = text[1:], o+1
		}
		switch {
		case o > n || o == n && len(text) > 0:
			return errTooLong
		case len(text) == 0:
			if o < n || len(ids) > 0 {
				return fmt.Errorf("%d bytes and %d bytes of ids left over, want %d", o, len(ids), n)
			}
			return nil
		}
		used, idBytes, length, err := tokenAt(text)
		switch {
		case err != nil:
			return err
		case length > n-o:
			return errTooLong
		case idBytes > len(ids):
			return fmt.Errorf("token %#x: %w", text[0], errShort)
		}
		switch text[0] {
		case packed.UUID:
			putUUID(out[o:o+uuidLen], ids)
		case packed.Hex:
			to := out[o : o+length]
			for i, b := range ids[:idBytes] {
				binary.LittleEndian.PutUint16(to[2*i:], hexPairs[b])
			}
		case packed.Escape:
			out[o] = text[1]
		case packed.Time:
			for row < len(times)-1 && int(offsets[row+1]) <= o {
				row++
			}
			if !clock.set(times[row]) {
				return fmt.Errorf("row %d: a time outside of all years", row)
			}
			clock.put(out[o:o+length], text[1])
		}
		text, ids, o = text[used:], ids[idBytes:], o+length
	}
}

const uuidLen = 36

// layoutLength has the length of a timestamp by layout, 0 when there is no such layout.
var layoutLength = func() (t [256]uint8) {
	for style, text := range packed.Styles {
		for digits := range 10 {
			t[style<<4|digits] = uint8(len(text))
			if digits > 0 {
				t[style<<4|digits] += uint8(1 + digits)
			}
		}
	}
	return t
}()

// tokenAt describes the token that text begins with: the bytes that it takes of the text
// and of the ids, and the length of its output.
func tokenAt(text []byte) (used, ids, length int, err error) {
	if text[0] == packed.UUID {
		return 1, 16, uuidLen, nil
	}
	if len(text) < 2 {
		return 0, 0, 0, fmt.Errorf("token %#x: %w", text[0], errShort)
	}
	switch arg := text[1]; {
	case text[0] == packed.Time && layoutLength[arg] > 0:
		return 2, 0, int(layoutLength[arg]), nil
	case text[0] == packed.Hex && arg >= packed.MinHex/2:
		return 2, int(arg), 2 * int(arg), nil
	case text[0] == packed.Escape && arg >= packed.First:
		return 2, 0, 1, nil
	}
	return 0, 0, 0, fmt.Errorf("bad token %#x %#x", text[0], text[1])
}

func putUUID(dst, id []byte) {
	_, _ = dst[uuidLen-1], id[15]
	put := func(at, i int) { binary.LittleEndian.PutUint16(dst[at:], hexPairs[id[i]]) }
	put(0, 0)
	put(2, 1)
	put(4, 2)
	put(6, 3)
	dst[8] = '-'
	put(9, 4)
	put(11, 5)
	dst[13] = '-'
	put(14, 6)
	put(16, 7)
	dst[18] = '-'
	put(19, 8)
	put(21, 9)
	dst[23] = '-'
	for i := range 6 {
		put(24+2*i, 10+i)
	}
}

// locateRows finds out where each row's text and ids begin, without making its line.
// TextAt and idAt have one element more than there are rows, as offsets.
func locateRows(text []byte, ids int, offsets, textAt, idAt []uint32) error {
	rows := len(offsets) - 1
	row, raw, id := 0, 0, 0
	rest := text
	for {
		k := tokenIn(rest)
		at := len(text) - len(rest)
		for row <= rows && int(offsets[row]) <= raw+k {
			textAt[row] = uint32(at + int(offsets[row]) - raw)
			idAt[row] = uint32(id)
			row++
		}
		rest, raw = rest[k:], raw+k
		if len(rest) == 0 {
			break
		}
		used, idBytes, length, err := tokenAt(rest)
		if err != nil {
			return err
		}
		rest, raw, id = rest[used:], raw+length, id+idBytes
		if row <= rows && int(offsets[row]) < raw {
			return fmt.Errorf("row %d: a token at byte %d runs over the end of the line", row-1, len(text)-len(rest)-used)
		}
	}
	if row <= rows || raw != int(offsets[rows]) || id != ids {
		return fmt.Errorf("%d bytes and %d bytes of ids, want %d and %d", raw, id, offsets[rows], ids)
	}
	return nil
}

// packedLines is a block's lines with their fields taken out; it implements model.Packed.
type packedLines struct {
	b            *block
	text         *[]byte
	ids          []byte // in the frame or in idBuf
	idBuf        *[]byte
	textAt, idAt *[]uint32 // nil until asked for
	lines        *[]byte
	clock        clockText
}

func (p *packedLines) release() {
	textPool.Put(p.text)
	idPool.Put(p.idBuf)
	for _, o := range []*[]uint32{p.textAt, p.idAt} {
		if o != nil {
			uint32Pool.Put(o)
		}
	}
	if p.lines != nil {
		linePool.Put(p.lines)
	}
}

// newPackedLines decodes the text and the ids of a frame's body.
func newPackedLines(b *block, body []byte) (*packedLines, error) {
	p := &packedLines{b: b, text: textPool.Get().(*[]byte), idBuf: idPool.Get().(*[]byte)}
	n := int(b.meta.bytes)
	f := fields{b: body}
	*p.text = f.packed((*p.text)[:0], 2*n)
	*p.idBuf = f.packed((*p.idBuf)[:0], n)
	p.ids = *p.idBuf
	if err := f.done(); err != nil {
		p.release()
		return nil, err
	}
	return p, nil
}

// Text implements model.Packed.
func (p *packedLines) Text() []byte { return *p.text }

// IDs implements model.Packed.
func (p *packedLines) IDs() []byte { return p.ids }

// IDOffsets implements model.Packed.
func (p *packedLines) IDOffsets(ctx context.Context) ([]uint32, error) {
	if _, err := p.Offsets(ctx); err != nil {
		return nil, err
	}
	return *p.idAt, nil
}

// Offsets implements model.Packed.
func (p *packedLines) Offsets(ctx context.Context) ([]uint32, error) {
	if p.textAt != nil {
		return *p.textAt, nil
	}
	offsets, err := p.b.Offsets(ctx)
	if err != nil {
		return nil, err
	}
	textAt, idAt := pooled[uint32](&uint32Pool, len(offsets)), pooled[uint32](&uint32Pool, len(offsets))
	if err := locateRows(*p.text, len(p.ids), offsets, *textAt, *idAt); err != nil {
		uint32Pool.Put(textAt)
		uint32Pool.Put(idAt)
		return nil, p.b.corrupt(p.b.partLines(), err)
	}
	p.textAt, p.idAt = textAt, idAt
	return *textAt, nil
}

// Lines implements model.Packed.
func (p *packedLines) Lines(ctx context.Context, rows []uint32) ([]byte, error) {
	times, err := p.b.Times(ctx)
	if err != nil {
		return nil, err
	}
	textAt, err := p.Offsets(ctx)
	if err != nil {
		return nil, err
	}
	idAt, offsets := *p.idAt, *p.b.offsets
	n := int(p.b.meta.bytes) + expandSlack
	if p.lines == nil {
		p.lines = linePool.Get().(*[]byte)
		*p.lines = grow((*p.lines)[:0], n)[:n]
	}
	lines := *p.lines
	var ends [2]uint32
	for _, row := range rows {
		// What a row's expansion writes behind its end belongs to rows that come later or
		// are not wanted.
		ends[1] = offsets[row+1] - offsets[row]
		err := expandFields(lines[offsets[row]:], int(ends[1]), (*p.text)[textAt[row]:textAt[row+1]], p.ids[idAt[row]:idAt[row+1]],
			&p.clock, times[row:row+1], ends[:])
		if err != nil {
			return nil, p.b.corrupt(p.b.partLines(), fmt.Errorf("row %d: %w", row, err))
		}
	}
	return lines[:p.b.meta.bytes], nil
}

// check makes sure that the tokens keep the rules of package packed, on which searches of
// the text rely.
func (p *packedLines) check(ctx context.Context, lines []byte) error {
	textAt, err := p.Offsets(ctx)
	if err != nil {
		return err
	}
	offsets := *p.b.offsets
	for row := range len(offsets) - 1 {
		text, line := (*p.text)[textAt[row]:textAt[row+1]], lines[offsets[row]:offsets[row+1]]
		for at := 0; ; {
			k := tokenIn(text)
			if at, text = at+k, text[k:]; len(text) == 0 {
				break
			}
			used, _, length, err := tokenAt(text)
			if err == nil && !mayStand(text, line, at, at+length) {
				err = fmt.Errorf("row %d: a token may not stand for byte %d of the line", row, at)
			}
			if err != nil {
				return p.b.corrupt(p.b.partLines(), err)
			}
			at, text = at+length, text[used:]
		}
	}
	return nil
}

// mayStand reports whether the token that text begins with may stand for line[from:to].
func mayStand(text, line []byte, from, to int) bool {
	switch text[0] {
	case packed.Hex, packed.UUID:
		return packed.MayStand(line, from, to)
	case packed.Time:
		return text[1]>>4 != packed.StyleSyslog || from == 0
	}
	return true
}
