package pipeline

// FilterBatch applies the leading line filters to rows of a block. Row i's line is
// buf[offsets[i]:offsets[i+1]]; sel are the rows to look at, in increasing order. It
// returns the rows that pass, in sel's memory. For these ProcessRest goes on.
func (p *Pipeline) FilterBatch(buf []byte, offsets, sel []uint32) []uint32 {
	if p.lead == nil {
		return sel
	}
	for _, t := range p.lead.tests {
		out := sel[:0]
		for _, i := range sel {
			if t.match(buf[offsets[i]:offsets[i+1]]) {
				out = append(out, i)
			}
		}
		sel = out
	}
	return sel
}
