package distributor

import (
	"context"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/turns"
)

// turn is the right to keep a core busy with a push: from when it has arrived until it has been
// decoded and judged, and in a ring once more to encode it. The zero value is none.
type turn struct{ leave func() }

// turnBytes of a body are about half a millisecond of work. Smaller pushes take no turn: they
// keep nobody waiting, and who sends no others does not count as active to queries.
const turnBytes = 64 << 10

func (t *turn) begin(ctx context.Context, q *turns.Queue, id model.Tenant, bytes int) (err error) {
	if bytes >= turnBytes {
		t.leave, err = q.Enter(ctx, string(id), turns.Pushes)
	}
	return err
}

// end may be called more than once.
func (t *turn) end() {
	if t.leave != nil {
		t.leave()
		t.leave = nil
	}
}
