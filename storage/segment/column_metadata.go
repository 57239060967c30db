package segment

import (
	"encoding/binary"
	"fmt"

	"github.com/skaldlog/skald/internal/model"
)

// A metadata column: one key's values in a block. Raw bytes:
//
//	scheme   u8
//	n        uvarint           values, not counting the absent one
//	lengths                    n uvarints
//	bytes                      of all values
//	codes                      scheme 1, 2, 4: that many planes of one byte per row (low
//	                           bytes first): 0 for a row without the key, else the value's number
//	                           from 1 on
//	presence                   scheme 0: one bit per row, least significant first; the i-th row
//	                           that has the key has the i-th value
//
// Scheme 0 is for keys whose values seldom repeat, such as trace ids. When 8 is added to
// the scheme all values are lower-case hexadecimal digits, an even number of them, all of
// one length: that length stands once, and each pair of digits is one byte, the first
// digit in the high half. Random ids then take what they must, four bits a digit, which
// general codecs miss by up to a half.
const (
	schemeDirect = 0
	schemeHex    = 8
)

// columnBuilder collects a key's values for the block being built. Values are kept
// once, until it turns out that they hardly repeat.
type columnBuilder struct {
	name    string
	arena   []byte
	ends    []uint32          // where each value ends in arena
	numbers map[string]uint32 // value → number; nil once values are no longer looked up
	spare   map[string]uint32 // numbers, to be used again
	codes   []uint32          // one per row that was reached; missing rows at the end lack the key
	present int
	// recent has numbers of values, by a byte that tells most of them apart: levels and the
	// like come again and again, and comparing is cheaper than looking up.
	recent [8]uint32
}

// Values are no longer looked up when after this many rows more than 7/8 were new.
const lookupTrial = 256

func (c *columnBuilder) reset() {
	c.arena, c.ends, c.codes, c.present = c.arena[:0], c.ends[:0], c.codes[:0], 0
	if c.spare == nil {
		c.spare = make(map[string]uint32)
	}
	clear(c.spare)
	c.numbers = c.spare
	c.recent = [8]uint32{}
}

// add sets the value of the row.
func (c *columnBuilder) add(row int, value string) {
	for len(c.codes) < row {
		c.codes = append(c.codes, 0)
	}
	c.present++
	slot := &c.recent[0]
	if c.numbers != nil {
		if len(value) > 0 {
			slot = &c.recent[(len(value)+int(value[0]))%len(c.recent)]
		}
		if *slot > 0 && view(c.value(*slot)) == value {
			c.codes = append(c.codes, *slot)
			return
		}
		if n, ok := c.numbers[value]; ok {
			*slot = n
			c.codes = append(c.codes, n)
			return
		}
	}
	start := len(c.arena)
	c.arena = append(c.arena, value...)
	c.ends = append(c.ends, uint32(len(c.arena)))
	n := uint32(len(c.ends))
	c.codes = append(c.codes, n)
	switch {
	case c.numbers == nil:
	case c.present >= lookupTrial && len(c.ends)*8 > c.present*7:
		c.numbers = nil
	default:
		// The key views the arena. When append moves the arena, the old array stays
		// alive, unchanged, as long as the map refers to it.
		c.numbers[view(c.arena[start:])] = n
		*slot = n
	}
}

// value returns value number n, counted from 1.
func (c *columnBuilder) value(n uint32) []byte {
	start := uint32(0)
	if n > 1 {
		start = c.ends[n-2]
	}
	return c.arena[start:c.ends[n-1]]
}

// at returns the row's value, empty when it lacks the key.
func (c *columnBuilder) at(row int) []byte {
	if row >= len(c.codes) || c.codes[row] == 0 {
		return nil
	}
	return c.value(c.codes[row])
}

// direct reports whether every present row has a value of its own.
func (c *columnBuilder) direct() bool { return len(c.ends) == c.present && c.present > 256 }

func (c *columnBuilder) append(dst []byte, rows int) []byte {
	for len(c.codes) < rows {
		c.codes = append(c.codes, 0)
	}
	planes := 1
	switch n := len(c.ends); {
	case c.direct():
		planes = schemeDirect
	case n > 0xffff:
		planes = 4
	case n > 0xff:
		planes = 2
	}
	dst = c.appendValues(dst, byte(planes))
	for p := range planes {
		for _, code := range c.codes {
			dst = append(dst, byte(code>>(8*p)))
		}
	}
	if planes == schemeDirect {
		dst = appendPresence(dst, c.codes)
	}
	return dst
}

// appendValues appends the scheme and the values.
func (c *columnBuilder) appendValues(dst []byte, scheme byte) []byte {
	if n := c.hexLength(); n > 0 {
		dst = append(dst, scheme|schemeHex)
		dst = binary.AppendUvarint(dst, uint64(len(c.ends)))
		dst = binary.AppendUvarint(dst, uint64(n))
		for i := 0; i < len(c.arena); i += 2 {
			dst = append(dst, hexDigit(c.arena[i])<<4|hexDigit(c.arena[i+1]))
		}
		return dst
	}
	dst = append(dst, scheme)
	dst = binary.AppendUvarint(dst, uint64(len(c.ends)))
	start := uint32(0)
	for _, end := range c.ends {
		dst = binary.AppendUvarint(dst, uint64(end-start))
		start = end
	}
	return append(dst, c.arena...)
}

// hexLength returns the length of the values when all can be packed, else 0.
func (c *columnBuilder) hexLength() int {
	n := int(c.ends[0])
	if n%2 != 0 || n*len(c.ends) != len(c.arena) {
		return 0
	}
	for i, end := range c.ends {
		if int(end) != n*(i+1) {
			return 0
		}
	}
	for _, b := range c.arena {
		if hexDigit(b) > 15 {
			return 0
		}
	}
	return n
}

func hexDigit(b byte) byte { return hexValues[b] }

var hexValues = func() (t [256]byte) {
	for b := range t {
		t[b] = 0xff
	}
	for i, b := range []byte("0123456789abcdef") {
		t[b] = byte(i)
	}
	return t
}()

func appendPresence(dst []byte, codes []uint32) []byte {
	for i := 0; i < len(codes); i += 8 {
		var b byte
		for k, code := range codes[i:min(i+8, len(codes))] {
			if code != 0 {
				b |= 1 << k
			}
		}
		dst = append(dst, b)
	}
	return dst
}

// decodeMetadata decodes a raw column. The values are fresh memory, because callers may
// keep strings beyond the block's life; codes is used when it is large enough.
func decodeMetadata(codes []uint32, raw []byte, rows int) (model.Column, error) {
	f := fields{b: raw}
	scheme := int(f.byte())
	n := f.count(1, "values")
	if n > rows {
		return model.Column{}, fmt.Errorf("%d values for %d rows", n, rows)
	}
	values := append(make([]string, 0, n+1), "")
	if scheme&schemeHex != 0 {
		values = appendHexValues(values, &f, n)
		scheme &^= schemeHex
	} else {
		values = append(values, f.strings(n, "value")...)
	}
	switch scheme {
	case schemeDirect:
		codes = decodePresence(codes[:0], f.bytes((rows+7)/8), rows)
	case 1, 2, 4:
		codes = joinPlanes(codes[:0], f.bytes(rows*scheme), scheme)
	default:
		return model.Column{}, fmt.Errorf("unknown scheme %d", scheme)
	}
	if err := f.done(); err != nil {
		return model.Column{}, err
	}
	if len(values) != n+1 {
		return model.Column{}, fmt.Errorf("%d values, want %d", len(values)-1, n)
	}
	for row, code := range codes {
		if int(code) >= len(values) {
			return model.Column{}, fmt.Errorf("row %d: value %d of %d", row, code, n)
		}
	}
	return model.Column{Values: values, Codes: codes}, nil
}

const hexDigits = "0123456789abcdef"

// appendHexValues reads n packed values.
func appendHexValues(values []string, f *fields, n int) []string {
	length := int(f.upTo(uint64(2*len(f.b)), "value length"))
	if n > 0 && length > 2*len(f.b)/n {
		f.fail("values")
		return values
	}
	packed := f.bytes(length / 2 * n)
	text := make([]byte, 0, 2*len(packed))
	for _, b := range packed {
		text = append(text, hexDigits[b>>4], hexDigits[b&15])
	}
	all := string(text)
	for i := 0; i+length <= len(all) && len(values) <= n; i += length {
		values = append(values, all[i:i+length])
		if length == 0 {
			f.fail("value length")
			break
		}
	}
	return values
}

func decodePresence(codes []uint32, bits []byte, rows int) []uint32 {
	next := uint32(0)
	for row := range rows {
		if row>>3 < len(bits) && bits[row>>3]>>(row&7)&1 != 0 {
			next++
			codes = append(codes, next)
		} else {
			codes = append(codes, 0)
		}
	}
	return codes
}

func joinPlanes(codes []uint32, planes []byte, n int) []uint32 {
	rows := len(planes) / n
	for row := range rows {
		code := uint32(planes[row])
		for p := 1; p < n; p++ {
			code |= uint32(planes[p*rows+row]) << (8 * p)
		}
		codes = append(codes, code)
	}
	return codes
}
