// Package deliver brings entries to one server. It gathers them into batches for each
// tenant, sends each tenant's batches one after the other, and tells the entries' origins
// when the server has acknowledged them.
//
// What becomes of a batch is decided by the answer:
//
//	success                         its origins are released; positions may move
//	400, 413, 422 (the content)     split in halves until the guilty entry stands alone,
//	                                which is counted, logged and skipped
//	everything else                 tried again, for ever, with growing, jittered pauses or
//	                                the server's Retry-After
//
// Entries go in by Commit, which never blocks; Room says whether more should be read. The
// bound on memory is therefore the budget plus what the readers have in hand. The neighbours
// are agent/tail, which reads while there is room, and a Pusher: package agent's HTTP client,
// or a distributor in the same process.
package deliver
