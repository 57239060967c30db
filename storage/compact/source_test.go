package compact

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"testing"
)

type memory struct {
	data  []byte
	reads int
}

func (m *memory) Size() int64  { return int64(len(m.data)) }
func (m *memory) Name() string { return "memory" }
func (m *memory) ReadAt(_ context.Context, p []byte, off int64) error {
	m.reads++
	if off < 0 || off+int64(len(p)) > m.Size() {
		return io.ErrUnexpectedEOF
	}
	copy(p, m.data[off:])
	return nil
}

// Reading ahead gives the same bytes, in fewer reads.
func TestWindow(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	src := &memory{data: make([]byte, 5<<20+123)}
	for i := range src.data {
		src.data[i] = byte(rnd.Uint32())
	}
	w := &window{Source: src}
	read := func(off int64, n int) {
		t.Helper()
		p := make([]byte, n)
		err := w.ReadAt(t.Context(), p, off)
		if inside := off+int64(n) <= src.Size(); (err == nil) != inside {
			t.Fatalf("%d bytes at %d: %v", n, off, err)
		} else if inside && !bytes.Equal(p, src.data[off:off+int64(n)]) {
			t.Fatalf("%d bytes at %d: other bytes", n, off)
		}
	}
	reads := 0
	for off := int64(0); off < src.Size(); reads++ {
		n := min(rnd.Int64N(100_000), src.Size()-off)
		read(off, int(n))
		off += n
	}
	if src.reads > reads/5 {
		t.Errorf("%d reads in order became %d", reads, src.reads)
	}
	for range 1000 {
		read(rnd.Int64N(src.Size()), rnd.IntN(1<<uint(rnd.IntN(22))))
	}
}
