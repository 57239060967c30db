// Package stage is the agent's pipeline: what happens to a line between the file and
// the batch. It reads the pipeline_stages of a Promtail config and behaves as Promtail's
// stages do, with two differences of kind rather than of result:
//
//   - A pipeline belongs to one log, not to one job. Partial lines, multiline blocks and
//     the memory of timestamps therefore never mix between files, and need no locks.
//   - Stages call each other directly. An entry is one reused struct, what stages extract
//     aliases the line, and label sets are interned, so that a line that only passes
//     parsing stages allocates nothing.
//
// A Program is the compiled, immutable form of a job's stages; New gives each log its own
// Pipeline. The caller (package agent) feeds lines with Line and receives finished entries
// in the Processor it passed as sink. Stages that keep text back until more arrives (cri,
// multiline) also keep hold of the line's Origin, so that the position in the file does
// not move past text that exists in memory only; see Origin.
//
// # Vocabulary
//
// A stage's "source" is a name in the extracted map, or the line when it has none. The
// extracted map begins with the entry's labels; a later change of a label does not show in it.
package stage
