package pipeline

import "unsafe"

// view returns b as a string without copying. The string is valid as long as b's
// content stays as it is.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// bytesOf returns s as a slice without copying. It must not be written to.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
