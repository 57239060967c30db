// Package patterns finds the templates that log lines were printed from, and counts the
// lines of each over time: "user <_> logged in from <_>". querier serves it as Loki's
// patterns endpoint; a pattern can be pasted behind |> to find its lines again.
//
// # How
//
// Two steps, the first for every line, the second for what is left of them.
//
//  1. Masking (mask.go, shapes.go). A run of bytes without a separator in between is a
//     token; a token with a digit in it is nearly always a value: a time, an id, an
//     address. Lines that are equal without such tokens have one shape. A shape counts its
//     lines per step, and remembers a masked token as long as it was the same in all lines.
//     So a line costs a sweep over its bytes and one lookup.
//
//  2. Clustering (cluster.go), after Drain (He et al., ICWS 2017): shapes go down a tree of
//     fixed depth, by their separators, their keys and their first word, to a list of
//     clusters, and join the most similar one when at least half of its words agree. Words
//     that differ inside a cluster become <_>. In contrast to Drain, names of keys do not
//     count as agreement, and a cluster is cut where few words alternate, such as opened
//     and closed: those say what happened.
//
// Shapes add up in any order, so the answer does not depend on how rows are cut into blocks
// or shared among workers, unless there are so many that they have to be clustered early.
//
// # Bounds
//
// A worker keeps at most maxShapes shapes and maxShapeBytes of their text; beyond that it
// clusters them and goes on with the clusters. At most MaxPatterns patterns are returned;
// lines of rarer ones are counted under the pattern <_>, so that counts always add up to
// the number of lines.
package patterns
