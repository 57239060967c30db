// Package agent is the node agent: it follows log files, sends their lines through a
// pipeline, and delivers them to one or more servers. It reads Promtail's configuration.
//
// What it promises: a line that was on disk is delivered at least once, whatever is killed,
// and a repetition carries the same timestamp, so that a store of sets shows it once. The
// position of a file is the end of what the server has acknowledged.
//
// # Parts
//
// An Agent has one engine at a time: the jobs, sources and clients of a configuration. A
// reload builds another one and replaces it. What a job reads is found by agent/discover, for
// files, or comes from a source: agent/journal, agent/syslog, the push API, Docker, standard
// input. Entries of sources go through a feed, which does for them what a consumer does for
// the lines of a file.
//
// # The journey of a line
//
//	agent/tail       finds the file, reads a buffer of whole lines, opens a span for it
//	agent/stage      parses and relabels each line
//	agent/deliver    gathers lines into batches, sends them until they are acknowledged
//	agent/positions  moves the file's position over the spans that are acknowledged
//
// Each client of the configuration has a lane of its own: its own reading of the files, its
// own pipelines, batches and positions. A server that is away therefore holds up nobody
// else, and the files themselves are the buffer for it; the price, reading files once per
// client, is paid from the page cache.
//
// Package cmd calls LoadConfig, New and Run. `skald up` builds a Config in code and passes
// the server's Push instead of a URL.
package agent
