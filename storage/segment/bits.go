package segment

import "math/bits"

// bitWriter appends bits to bytes, least significant first.
type bitWriter struct {
	b    []byte
	acc  uint64
	have uint
}

// put appends the n low bits of v, which has no others; n is at most 32.
func (w *bitWriter) put(v uint64, n uint) {
	w.acc |= v << w.have
	for w.have += n; w.have >= 8; w.have -= 8 {
		w.b = append(w.b, byte(w.acc))
		w.acc >>= 8
	}
}

// zeros appends n zeros and a one.
func (w *bitWriter) zeros(n uint64) {
	for ; n >= 32; n -= 32 {
		w.put(0, 32)
	}
	w.put(1<<n, uint(n)+1)
}

// end pads to a byte and returns the bytes.
func (w *bitWriter) end() []byte {
	if w.have > 0 {
		w.b = append(w.b, byte(w.acc))
	}
	return w.b
}

// bitReader reads what a bitWriter wrote.
type bitReader struct {
	b    []byte
	acc  uint64
	have uint
	bad  bool // there were fewer bits
}

func (r *bitReader) fill() {
	for r.have <= 56 && len(r.b) > 0 {
		r.acc |= uint64(r.b[0]) << r.have
		r.b = r.b[1:]
		r.have += 8
	}
}

func (r *bitReader) take(n uint) uint64 {
	if r.fill(); r.have < n {
		r.bad = true
		return 0
	}
	v := r.acc & (1<<n - 1)
	r.acc >>= n
	r.have -= n
	return v
}

// zeros reads zeros up to a one, and returns how many.
func (r *bitReader) zeros() (n uint64) {
	for {
		r.fill()
		if r.acc != 0 {
			k := uint(bits.TrailingZeros64(r.acc))
			r.acc >>= k + 1
			r.have -= k + 1
			return n + uint64(k)
		}
		if r.have == 0 {
			r.bad = true
			return 0
		}
		n += uint64(r.have)
		r.have = 0
	}
}
