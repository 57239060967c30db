package model

// Forgetter is a Block that can give back the memory of its columns and read them again. One
// that wraps another passes it on with Forget.
type Forgetter interface{ Forget() }

// Forget has a block give back the memory of the columns that were read, if it can read them
// again from nearby. Slices that it returned are no longer valid.
func Forget(b Block) {
	if f, ok := b.(Forgetter); ok {
		f.Forget()
	}
}
