package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"strconv"
	"sync"

	"github.com/golang/snappy"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"

	"github.com/skaldlog/skald/internal/cores"
)

// Codec says how a frame's bytes are compressed.
type Codec uint8

// The codecs. CodecDefault is what a zero WriterOptions asks for; it never stands in a file.
const (
	CodecDefault Codec = 0
	CodecNone    Codec = 1
	CodecZstd    Codec = 2
	CodecSnappy  Codec = 3
	CodecS2      Codec = 4
	CodecFields  Codec = 5 // for lines only: zstd after taking out timestamps and ids
)

var codecNames = map[Codec]string{CodecNone: "none", CodecZstd: "zstd", CodecSnappy: "snappy", CodecS2: "s2", CodecFields: "fields"}

func (c Codec) String() string {
	if s, ok := codecNames[c]; ok {
		return s
	}
	return "codec " + strconv.Itoa(int(c))
}

// ZstdLevel trades CPU for size. The zero value is ZstdFastest.
type ZstdLevel uint8

// The levels, with what they cost on logs that are rich in random ids.
const (
	ZstdFastest ZstdLevel = iota // for flushing: lines become about as small as with zstd -3
	ZstdDefault                  // twice the CPU, hardly smaller
	ZstdBetter                   // three times the CPU, a twelfth smaller; for compaction
	ZstdBest                     // ten times the CPU
)

var encoderLevels = [...]zstd.EncoderLevel{ZstdDefault: zstd.SpeedDefault, ZstdFastest: zstd.SpeedFastest,
	ZstdBetter: zstd.SpeedBetterCompression, ZstdBest: zstd.SpeedBestCompression}

// encoderWindow is twice what a block's lines take; a larger one compresses no better, and each
// of the encoder's goroutines keeps a history of twice its size.
const encoderWindow = 512 << 10

// An encoder is megabytes of tables and histories, so all writers of a level share one; it
// works for as many goroutines at a time as there are processors.
var encoders [len(encoderLevels)]struct {
	once sync.Once
	enc  *zstd.Encoder
}

func encoder(level ZstdLevel) *zstd.Encoder {
	e := &encoders[level]
	e.once.Do(func() {
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(encoderLevels[level]),
			zstd.WithWindowSize(encoderWindow), zstd.WithEncoderConcurrency(cores.Count()), zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true), zstd.WithZeroFrames(true))
		if err != nil {
			panic("segment: zstd options: " + err.Error()) // constant options
		}
		e.enc = enc
	})
	return e.enc
}

var decoder = sync.OnceValue(func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderMaxMemory(maxSectionBytes))
	if err != nil {
		panic("segment: zstd options: " + err.Error()) // constant options
	}
	return d
})

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is the CRC-32C of the place (9 bytes) and then of the frame's bytes.
func checksum(at place, p []byte) uint32 {
	var pre [9]byte
	pre[0] = byte(at.kind)
	binary.LittleEndian.PutUint32(pre[1:], at.block)
	binary.LittleEndian.PutUint32(pre[5:], at.ordinal)
	return crc32.Update(crc32.Update(0, castagnoli, pre[:]), castagnoli, p)
}

// compression is a codec with its level.
type compression struct {
	codec Codec
	level ZstdLevel
	small bool // of a column in which there may be nothing to match
}

// appendFrame appends raw as a frame:
//
//	codec u8 | length of raw uvarint | compressed bytes | CRC-32C u32
//
// What does not shrink is stored as it is.
func appendFrame(dst []byte, at place, c compression, raw []byte) []byte {
	start := len(dst)
	dst = append(dst, byte(c.codec))
	dst = binary.AppendUvarint(dst, uint64(len(raw)))
	body := len(dst)
	dst = c.append(dst, raw)
	if len(dst)-body >= len(raw) {
		dst[start] = byte(CodecNone)
		dst = append(dst[:body], raw...)
	}
	return binary.LittleEndian.AppendUint32(dst, checksum(at, dst[start:]))
}

func (c compression) append(dst, raw []byte) []byte {
	switch c.codec {
	case CodecZstd:
		if c.small {
			if out, ok := appendLiterals(dst, raw); ok {
				return out
			}
		}
		return encoder(c.level).EncodeAll(raw, dst)
	case CodecSnappy:
		return appendEncoded(dst, raw, snappy.MaxEncodedLen(len(raw)), snappy.Encode)
	case CodecS2:
		return appendEncoded(dst, raw, s2.MaxEncodedLen(len(raw)), s2.Encode)
	}
	return append(dst, raw...)
}

func appendEncoded(dst, raw []byte, most int, encode func(dst, src []byte) []byte) []byte {
	n := len(dst)
	dst = grow(dst, most)
	return dst[:n+len(encode(dst[n:n+most], raw))]
}

// grow returns b with room for n more bytes.
func grow(b []byte, n int) []byte {
	if cap(b)-len(b) >= n {
		return b
	}
	bigger := make([]byte, len(b), len(b)+n+len(b)/4)
	copy(bigger, b)
	return bigger
}

// Errors of frames; callers add where.
var (
	errShort    = errors.New("too short")
	errChecksum = errors.New("checksum mismatch")
)

// checkFrame verifies a whole frame and returns its codec, raw length and compressed bytes.
func checkFrame(frame []byte, at place, most int) (Codec, int, []byte, error) {
	if len(frame) < 1+1+4 {
		return 0, 0, nil, fmt.Errorf("%w: %d bytes", errShort, len(frame))
	}
	end := len(frame) - 4
	want, got := binary.LittleEndian.Uint32(frame[end:]), checksum(at, frame[:end])
	if got != want {
		return 0, 0, nil, fmt.Errorf("%w: got %08x, want %08x", errChecksum, got, want)
	}
	n, used := binary.Uvarint(frame[1:end])
	if used <= 0 {
		return 0, 0, nil, errors.New("bad length")
	}
	if n > uint64(most) || n > math.MaxInt32 {
		return 0, 0, nil, fmt.Errorf("says it decodes to %d bytes, at most %d are allowed", n, most)
	}
	return Codec(frame[0]), int(n), frame[1+used : end], nil
}

// openFrame verifies a frame and appends its raw bytes to dst, whose array is used when
// it is large enough. most bounds the raw length.
func openFrame(dst, frame []byte, at place, most int) ([]byte, error) {
	codec, n, body, err := checkFrame(frame, at, most)
	if err != nil {
		return nil, err
	}
	return decompress(dst, codec, n, body)
}

// decompress appends the n raw bytes of body to dst.
func decompress(dst []byte, codec Codec, n int, body []byte) ([]byte, error) {
	if err := plausible(codec, n, body); err != nil {
		return nil, err
	}
	start := len(dst)
	dst = grow(dst, n)
	var err error
	switch codec {
	case CodecNone:
		dst = append(dst, body...)
	case CodecZstd:
		dst, err = decoder().DecodeAll(body, dst)
	case CodecSnappy, CodecS2:
		// s2 reads both; the codec byte tells other readers which they need.
		_, err = s2.Decode(dst[start:start+n], body)
		dst = dst[:start+n]
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", codec, err)
	}
	if got := len(dst) - start; got != n {
		return nil, fmt.Errorf("%s: decoded %d bytes, want %d", codec, got, n)
	}
	return dst, nil
}

// plausible compares the length that a frame claims with what its codec's own header
// says, before memory is allocated for it.
func plausible(codec Codec, n int, body []byte) error {
	claimed := uint64(len(body))
	switch codec {
	case CodecNone:
	case CodecZstd:
		var h zstd.Header
		if err := h.Decode(body); err != nil {
			return fmt.Errorf("zstd: %w", err)
		}
		if !h.HasFCS {
			return errors.New("zstd: frame without content size")
		}
		claimed = h.FrameContentSize
	case CodecSnappy, CodecS2:
		l, err := s2.DecodedLen(body)
		if err != nil {
			return fmt.Errorf("%s: %w", codec, err)
		}
		claimed = uint64(l)
	default:
		return fmt.Errorf("unknown %s", codec)
	}
	if claimed != uint64(n) {
		return fmt.Errorf("%s: %d bytes, want %d", codec, claimed, n)
	}
	return nil
}

// appendPacked appends raw, compressed, as a part of a larger column or section:
//
//	codec u8 | length of raw uvarint | length of compressed uvarint | compressed bytes
//
// The frame around it carries the checksum.
func appendPacked(dst []byte, c compression, raw []byte) []byte {
	buf := scratchPool.Get().(*[]byte)
	defer scratchPool.Put(buf)
	packed := c.append((*buf)[:0], raw)
	*buf = packed
	if len(packed) >= len(raw) {
		c.codec, packed = CodecNone, raw
	}
	dst = append(dst, byte(c.codec))
	dst = binary.AppendUvarint(dst, uint64(len(raw)))
	dst = binary.AppendUvarint(dst, uint64(len(packed)))
	return append(dst, packed...)
}

var scratchPool = sync.Pool{New: func() any { return new([]byte) }}

// packed reads what appendPacked wrote and appends the raw bytes to dst.
func (f *fields) packed(dst []byte, most int) []byte {
	codec := Codec(f.byte())
	n := int(f.upTo(uint64(most), "packed length"))
	body := f.bytes(int(f.upTo(uint64(len(f.b)), "compressed length")))
	if f.err != nil {
		return dst
	}
	out, err := decompress(dst, codec, n, body)
	if err != nil {
		f.err = err
		return dst
	}
	return out
}
