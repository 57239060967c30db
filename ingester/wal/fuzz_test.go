package wal

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Whatever bytes a record has, decoding ends without a panic, and what decodes encodes
// and decodes to the same again.
func FuzzRecord(f *testing.F) {
	f.Add(encode(f, "t", stream("a", "hello", "world")))
	f.Add(encode(f, "t", stream("a", string(bytes.Repeat([]byte("pack me "), 200)))))
	streams, a := arrival(rand.New(rand.NewPCG(1, 1)), 100)
	var e Encoder
	arrived, err := e.Encode("t", streams, a)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(bytes.Clone(arrived))
	f.Add([]byte{encodingS2, 5, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Add([]byte{encodingRaw, 8, 1, 'a', 0xff, 0xff, 0xff, 0xff, 0x0f, 0})
	f.Fuzz(func(t *testing.T, body []byte) {
		var d, again decoder
		batch, _, err := d.record(body)
		if err != nil {
			return
		}
		want := flat(batch.Tenant, batch.Streams)
		b, _, err := again.record(encode(t, batch.Tenant, batch.Streams...))
		if err != nil {
			t.Fatalf("what was read cannot be written and read again: %v", err)
		}
		if diff := cmp.Diff(want, flat(b.Tenant, b.Streams)); diff != "" {
			t.Fatalf("differs (-first +second):\n%s", diff)
		}
	})
}

// Whatever a file holds behind its header, reading ends without a panic, and salvage
// finds no less than strict reading.
func FuzzFile(f *testing.F) {
	mark := [markSize]byte{1, 2, 3, 4, 5, 6, 7, 8}
	frame := func(body []byte) []byte {
		b := append([]byte(nil), mark[:]...)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(body)))
		b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(body, castagnoli))
		return append(b, body...)
	}
	one := frame(encode(f, "t", stream("a", "hello", "world")))
	f.Add(one, false)
	f.Add(append(append(bytes.Clone(one), one[:20]...), one...), true)
	f.Add(append(bytes.Clone(one), make([]byte, 100)...), false)
	f.Fuzz(func(t *testing.T, rest []byte, sealed bool) {
		file := append(header(mark), rest...)
		count := func(opts ReadOptions) (n int, err error) {
			_, err = read("fuzz", bytes.NewReader(file), int64(len(file)), opts, func(Batch) error { n++; return nil })
			return n, err
		}
		strict, _ := count(ReadOptions{Sealed: sealed})
		salvaged, _ := count(ReadOptions{Sealed: sealed, Salvage: true})
		if salvaged < strict {
			t.Errorf("salvage read %d batches, strict reading %d", salvaged, strict)
		}
	})
}
