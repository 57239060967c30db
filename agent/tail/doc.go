// Package tail follows files: it finds those that a pattern names, reads what is new in
// them, and keeps following their content through rotation.
//
// # Vocabulary
//
// A target is a pattern with labels. A log is one path that a target's pattern matched. A
// generation is one file that the path has named: a log has several when the file is
// rotated faster than it is read, or was rotated while the agent was stopped. Generations
// are known by device, inode and a fingerprint of their first bytes, taken from the open
// descriptor; the path is only where they were seen. They are read one after the other, each
// to its last byte.
//
// # How work is done
//
// A log is an actor. It lies idle until something happens to it (an inotify event, a
// difference found by the periodic scan, a deadline), then it waits in one queue with all
// others, and one of a few workers gives it a turn: look at the path if need be, read one
// buffer, hand it to the consumer. A log with more to read goes to the end of the queue. So a
// log's state needs no lock, memory is one buffer a worker, and an idle file costs nothing but
// its entry in a map; its descriptor is closed after a while.
//
// Backpressure stands between turns: a consumer that has no room makes its log wait until
// Resume is called. Descriptors are opened even then, so that a file may be deleted while
// the server is away.
package tail
