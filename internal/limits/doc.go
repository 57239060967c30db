// Package limits holds what a tenant may do: one Limits value per tenant, with Loki's
// names, units and defaults, handed out by a Source.
//
// The server-wide values come from flags (-limits.NAME) or from the limits section of
// the configuration file; the overrides file, read again while the server runs, holds
// the keys in which a tenant differs. Whoever enforces a limit asks its Source at the
// moment of enforcement, so that a new file takes effect without a restart, and must not
// modify what it gets.
package limits
