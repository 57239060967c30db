//go:build !amd64

package segment

// There are no vectors: keys are found by addPieces.
const haveVectors = false

func lineMinima(*uint64, *byte, int, int) int { panic("segment: no vectors") }

func mixKeys(*uint32, *uint64, int) { panic("segment: no vectors") }
