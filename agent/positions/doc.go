// Package positions remembers how far each file has been delivered. A position is the end
// of what a server has acknowledged, never the end of what was read, so that a kill at any
// instant loses nothing.
//
// # Vocabulary
//
// A Ledger belongs to one generation of a file: the content between its creation, or
// truncation, and its end. What a reader takes in one go is a Span, a range of bytes. Whoever
// keeps text of a span (a batch, a stage that joins lines) retains it and releases it after
// delivery; the ledger's position moves over a span when it and all spans before it are
// released. All methods may be called from many goroutines.
//
// Lines that carry no time of their own get one when they are read. To send the same time
// again after a restart, so that the server sees the repetition, a span's first such time
// (its Base; the i-th line has Base+i) is remembered until the position has passed the span.
//
// # Files
//
// Beside Promtail's positions file NAME.yaml, which is read once and never written, stand
//
//	NAME.skald            the snapshot: a header line with length and CRC-32C, then JSON
//	NAME.skald.prev       the snapshot before it, used when the newest is damaged
//	NAME.skald.journal.N  what happened since the snapshot that names N: one line per event,
//	                      each with its CRC-32C, appended without fsync
//
// A snapshot is written to a temporary file, synced, and renamed. The journal makes a killed
// process repeat no more than what was not acknowledged; after a power failure its tail may
// be missing, and then more is repeated, but nothing is lost.
package positions
