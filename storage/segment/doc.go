// Package segment is the one file format in which Skald keeps logs, from the
// ingester's disk to the object store: it writes, reads, merges, verifies and prints
// segment files.
//
// A segment holds the rows of one tenant, sorted by stream (labels.Compare), then by
// time, then by order of arrival, each row once. The ingester writes one when a
// memtable is full; uploads and compaction merge several into one; the ingester and
// storage answer Select from them. The package knows neither tenants' limits nor where
// files live: it reads through a Source and writes to an io.Writer.
//
// # Format
//
//	+--------+---------+-----+---------+--------+-----+----------+---------+-------------+--------+---------+
//	| header | block 0 | ... | block n | needle | ... | postings | streams | block index | footer | trailer |
//	| 8 B    | columns |     | columns | group  |     | per name | table   |             |        | 28 B    |
//	+--------+---------+-----+---------+--------+-----+----------+---------+-------------+--------+---------+
//
// A block is about 256 KiB of line bytes or 64 Ki rows, whatever streams they belong to;
// its columns lie end to end (timestamps, lengths, one per metadata name, hashes,
// lines) so that a query reads neighbours with one request and the lines only when it
// must. Every column and section is a frame with a codec byte and a CRC-32C that also
// covers the frame's place, so bytes that are whole but come from elsewhere are
// noticed too. Nothing lies between the parts: Verify accounts for every byte.
//
// Lines by default go through the codec "fields" (line_fields.go), which takes out
// timestamps and random ids before zstd sees the text.
//
// Which rows belong to which stream needs no column: streams are numbered in the order
// of their rows, and the stream table counts each one's rows, so a prefix sum gives
// every run of every block.
//
// A long id is looked for by a Probe before a segment is opened: its page of the id table lies where
// the key of the object says.
//
// docs/segment.md specifies each byte.
//
// # Promises
//
// A corrupt, truncated or hostile file gives an error of kind fault.Corrupt that names
// the file, the place and the command to run next; never a panic, a wrong answer, or an
// allocation out of proportion to the limits in format.go. A Reader may be used by many
// goroutines at once.
package segment
