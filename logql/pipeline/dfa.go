package pipeline

import (
	"encoding/binary"
	"regexp"
	"regexp/syntax"
	"slices"
	"unicode/utf8"
)

// dfa decides whether a regular expression matches somewhere in a line. It follows all
// ways through the compiled program at once; a state is the set of instructions to go on
// with. States and their transitions are made when they are first needed and kept, so
// that most bytes cost one look into a table. This is many times faster than package
// regexp, which finds out where a match is.
//
// Instructions are kept in front of assertions such as ^ or \b, and a state knows what
// kind of character came before it: whether an assertion holds is decided together with
// the next character, when both sides are known. For the same reason a match is noticed
// one character late, or at the end of the line.
//
// ASCII has a table in each state. Other characters are decoded as package regexp does,
// invalid bytes being U+FFFD; a state remembers some of them.
type dfa struct {
	prog   *syntax.Prog
	states map[string]*dfaState
	start  *dfaState
	// flushes counts how often the states had to be thrown away.
	flushes int
	slow    *regexp.Regexp

	todo, set []uint32 // scratch: instructions to look at, and the resulting set
	seen      []uint32 // by instruction: the mark of the closure that last met it
	mark      uint32
	key       []byte
}

// dfaState is a set of instructions before which a character of some kind stands.
type dfaState struct {
	set  []uint32
	prev rune // stands for its kind: -1 at the beginning, '\n', 'a' for words, ' '
	next [utf8.RuneSelf]*dfaState
	wide map[rune]*dfaState // at most maxDFAWide
}

// dfaMatch is the state of a line that matches whatever follows.
var dfaMatch = &dfaState{}

const (
	// maxDFAProg bounds the program; larger ones have more states than can be kept.
	maxDFAProg = 1000
	// maxDFAStates bounds the states that are kept, of about a kilobyte each.
	maxDFAStates = 1000
	// maxDFAWide bounds the characters beyond ASCII that a state remembers.
	maxDFAWide = 64
	// maxDFAFlushes is after how many rounds of throwing states away the expression is
	// left to package regexp.
	maxDFAFlushes = 16
)

// newDFA returns nil when the expression is too large.
func newDFA(tree *syntax.Regexp, re *regexp.Regexp) *dfa {
	prog, err := syntax.Compile(tree)
	if err != nil || len(prog.Inst) > maxDFAProg {
		return nil
	}
	d := &dfa{prog: prog, slow: re, seen: make([]uint32, len(prog.Inst))}
	d.reset()
	return d
}

func (d *dfa) reset() {
	d.states = map[string]*dfaState{}
	d.set = append(d.set[:0], uint32(d.prog.Start))
	d.start = d.state(-1)
}

func (d *dfa) match(line []byte) bool {
	if d.flushes > maxDFAFlushes {
		return d.slow.Match(line)
	}
	s := d.start
	for i := 0; i < len(line); {
		c := line[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRune(line[i:])
			i += n
			s = d.wide(s, r)
		} else {
			i++
			next := s.next[c]
			if next == nil {
				next = d.step(s, rune(c))
				// The state may have been thrown away meanwhile; that does no harm.
				s.next[c] = next
			}
			s = next
		}
		if s == dfaMatch {
			return true
		}
	}
	return d.closure(s, -1)
}

// wide returns the state after s and a character that has no table.
func (d *dfa) wide(s *dfaState, c rune) *dfaState {
	next, ok := s.wide[c]
	if !ok {
		next = d.step(s, c)
		if s.wide == nil {
			s.wide = map[rune]*dfaState{}
		}
		if len(s.wide) < maxDFAWide {
			s.wide[c] = next
		}
	}
	return next
}

// step returns the state after s and a character.
func (d *dfa) step(s *dfaState, c rune) *dfaState {
	if d.closure(s, c) {
		return dfaMatch
	}
	reached := d.todo[:0]
	for _, pc := range d.set {
		if in := &d.prog.Inst[pc]; consumes(in, c) {
			reached = append(reached, in.Out)
		}
	}
	// A match may also begin behind the character.
	reached = append(reached, uint32(d.prog.Start))
	slices.Sort(reached)
	d.todo = reached
	d.set = append(d.set[:0], slices.Compact(reached)...)
	if len(d.states) >= maxDFAStates {
		d.flushes++
		set := slices.Clone(d.set)
		d.reset()
		d.set = append(d.set[:0], set...)
	}
	return d.state(kindOf(c))
}

func consumes(in *syntax.Inst, c rune) bool {
	switch in.Op {
	case syntax.InstRune:
		return in.MatchRune(c)
	case syntax.InstRune1:
		return c == in.Rune[0]
	case syntax.InstRuneAny:
		return true
	case syntax.InstRuneAnyNotNL:
		return c != '\n'
	}
	return false
}

// kindOf returns the character that stands for c's kind, as assertions see it.
func kindOf(c rune) rune {
	switch {
	case c == '\n':
		return '\n'
	case syntax.IsWordChar(c):
		return 'a'
	}
	return ' '
}

// closure leaves in d.set the instructions that consume a character, reachable from s when
// c, or the end for -1, comes next. It returns whether a match is reachable.
func (d *dfa) closure(s *dfaState, c rune) bool {
	holds := syntax.EmptyOpContext(s.prev, c)
	d.mark++
	d.set = d.set[:0]
	todo := append(d.todo[:0], s.set...)
	for len(todo) > 0 {
		pc := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if d.seen[pc] == d.mark {
			continue
		}
		d.seen[pc] = d.mark
		in := &d.prog.Inst[pc]
		switch in.Op {
		case syntax.InstMatch:
			d.todo = todo
			return true
		case syntax.InstAlt, syntax.InstAltMatch:
			todo = append(todo, in.Out, in.Arg)
		case syntax.InstCapture, syntax.InstNop:
			todo = append(todo, in.Out)
		case syntax.InstEmptyWidth:
			if syntax.EmptyOp(in.Arg)&^holds == 0 {
				todo = append(todo, in.Out)
			}
		case syntax.InstFail:
		default:
			d.set = append(d.set, pc)
		}
	}
	d.todo = todo
	return false
}

// state returns the state for d.set, sorted, behind a character of a kind.
func (d *dfa) state(prev rune) *dfaState {
	d.key = append(d.key[:0], byte(prev))
	for _, pc := range d.set {
		d.key = binary.LittleEndian.AppendUint16(d.key, uint16(pc))
	}
	s, ok := d.states[string(d.key)]
	if !ok {
		s = &dfaState{set: slices.Clone(d.set), prev: prev}
		d.states[string(d.key)] = s
	}
	return s
}
