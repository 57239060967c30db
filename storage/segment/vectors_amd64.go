package segment

import "golang.org/x/sys/cpu"

// haveVectors is whether the functions below work on this processor.
var haveVectors = cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512DQ && cpu.X86.HasBMI2

// lineMinima writes to found the hashes of the minima of those windows of a line that end with one of its
// first so many grams, at least four and at most vectorGrams, and returns how many they are. A minimum that
// is the window's before is not written again. There must be room for grams+vectorSize hashes.
//
//go:noescape
func lineMinima(found *uint64, line *byte, n, grams int) int

// mixKeys makes keys of n hashes, as gramKey does. Both have room for n rounded up to vectorSize.
//
//go:noescape
func mixKeys(keys *uint32, found *uint64, n int)

// classify sets the bits of lineClasses for n bytes of text, at least one, and returns a number other than
// zero when one of them may begin a token. What remains of the last words becomes zero.
//
//go:noescape
func classify(digits, ids *uint64, text *byte, n int) (tokens uint64)
