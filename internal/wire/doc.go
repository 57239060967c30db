// Package wire turns the bodies of push requests into streams, and streams into bodies:
// Loki's protobuf and JSON, its legacy JSON, and OTLP logs in both encodings. Nothing
// above this package knows protobuf.
//
// It promises that no input panics, and that memory is asked for before it is taken:
// declared sizes are checked against limits and against what is possible, bodies are read
// through limited readers, and every growth is first put to the caller's reserve function.
// Lines alias the decoded body, so a Batch lives until its Release.
//
// The distributor decodes; the agent and the load generator encode.
package wire
