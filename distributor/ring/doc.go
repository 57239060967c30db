// Package ring knows which processes there are, and derives from that, without asking
// anyone, who holds a stream and who does a piece of work.
//
// Every process tells every other about itself by gossip (Members), so each has the same
// map of instances a moment later. A View is an immutable picture of that map with the
// placement rules on it:
//
//	Replicas  the ingesters that a stream is written to: its token's next instances
//	          clockwise on the ring of tokens, in distinct zones
//	Subring   the part of the ring that a tenant is confined to (shuffle sharding)
//	Rank      whose turn it is: the order of instances for a piece of work
//
// Views of two processes may differ for the time gossip takes. That is safe by design:
// writes count acknowledgements, reads ask all ingesters, and compaction ends in the same
// place whoever does it.
//
// The package moves no data and knows nothing of pushes and queries.
package ring
