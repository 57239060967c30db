package syslog

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// Framer cuts a stream into messages. How they are told apart shows in the first byte: < for
// messages that end with a line feed, a digit for ones that begin with their length.
type Framer struct {
	r       *bufio.Reader
	buf     []byte
	max     int
	octets  bool
	decided bool
	failed  error // the stream cannot be read any more
}

// NewFramer returns a framer of messages of at most max bytes.
func NewFramer(r io.Reader, max int) *Framer {
	return &Framer{r: bufio.NewReaderSize(r, 4096), max: max}
}

// ErrTooLong says that a message is longer than allowed. The next one can be read.
var ErrTooLong = errors.New("message is longer than max_message_length")

// errFraming says that the stream has no beginning of a message where one should be.
var errFraming = errors.New("want < or a length at the beginning of a message")

// Next returns the next message, valid until the next call. An empty one is possible. After
// ErrTooLong the reader goes on with the message that follows; other errors are final.
func (f *Framer) Next() ([]byte, error) {
	if f.failed != nil {
		return nil, f.failed
	}
	if !f.decided {
		b, err := f.r.Peek(1)
		if err != nil {
			return nil, f.fail(err)
		}
		switch {
		case b[0] == '<':
		case b[0] >= '0' && b[0] <= '9':
			f.octets = true
		default:
			return nil, f.fail(errFraming)
		}
		f.decided = true
	}
	if f.octets {
		return f.counted()
	}
	return f.line()
}

// Buffered returns how many bytes can be read without waiting.
func (f *Framer) Buffered() int { return f.r.Buffered() }

func (f *Framer) fail(err error) error {
	f.failed = err
	return err
}

func (f *Framer) counted() ([]byte, error) {
	n := 0
	for digits := 0; ; digits++ {
		c, err := f.r.ReadByte()
		switch {
		case err != nil:
			if errors.Is(err, io.EOF) && digits > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, f.fail(err)
		case digits == 0 && (c == '\n' || c == '\r'):
			digits-- // some senders end counted messages with a line feed
			continue
		case c == ' ' && digits > 0:
			return f.body(n)
		case c < '0' || c > '9' || digits >= 10:
			return nil, f.fail(fmt.Errorf("%w, got %q", errFraming, c))
		}
		n = 10*n + int(c-'0')
	}
}

func (f *Framer) body(n int) ([]byte, error) {
	if n > f.max {
		if _, err := f.r.Discard(n); err != nil {
			return nil, f.fail(err)
		}
		return nil, ErrTooLong
	}
	if cap(f.buf) < n {
		f.buf = make([]byte, n)
	}
	f.buf = f.buf[:n]
	if _, err := io.ReadFull(f.r, f.buf); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, f.fail(err)
	}
	return f.buf, nil
}

// line reads up to a line feed; the last one may lack it.
func (f *Framer) line() ([]byte, error) {
	f.buf = f.buf[:0]
	long := false
	for {
		part, err := f.r.ReadSlice('\n')
		if len(f.buf)+len(part) > f.max+2 { // the ending does not count
			long = true
			f.buf = f.buf[:0]
		} else if !long {
			f.buf = append(f.buf, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil && (len(f.buf) == 0 || !errors.Is(err, io.EOF)):
			return nil, f.fail(err)
		case err != nil:
			_ = f.fail(err) // after this message
		}
		break
	}
	if f.buf = trimEnd(f.buf); long || len(f.buf) > f.max {
		return nil, ErrTooLong
	}
	return f.buf, nil
}

func trimEnd(b []byte) []byte {
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == '\r' || b[len(b)-1] == 0) {
		b = b[:len(b)-1]
	}
	return b
}

// TrimEnd removes the line feed, carriage return or zero byte at the end of a datagram.
func TrimEnd(b []byte) []byte { return trimEnd(b) }
