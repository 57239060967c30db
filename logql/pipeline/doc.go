// Package pipeline runs the stages of a LogQL query over log lines, row by row and
// exactly as Loki 3.7 does: line filters, parsers, label filters, formats, drop, keep,
// decolorize and unwrap, with their error labels.
//
// New compiles the stages of a query once. A Pipeline has scratch memory and caches, so
// each worker takes its own Clone. ForStream gives the pipeline bound to a stream's
// labels, and Process runs one row:
//
//	p, err := pipeline.New(expr.Stages, pipeline.Options{})
//	sel = p.FilterBatch(buf, offsets, sel)    // leading line filters, a whole block at once
//	s := p.ForStream(run.Labels, run.Hash)
//	line, lbs, ok := s.Process(ts, line, md)  // or ProcessRest for rows of FilterBatch
//
// The metadata argument is a slice that the caller refills for each row, sorted by name,
// with strings from the block's dictionaries; the pipeline keeps none of it. The returned
// line and the Labels are valid until the next call on the same Pipeline or on any of
// its StreamPipelines. Nothing is allocated for a row unless its label set is asked for
// and was not seen before, or a template needs it.
//
// # Labels
//
// A row's labels come in three categories: stream, structured metadata and parsed. While
// a row is processed they are symbols, one for each distinct name, whose state carries
// the number of the row that wrote it; starting a row costs nothing and looking a name up
// costs one comparison. Labels.Set and Labels.Group turn the state into label sets, which
// are cached by content: rows with the same labels share one *Set, and Set.Slot is
// free for the caller to remember its accumulator.
//
// # Metric queries
//
// Options.Sample describes the range aggregation around the pipeline. It allows the
// shortcuts that Loki takes, some of which can be seen in answers: parsers extract only
// the labels that the query names and stop when they have found them, parsers do nothing
// when no label is needed, and line_format stages whose result nobody reads are left out.
// With Sample.Unwrap, Process also converts the label and applies the filters after it;
// Labels.Value is the result.
//
// In all queries a filter on a single label is tested as soon as a parser extracts that
// label, and a line that fails is dropped at once.
//
// # Errors
//
// A stage that fails does not fail the query: it sets __error__ and __error_details__
// and the row goes on. Errors of New are fault.Invalid and name the stage.
package pipeline
