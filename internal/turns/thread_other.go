//go:build !linux

package turns

// lowerPriority does nothing where niceness is the process's.
func lowerPriority() {}
