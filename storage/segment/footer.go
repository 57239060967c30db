package segment

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/skaldlog/skald/internal/model"
)

// The footer says what the segment is and where its sections are. Raw bytes of its frame:
//
//	id           string      uvarint length, bytes
//	tenant       string
//	level        uvarint
//	merged from  uvarint     ids, then their lengths and bytes
//	streams, blocks, rows, line bytes   uvarints
//	first time   varint      of all rows
//	last time    uvarint     minus first time
//	stream table, block index   uvarints: the sections' bytes
//
// The sections lie end to end: stream table, block index, footer, trailer.
type footer struct {
	id                  string
	tenant              string
	level               int
	mergedFrom          []string
	streams, blocks     int
	rows, rawBytes      int64
	minTime, maxTime    int64
	streamsLen          int
	indexLen, footerLen int

	// Derived from the lengths and the file's size.
	streamsOffset, indexOffset, footerOffset int64
}

func (t *footer) append(dst []byte) []byte {
	dst = appendString(dst, t.id)
	dst = appendString(dst, t.tenant)
	dst = binary.AppendUvarint(dst, uint64(t.level))
	dst = binary.AppendUvarint(dst, uint64(len(t.mergedFrom)))
	dst = appendStrings(dst, t.mergedFrom)
	for _, n := range []int64{int64(t.streams), int64(t.blocks), t.rows, t.rawBytes} {
		dst = binary.AppendUvarint(dst, uint64(n))
	}
	dst = binary.AppendVarint(dst, t.minTime)
	dst = binary.AppendUvarint(dst, uint64(t.maxTime)-uint64(t.minTime))
	dst = binary.AppendUvarint(dst, uint64(t.streamsLen))
	return binary.AppendUvarint(dst, uint64(t.indexLen))
}

func decodeFooter(raw []byte, footerLen int, fileSize int64) (*footer, error) {
	f := fields{b: raw}
	t := &footer{footerLen: footerLen}
	t.id = f.string(256, "id")
	t.tenant = f.string(model.MaxTenantLength, "tenant")
	t.level = int(f.upTo(255, "level"))
	t.mergedFrom = f.strings(f.count(1, "sources"), "source")
	t.streams = int(f.upTo(1<<31, "streams"))
	t.blocks = int(f.upTo(1<<31, "blocks"))
	t.rows = int64(f.upTo(1<<40, "rows"))
	t.rawBytes = int64(f.upTo(1<<50, "line bytes"))
	t.minTime = f.varint()
	t.maxTime = t.minTime + int64(f.uvarint())
	t.streamsLen = int(f.upTo(uint64(fileSize), "stream table"))
	t.indexLen = int(f.upTo(uint64(fileSize), "block index"))
	if err := f.done(); err != nil {
		return nil, err
	}
	t.footerOffset = fileSize - trailerSize - int64(footerLen)
	t.indexOffset = t.footerOffset - int64(t.indexLen)
	t.streamsOffset = t.indexOffset - int64(t.streamsLen)
	switch {
	case t.streamsOffset < int64(len(headerMagic)):
		return nil, fmt.Errorf("sections of %d and %d bytes in a file of %d", t.streamsLen, t.indexLen, fileSize)
	case t.maxTime < t.minTime:
		return nil, errors.New("time runs backwards")
	}
	return t, nil
}

// appendTrailer appends the last bytes of a file, from which all else is found:
//
//	footer length u32 | file size u64 | version u32 | CRC-32C of the bytes before u32 | magic 8 bytes
func appendTrailer(dst []byte, footerLen int, fileSize int64) []byte {
	start := len(dst)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(footerLen))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(fileSize))
	dst = binary.LittleEndian.AppendUint32(dst, Version)
	dst = binary.LittleEndian.AppendUint32(dst, checksum(place{}, dst[start:]))
	return append(dst, trailerMagic...)
}

// decodeTrailer returns the length of the footer.
func decodeTrailer(b []byte, fileSize int64) (n int, err error) {
	if string(b[20:]) != trailerMagic {
		return 0, fmt.Errorf("ends with %q, want %q: not a segment, or cut short", b[20:], trailerMagic)
	}
	want, got := binary.LittleEndian.Uint32(b[16:]), checksum(place{}, b[:16])
	if got != want {
		return 0, fmt.Errorf("%w: got %08x, want %08x", errChecksum, got, want)
	}
	if version := binary.LittleEndian.Uint32(b[12:]); version != Version {
		return 0, fmt.Errorf("format version %d, this program reads version %d", version, Version)
	}
	if size := binary.LittleEndian.Uint64(b[4:]); size != uint64(fileSize) {
		return 0, fmt.Errorf("the file has %d bytes, want %d", fileSize, size)
	}
	n = int(binary.LittleEndian.Uint32(b))
	if int64(n) > fileSize-int64(len(headerMagic))-trailerSize {
		return 0, fmt.Errorf("footer of %d bytes in a file of %d", n, fileSize)
	}
	return n, nil
}

// Info describes a segment.
type Info struct {
	ID         string
	Tenant     model.Tenant
	Level      int
	MergedFrom []string
	// MinTime and MaxTime are the first and last timestamp; both are 0 without rows.
	MinTime, MaxTime int64
	Rows             int64
	RawBytes         int64 // of all lines, uncompressed
	Streams, Blocks  int
	Size             int64 // of the file
	IDs              IDPages
}

func (t *footer) info(x *index) Info {
	return Info{ID: t.id, Tenant: model.Tenant(t.tenant), Level: t.level, MergedFrom: t.mergedFrom,
		MinTime: t.minTime, MaxTime: t.maxTime, Rows: t.rows, RawBytes: t.rawBytes,
		Streams: t.streams, Blocks: t.blocks, Size: t.footerOffset + int64(t.footerLen) + trailerSize, IDs: x.wholeTable(t.blocks)}
}
