// Package engine answers LogQL queries: it parses the text, checks it against the limits
// of the tenant, has logql/scan gather lines or range aggregations from the blocks, and
// evaluates everything above them.
//
// It promises Loki's answers and Loki's texts of refusal. Evaluation is by columns: a
// series is one array of values over the whole grid of evaluation times, so an operator
// decides about labels once per series rather than once per step, and only what Loki
// decides per step (which samples are there, which k are the largest, whether a match is
// unique) is looked at per step.
//
// The querier calls it, with a Selector bound to a tenant.
package engine
