package tail

import (
	"bytes"

	"golang.org/x/text/encoding"
)

// charset cuts text of some encoding into lines and makes it UTF-8. The zero value is for
// bytes that are passed on as they are.
type charset struct {
	enc   encoding.Encoding
	feed  []byte // a line feed; nil means one byte 0x0A
	marks bool   // the encoding has two byte orders, which a mark at the start of the file tells
}

// newCharset prepares an encoding; nil gives the zero value.
func newCharset(enc encoding.Encoding) charset {
	if enc == nil {
		return charset{}
	}
	c := charset{enc: enc}
	feed, err := enc.NewEncoder().Bytes([]byte("\n"))
	if err != nil {
		return c
	}
	if len(feed) == 4 && (feed[0] == 0xFE || feed[0] == 0xFF) {
		feed, c.marks = feed[2:], true
	}
	if len(feed) > 1 {
		c.feed = feed
	}
	return c
}

// wide reports whether a line feed is more than one byte.
func (c *charset) wide() bool { return len(c.feed) > 1 }

// ordered returns the charset for a file that begins with head.
func (c charset) ordered(head []byte) charset {
	if c.marks && len(head) >= 2 && head[0] == 0xFF && head[1] == 0xFE {
		c.feed = []byte{'\n', 0}
	}
	return c
}

// index returns where the first line feed of b begins, -1 when there is none. b begins at a
// whole character.
func (c *charset) index(b []byte) int {
	if !c.wide() {
		return bytes.IndexByte(b, '\n')
	}
	for from := 0; ; {
		i := bytes.Index(b[from:], c.feed)
		if i < 0 {
			return -1
		}
		if i += from; i%len(c.feed) == 0 {
			return i
		}
		from = i + 1
	}
}

// last returns the end of the last line feed of b, 0 when there is none.
func (c *charset) last(b []byte) int {
	if !c.wide() {
		return bytes.LastIndexByte(b, '\n') + 1
	}
	for end := len(b); ; {
		i := bytes.LastIndex(b[:end], c.feed)
		if i < 0 {
			return 0
		}
		if i%len(c.feed) == 0 {
			return i + len(c.feed)
		}
		end = i + len(c.feed) - 1
	}
}

// width is the size of a line feed in bytes.
func (c *charset) width() int { return max(len(c.feed), 1) }

// utf8 decodes whole lines. What is not valid becomes U+FFFD.
func (c *charset) utf8(b []byte) []byte {
	if c.enc == nil {
		return b
	}
	if c.wide() {
		return c.units(b)
	}
	out, err := c.enc.NewDecoder().Bytes(b)
	if err != nil {
		return b // decoders replace what is invalid; there is nothing better
	}
	return out
}

// units decodes UTF-16, whose byte order is known from the line feed.
func (c *charset) units(b []byte) []byte {
	mark := []byte{0xFE, 0xFF}
	if c.feed[0] == '\n' {
		mark = []byte{0xFF, 0xFE}
	}
	dec := c.enc.NewDecoder()
	if c.marks {
		if !bytes.HasPrefix(b, mark) {
			b = append(mark, b...)
		}
	} else {
		b = bytes.TrimPrefix(b, mark)
	}
	out, err := dec.Bytes(b)
	if err != nil {
		return b
	}
	return bytes.TrimPrefix(out, []byte("\uFEFF"))
}

// offset returns the length of the first n lines of b.
func (c *charset) offset(b []byte, n int) int {
	at := 0
	for range n {
		i := c.index(b[at:])
		if i < 0 {
			return len(b)
		}
		at += i + c.width()
	}
	return at
}
