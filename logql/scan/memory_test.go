package scan

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/skaldlog/skald/internal/fault"
)

// Those that go on never hold more than the pool; of two that are unequal the larger is ended;
// and what all have closed is empty.
func TestPool(t *testing.T) {
	for seed := range uint64(100) {
		rng := rand.New(rand.NewPCG(seed, 1))
		pool := NewPool(1000)
		ctxs, accounts := map[*account]context.Context{}, map[*account]int64{}
		for range 200 {
			if rng.IntN(4) == 0 {
				ctx, a := pool.open(context.Background())
				ctxs[a], accounts[a] = ctx, 0
			}
			for a, used := range accounts {
				if accountOf(ctxs[a]) != a {
					t.Fatal("another account")
				}
				if a.err() != nil || rng.IntN(20) == 0 {
					a.close()
					delete(accounts, a)
					continue
				}
				n := rng.Int64N(150)
				if rng.IntN(4) == 0 {
					n = -rng.Int64N(used + 1)
				}
				a.charge(n)
				accounts[a] = used + n
				going, most := int64(0), int64(0)
				for b, held := range accounts {
					if b.err() == nil {
						going, most = going+held, max(most, held)
						if ctxs[b].Err() != nil {
							t.Fatalf("seed %d: a query was cancelled and not ended", seed)
						}
					}
				}
				if going > 1000 {
					t.Fatalf("seed %d: queries that go on hold %d bytes", seed, going)
				}
				if err := a.err(); err != nil && (fault.Of(err) != fault.Unavailable || !strings.Contains(err.Error(), "-querier.total-memory") || used+n < most) {
					t.Fatalf("seed %d: ended with %d bytes, another has %d: %v", seed, used+n, most, err)
				}
			}
		}
		for a := range accounts {
			a.close()
		}
		if pool.mu.used != 0 || len(pool.mu.accounts) != 0 {
			t.Fatalf("seed %d: %d bytes of %d accounts are left", seed, pool.mu.used, len(pool.mu.accounts))
		}
	}
}

// What ended queries still hold is about to be given back: nobody else is ended for it.
func TestPoolEndsNoMoreThanItMust(t *testing.T) {
	pool := NewPool(1000)
	_, first := pool.open(t.Context())
	_, second := pool.open(t.Context())
	defer first.close()
	defer second.close()
	first.charge(700)
	second.charge(400)
	if first.err() == nil || second.err() != nil {
		t.Fatalf("ended: %v, %v; want the larger", first.err(), second.err())
	}
	second.charge(500)
	if err := second.err(); err != nil {
		t.Errorf("with 900 bytes of 1000 beside what was ended: %v", err)
	}
	second.charge(200)
	if second.err() == nil {
		t.Error("with 1100 bytes of 1000 the last one goes on")
	}
}
