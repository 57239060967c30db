package distributor

import (
	"context"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/turns"
)

// turnBytes of a push, as it came, are about half a millisecond of work. Smaller pushes take no turn: they
// keep nobody waiting, and who sends no others does not count as active to queries.
const turnBytes = 64 << 10

// turn has what keeps a core busy with a push done in turns: to decode and to judge it, and in a
// ring to encode it.
type turn struct {
	of     *turns.Cores
	tenant model.Tenant
}

func (t turn) do(ctx context.Context, bytes int, work func() error) error {
	if bytes < turnBytes {
		return work()
	}
	return t.of.Do(ctx, string(t.tenant), turns.Pushes, work)
}
