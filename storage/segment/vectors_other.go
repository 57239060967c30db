//go:build !amd64

package segment

// There are no vectors: what these would do is done otherwise.
var haveVectors = false

func lineMinima(*uint64, *byte, int, int) int { panic("segment: no vectors") }

func mixKeys(*uint32, *uint64, int) { panic("segment: no vectors") }

func classify(_, _ *uint64, _ *byte, _ int) uint64 { panic("segment: no vectors") }
