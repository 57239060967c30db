package wire

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"mime"
	"sync"

	"github.com/golang/snappy"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/skaldlog/skald/internal/fault"
)

// Body is a request's body and what its headers say about it.
type Body struct {
	ContentType     string
	ContentEncoding string
	Length          int64 // Content-Length, negative when unknown
	Legacy          bool  // JSON is that of /api/prom/push
	Reader          io.Reader
	// Reserve is asked before memory is taken; its error ends decoding and is returned.
	// What was reserved is the caller's to give back, after Batch.Release. Nil allows all.
	Reserve func(bytes int64) error
	// InTurn runs the work on the body when it has arrived, with the bytes that came, and
	// returns its error; another one ends decoding and is returned. Nil runs it at once.
	InTurn func(bytes int, work func() error) error
}

// Decoder decodes pushes. It is safe for concurrent use.
type Decoder struct {
	maxCompressed, maxDecompressed int64
	labels                         *labelParser
}

// MaxLabelText is the longest text of one stream's labels.
const MaxLabelText = 16 << 20

// NewDecoder returns a decoder for bodies of at most maxCompressed bytes as received and
// maxDecompressed bytes when unpacked, which remembers parsed labels in about cacheBytes.
func NewDecoder(maxCompressed, maxDecompressed int64, cacheBytes int) *Decoder {
	return &Decoder{
		maxCompressed: maxCompressed, maxDecompressed: maxDecompressed,
		labels: newLabelParser(cacheBytes, MaxLabelText),
	}
}

// Push decodes a push in Loki's formats. The caller must Release the batch.
func (d *Decoder) Push(body Body) (*Batch, error) {
	media, _, err := mime.ParseMediaType(body.ContentType)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	if body.ContentEncoding == "snappy" {
		body.ContentEncoding = "" // it means the format
	}
	b, err := newBatch(body.Reserve)
	if err != nil {
		return nil, err
	}
	if media == "application/json" {
		err = d.receive(b, &b.body, body, tooLargeJSON, func() error {
			if err := d.unpack(b, &b.body, body, unpackPush); err != nil {
				return err
			}
			return d.pushJSON(b, body.Legacy)
		})
	} else {
		err = d.receive(b, &b.raw, body, tooLargeProto, func() error {
			if err := d.unpack(b, &b.raw, body, unpackPush); err != nil {
				return err
			}
			if err := d.unpackSnappy(b); err != nil {
				return err
			}
			return d.pushProto(b)
		})
	}
	if err != nil {
		b.Release()
		return nil, err
	}
	b.finish()
	return b, nil
}

// unpackSnappy unpacks the snappy block b.raw into b.body.
func (d *Decoder) unpackSnappy(b *Batch) error {
	size, err := snappy.DecodedLen(b.raw)
	if err != nil {
		return fault.Wrap(fault.Invalid, err)
	}
	if int64(size) > d.maxDecompressed {
		return tooLargeDecompressed(int64(size), d.maxDecompressed)
	}
	// The densest element of the format makes 64 bytes of 3. A block that declares more
	// than that cannot be whole, and must not make us allocate.
	if size/22 > len(b.raw) {
		return fault.Wrap(fault.Invalid, snappy.ErrCorrupt)
	}
	if b.body, err = b.room(b.body, size); err != nil {
		return err
	}
	if b.body, err = snappy.Decode(b.body[:size], b.raw); err != nil {
		return fault.Wrap(fault.Invalid, err)
	}
	b.snappy = true
	return nil
}

func tooLargeJSON(n, most int64) error {
	return fault.New(fault.Invalid, "compressed message size %d exceeds limit %d", n, most)
}

func tooLargeProto(n, most int64) error {
	return fault.New(fault.TooLarge, "request body too large: message size too large than max (%d vs %d)", n, most)
}

func tooLargeDecompressed(n, most int64) error {
	return fault.New(fault.Invalid, "decompressed message size too large than max (%d vs %d)", n, most)
}

// receive reads the body as it was sent, to b.packed when it has a Content-Encoding and to buf
// when it has none, and has decode go on from there. tooLarge makes the error for a body of n
// bytes or more where most are allowed.
func (d *Decoder) receive(b *Batch, buf *[]byte, body Body, tooLarge func(n, most int64) error, decode func() error) error {
	if body.Length > d.maxCompressed {
		return tooLarge(body.Length, d.maxCompressed)
	}
	if body.ContentEncoding != "" {
		buf = &b.packed
	}
	err := b.arrive(buf, body, d.maxCompressed)
	if errors.Is(err, errOverLimit) {
		err = tooLarge(d.maxCompressed+1, d.maxCompressed)
	}
	switch {
	case err != nil:
		return err
	case body.InTurn == nil:
		return decode()
	}
	return body.InTurn(len(*buf), decode)
}

// unpack undoes the Content-Encoding of a body that was received, into buf.
func (d *Decoder) unpack(b *Batch, buf *[]byte, body Body, unpack unpacker) error {
	if body.ContentEncoding == "" {
		return nil
	}
	unpacked, release, err := unpack(bytes.NewReader(b.packed), body.ContentEncoding)
	if err != nil {
		return err
	}
	defer release()
	most := d.maxDecompressed
	*buf, err = b.readAll(*buf, unpacked, 4*int64(len(b.packed)), most)
	switch {
	case errors.Is(err, errOverLimit):
		return tooLargeDecompressed(most+1, most)
	case err != nil && fault.Of(err) == fault.Internal:
		return fault.Wrap(fault.Invalid, err) // the client's bytes
	}
	return err
}

// arrive reads the body as it comes.
func (b *Batch) arrive(buf *[]byte, body Body, most int64) (err error) {
	*buf, err = b.readAll(*buf, body.Reader, body.Length, most)
	if err != nil && !errors.Is(err, errOverLimit) && fault.Of(err) == fault.Internal {
		return fault.Wrap(fault.Invalid, err) // the client broke off
	}
	return err
}

var errOverLimit = errors.New("body too large")

// firstRead bounds what a declared length alone makes us allocate; beyond it the buffer
// doubles as bytes really arrive.
const firstRead = 256 << 10

func (b *Batch) readAll(buf []byte, r io.Reader, hint, most int64) ([]byte, error) {
	buf, err := b.room(buf, int(min(max(hint+1, 4<<10), firstRead)))
	if err != nil {
		return buf, err
	}
	buf = buf[:0]
	for {
		if len(buf) == cap(buf) {
			next, err := b.room(nil, 2*cap(buf))
			if err != nil {
				return buf, err
			}
			buf = append(next[:0], buf...)
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if int64(len(buf)) > most {
			return buf, errOverLimit
		}
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return buf, err
		}
	}
}

// room returns a buffer of n bytes, buf if it is large enough. One that is made has up to an eighth
// more: pushes are of similar sizes, and the next one fits too.
func (b *Batch) room(buf []byte, n int) ([]byte, error) {
	if n <= cap(buf) {
		return buf[:n], nil
	}
	step := 1 << max(0, bits.Len(uint(n))-4)
	size := (n + step - 1) &^ (step - 1)
	if err := b.reserve(int64(size)); err != nil {
		return buf, err
	}
	return make([]byte, n, size), nil
}

var (
	gzipReaders = sync.Pool{New: func() any { return new(gzip.Reader) }}
	zstdReaders = sync.Pool{New: func() any {
		z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(8<<20))
		if err != nil {
			panic(fmt.Sprintf("wire: zstd refuses its options: %v", err))
		}
		return z
	}}
)

// An unpacker undoes a Content-Encoding. release must be called when the reader is no
// longer used.
type unpacker func(r io.Reader, encoding string) (out io.Reader, release func(), err error)

// unpackPush undoes the encodings of /loki/api/v1/push.
func unpackPush(r io.Reader, encoding string) (out io.Reader, release func(), err error) {
	switch encoding {
	case "gzip":
		return unpackGzip(r)
	case "deflate":
		z := flate.NewReader(r)
		return z, func() { _ = z.Close() }, nil
	}
	return nil, nil, fault.New(fault.Invalid, "Content-Encoding %q not supported", encoding)
}

func unpackGzip(r io.Reader) (io.Reader, func(), error) {
	z := gzipReaders.Get().(*gzip.Reader)
	if err := z.Reset(r); err != nil {
		gzipReaders.Put(z)
		return nil, nil, fault.Wrap(fault.Invalid, err)
	}
	return z, func() { gzipReaders.Put(z) }, nil
}

// unpackOTLP undoes the encodings of /otlp/v1/logs.
func unpackOTLP(r io.Reader, encoding string) (out io.Reader, release func(), err error) {
	switch encoding {
	case "gzip":
		return unpackGzip(r)
	case "zstd":
		z := zstdReaders.Get().(*zstd.Decoder)
		if err := z.Reset(r); err != nil {
			zstdReaders.Put(z)
			return nil, nil, fault.Wrap(fault.Invalid, err)
		}
		return z, func() {
			_ = z.Reset(bytes.NewReader(nil))
			zstdReaders.Put(z)
		}, nil
	case "lz4":
		return lz4.NewReader(r), func() {}, nil
	}
	return nil, nil, fault.New(fault.Invalid, "unsupported content encoding %s: only gzip, lz4 and zstd are supported", encoding)
}

// Proto decodes a PushRequest that is not compressed, as gRPC carries it. The batch holds a
// copy of data. The caller must Release the batch.
func (d *Decoder) Proto(data []byte, reserve func(bytes int64) error) (*Batch, error) {
	if int64(len(data)) > d.maxDecompressed {
		return nil, tooLargeDecompressed(int64(len(data)), d.maxDecompressed)
	}
	b, err := newBatch(reserve)
	if err != nil {
		return nil, err
	}
	if b.body, err = b.room(b.body, len(data)); err == nil {
		copy(b.body, data)
		err = d.pushProto(b)
	}
	if err != nil {
		b.Release()
		return nil, err
	}
	b.finish()
	return b, nil
}
