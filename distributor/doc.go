// Package distributor takes pushes from clients, judges them and passes them on.
//
// A push is decoded by internal/wire, and then, stream by stream and entry by entry,
// checked against the tenant's limits and completed: streams get a service_name, entries
// a detected_level. What is valid goes to the Pusher even when other parts of the same
// push are refused; the client is told what was refused, and why, in Loki's words.
//
// It promises that a nil error means that the Pusher accepted every valid entry, that
// nothing is kept of a push whose answer has been given, and that the bytes of pushes in
// flight stay below a bound, beyond which clients are asked to come again.
package distributor
