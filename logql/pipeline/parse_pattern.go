package pipeline

import (
	"bytes"

	"github.com/skaldlog/skald/logql/syntax"
)

// patternParser is | pattern "…".
type patternParser struct {
	prefix []byte // a literal at the very start of the line
	parts  []patternCapture
}

// patternCapture is a capture and the literal that ends it; without one it takes the
// rest of the line.
type patternCapture struct {
	slot int // -1 for a capture that is not kept
	end  []byte
}

func newPatternParser(c *compiler, pattern string) (*patternParser, error) {
	parts, err := syntax.ParseExtractPattern(pattern)
	if err != nil {
		return nil, err
	}
	p := &patternParser{}
	if parts[0].Name == "" {
		p.prefix = []byte(parts[0].Literal)
		parts = parts[1:]
	}
	for i := 0; i < len(parts); i += 2 {
		pc := patternCapture{slot: -1}
		if name := parts[i].Name; name != "_" {
			pc.slot = c.slot(name)
		}
		if i+1 < len(parts) {
			pc.end = []byte(parts[i+1].Literal)
		}
		p.parts = append(p.parts, pc)
	}
	return p, nil
}

func (p *patternParser) process(r *row, line []byte) ([]byte, bool) {
	if r.skipParsing() || len(line) == 0 || !bytes.HasPrefix(line, p.prefix) {
		return line, true
	}
	rest := line[len(p.prefix):]
	for _, c := range p.parts {
		value, after, found := rest, []byte(nil), false
		if c.end != nil {
			value, after, found = bytes.Cut(rest, c.end)
		}
		if c.slot >= 0 {
			sym := r.target(r.sh.slots[c.slot])
			if sym.want && !r.extracted(sym) && !r.extract(sym, view(value)) {
				return line, false
			}
		}
		if !found {
			break
		}
		rest = after
	}
	return line, true
}
