package pipeline

import "github.com/skaldlog/skald/internal/packed"

// FilterBatch applies the leading line filters to rows of a block. Row i's line is
// buf[offsets[i]:offsets[i+1]]; sel are the rows to look at, in increasing order. It
// returns the rows that pass, in sel's memory. For these ProcessRest goes on.
//
// Where rows stand side by side, a text is searched for in all their lines with one sweep
// over the buffer; a hit is mapped to its row by the offsets, and the sweep goes on
// behind that row. A hit that straddles two lines is none. This is several times faster
// than one search per line, because lines are short and matches are mostly rare.
func (p *Pipeline) FilterBatch(buf []byte, offsets, sel []uint32) []uint32 {
	if p.lead == nil {
		return sel
	}
	for _, t := range p.lead.tests {
		if len(sel) == 0 {
			break
		}
		sel = filterRows(t, buf, offsets, sel)
	}
	return sel
}

// filterRows keeps the rows that pass a test, in sel's memory.
func filterRows(t lineTest, buf []byte, offsets, sel []uint32) []uint32 {
	keep := true
	if n, ok := t.(not); ok {
		t, keep = n.lineTest, false
	}
	switch f := t.(type) {
	case *contains:
		if f.slow {
			break
		}
		return sweepRows(f, keep, buf, offsets, sel)
	case *anyText:
		if f.common != nil && keep {
			sel = sweepRows(f.common, true, buf, offsets, sel)
		}
	case *sequence:
		if need := f.rarest(); need != nil && keep {
			sel = sweepRows(need, true, buf, offsets, sel)
		}
	case *regexpTest:
		if need, ok := f.need.(*contains); ok && keep && !need.slow {
			sel = sweepRows(need, true, buf, offsets, sel)
			for _, c := range f.also {
				sel = sweepRows(c, true, buf, offsets, sel)
			}
			return filterEach(f.exact(), keep, buf, offsets, sel)
		}
	}
	return filterEach(t, keep, buf, offsets, sel)
}

// filterEach tests row by row.
func filterEach(t lineTest, keep bool, buf []byte, offsets, sel []uint32) []uint32 {
	out := sel[:0]
	for _, i := range sel {
		if t.match(buf[offsets[i]:offsets[i+1]]) == keep {
			out = append(out, i)
		}
	}
	return out
}

// minSweep is the number of neighbouring rows from which a sweep pays.
const minSweep = 4

// sweepRows keeps the rows whose line contains a text, or, unless keep is set, those
// whose line does not.
func sweepRows(f *contains, keep bool, buf []byte, offsets, sel []uint32) []uint32 {
	out := sel[:0]
	for len(sel) > 0 {
		n := neighbours(sel)
		run := sel[:n]
		sel = sel[n:]
		if n < minSweep {
			out = append(out, filterEach(f, keep, buf, offsets, run)...)
			continue
		}
		first, last := run[0], run[n-1]
		out = f.sweep(out, keep, buf, offsets, first, last+1)
	}
	return out
}

// neighbours returns the length of the longest prefix of sel without a gap.
func neighbours(sel []uint32) int {
	// Most often there is no gap at all.
	if n := len(sel); sel[n-1]-sel[0] == uint32(n-1) {
		return n
	}
	n := 1
	for n < len(sel) && sel[n] == sel[n-1]+1 {
		n++
	}
	return n
}

// sweep appends those of the rows [row, end) that contain the text, or those that do not.
func (f *contains) sweep(out []uint32, keep bool, buf []byte, offsets []uint32, row, end uint32) []uint32 {
	pos := int(offsets[row])
	buf = buf[:offsets[end]]
	c := cursor{lower: -1, upper: -1}
	for row < end {
		hit := f.next(buf, pos, &c)
		if hit < 0 {
			break
		}
		next := rowAt(offsets, row, end, uint32(hit))
		certain := !f.verbatim || packed.Verbatim(buf[offsets[next]:], hit-int(offsets[next]))
		if !keep {
			for ; row < next; row++ {
				out = append(out, row)
			}
		}
		row = next
		after := int(offsets[row+1])
		if hit+len(f.needle) > after || !certain {
			// The hit runs over the end of the line, or may be part of a token; there may be
			// another one behind it.
			pos = hit + 1
			continue
		}
		if keep {
			out = append(out, row)
		}
		row++
		pos = after
	}
	if !keep {
		for ; row < end; row++ {
			out = append(out, row)
		}
	}
	return out
}

// rowAt returns the row in [row, end) whose line holds position pos. The search gallops
// from row, since hits come in order.
func rowAt(offsets []uint32, row, end, pos uint32) uint32 {
	step := uint32(1)
	for row+step < end && offsets[row+step] <= pos {
		row += step
		step *= 2
	}
	for ; step > 0; step /= 2 {
		if row+step < end && offsets[row+step] <= pos {
			row += step
		}
	}
	return row
}
