package ring

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/skaldlog/skald/internal/model"
)

// grow returns instances that joined one after the other, in zones by turns.
func grow(list []Instance, n, zones, tokens int) []Instance {
	for i := len(list); i < n; i++ {
		in := Instance{ID: fmt.Sprintf("ingester-%d", i), Roles: Ingester, State: Active, Registered: int64(i + 1)}
		if zones > 1 {
			in.Zone = fmt.Sprintf("zone-%d", i%zones)
		}
		in.Seed = ChooseSeed(in.ID, in.Zone, tokens, NewView(list))
		in.Tokens = Tokens(in.Seed, tokens)
		list = append(list, in)
	}
	return list
}

func ids(list []*Instance) []string {
	names := make([]string, len(list))
	for i, in := range list {
		names[i] = in.ID
	}
	return names
}

func TestReplicas(t *testing.T) {
	at := func(id, zone string, state State, tokens ...uint32) Instance {
		return Instance{ID: id, Zone: zone, Roles: Ingester, State: state, Tokens: tokens}
	}
	stale := func(in Instance) Instance { in.Stale = true; return in }
	check := func(name string, list []Instance, token uint32, rf int, want ...string) {
		t.Helper()
		if got := ids(NewView(list).Replicas(token, rf, nil)); !slices.Equal(got, want) {
			t.Errorf("%s: token %d, rf %d: got %v, want %v", name, token, rf, got, want)
		}
	}
	plain := []Instance{at("a", "", Active, 10, 40), at("b", "", Active, 20, 50), at("c", "", Active, 30)}
	check("clockwise", plain, 11, 2, "b", "c")
	check("a token is its owner's", plain, 20, 1, "b")
	check("around zero", plain, 51, 2, "a", "b")
	check("distinct", plain, 31, 3, "a", "b", "c")
	check("no more than there are", plain, 0, 5, "a", "b", "c")
	check("none wanted", plain, 0, 0)
	check("empty ring", nil, 7, 3)
	check("one token of two: the ID decides", []Instance{at("b", "", Active, 5), at("a", "", Active, 5)}, 3, 1, "a")

	failing := []Instance{at("a", "", Joining, 10), stale(at("b", "", Active, 20)), at("c", "", Leaving, 30), at("d", "", Left, 40), at("e", "", Active, 50)}
	check("only who may be written to", failing, 0, 3, "e")

	zoned := []Instance{at("a1", "a", Active, 10), at("a2", "a", Active, 20), at("b1", "b", Active, 30), at("c1", "c", Active, 40), at("c2", "c", Active, 50)}
	check("distinct zones", zoned, 5, 3, "a1", "b1", "c1")
	check("then a second of a zone", zoned, 5, 4, "a1", "b1", "c1", "a2")
	check("all", zoned, 45, 9, "c2", "a1", "b1", "a2", "c1")
	down := slices.Clone(zoned)
	down[2].Stale = true
	check("a zone is down", down, 5, 3, "a1", "c1", "a2")
}

func TestReplicasAllocateNothing(t *testing.T) {
	v := NewView(grow(nil, 10, 3, 32))
	buf := make([]*Instance, 0, 3)
	if n := testing.AllocsPerRun(100, func() { buf = v.Replicas(rand.Uint32(), 3, buf) }); n != 0 {
		t.Errorf("got %v allocations, want none", n)
	}
}

// TestMovement counts, over many streams, how many copies move when an ingester joins or
// leaves. Ideal is the newcomer's fair share, and nothing between those that stay.
func TestMovement(t *testing.T) {
	sizes, streams := []int{1, 3, 10, 50}, 50_000
	if os.Getenv("SKALD_FULL") != "" {
		sizes, streams = []int{1, 2, 3, 5, 10, 30, 100, 300, 999}, 1_000_000
	}
	for _, zones := range []int{1, 3} {
		var list []Instance
		for _, n := range sizes {
			if n < zones {
				continue
			}
			list = grow(list, n, zones, DefaultTokens)
			for _, rf := range []int{1, 3} {
				movement(t, list, zones, rf, streams)
			}
		}
	}
}

func movement(t *testing.T, before []Instance, zones, rf, streams int) {
	t.Helper()
	after := grow(slices.Clone(before), len(before)+1, zones, DefaultTokens)
	newcomer := after[len(after)-1]
	old, next := NewView(before), NewView(after)
	var moved, strayed, copies int
	held := map[string]int{}
	a, b := make([]*Instance, 0, rf), make([]*Instance, 0, rf)
	for i := range streams {
		token := Token("tenant", uint64(i)*0x9e3779b97f4a7c15, 0)
		a, b = old.Replicas(token, rf, a), next.Replicas(token, rf, b)
		copies += len(b)
		for _, in := range b {
			held[in.ID]++
			if slices.ContainsFunc(a, func(o *Instance) bool { return o.ID == in.ID }) {
				continue
			}
			moved++
			if in.ID != newcomer.ID {
				strayed++
			}
		}
	}
	// In a zone, the copies of that zone are shared.
	ideal := float64(copies) / float64(len(after))
	if same := sameZone(after, newcomer.Zone); zones > 1 && rf == zones {
		ideal = float64(copies) / float64(zones) / float64(same)
	}
	most, least := 0.0, 1e9
	for _, in := range after {
		fair := float64(copies) / float64(len(after))
		if zones > 1 && rf == zones {
			fair = float64(copies) / float64(zones) / float64(sameZone(after, in.Zone))
		}
		most, least = max(most, float64(held[in.ID])/fair), min(least, float64(held[in.ID])/fair)
	}
	t.Logf("%4d → %4d ingesters, %d zones, rf %d: moved %.3f of ideal, fullest %.3f, emptiest %.3f of the mean",
		len(before), len(after), zones, rf, float64(moved)/ideal, most, least)
	// A join is a leave seen backwards, so this bounds both.
	if float64(moved) > 1.3*ideal {
		t.Errorf("%d ingesters, %d zones, rf %d: %d copies moved, want at most 1.3 × %.0f", len(before), zones, rf, moved, ideal)
	}
	if strayed > 0 {
		t.Errorf("%d ingesters, %d zones, rf %d: %d copies moved between ingesters that stayed", len(before), zones, rf, strayed)
	}
	// Tokens are chosen for the balance inside a zone, which is what counts when there is a
	// copy in each; with fewer copies than zones they are as good as random ones.
	bound := 1.2
	if rf < zones {
		bound = 1.4
	}
	if most > bound {
		t.Errorf("%d ingesters, %d zones, rf %d: the fullest holds %.2f of its share, want at most %.1f", len(after), zones, rf, most, bound)
	}
}

func sameZone(list []Instance, zone string) int {
	n := 0
	for _, in := range list {
		if in.Zone == zone {
			n++
		}
	}
	return n
}

func TestSubring(t *testing.T) {
	const zones, size = 3, 6
	list := grow(nil, 30, zones, 16)
	list = append(list, Instance{ID: "querier-0", Roles: Querier, State: Active})
	v := NewView(list)
	with := NewView(grow(slices.Clone(list[:30]), 31, zones, 16))
	load := map[string]int{}
	var changed int
	for i := range 2000 {
		tenant := model.Tenant(fmt.Sprintf("tenant-%d", i))
		sub := v.Subring(tenant, size)
		if sub != v.Subring(tenant, size) {
			t.Fatal("a subring is not cached")
		}
		members := ids(sub.Instances(Ingester))
		perZone := map[string]int{}
		for _, in := range sub.Instances(Ingester) {
			perZone[in.Zone]++
			load[in.ID]++
		}
		if len(members) != size || perZone["zone-0"] != 2 || perZone["zone-1"] != 2 || perZone["zone-2"] != 2 {
			t.Fatalf("%s: got %v, want %d, two in each zone", tenant, members, size)
		}
		for _, id := range ids(v.Subring(tenant, size+3).Instances(Ingester)) {
			members = slices.DeleteFunc(members, func(m string) bool { return m == id })
		}
		if len(members) > 0 {
			t.Errorf("%s: a larger subring lost %v", tenant, members)
		}
		if sub.Count(Querier) != 1 {
			t.Errorf("%s: other roles are confined too", tenant)
		}
		grown := with.Subring(tenant, size)
		differ := 0
		for _, in := range sub.Instances(Ingester) {
			if grown.Get(in.ID) == nil {
				differ++
			}
		}
		if differ > 1 {
			t.Errorf("%s: one newcomer replaced %d", tenant, differ)
		}
		changed += differ
	}
	// 2000 tenants with 2 of 10 in a zone; the newcomer is one of 11: 2/11 of them.
	if changed < 250 || changed > 480 {
		t.Errorf("a newcomer changed %d of 2000 subrings, want about 364", changed)
	}
	for id, n := range load {
		if n < 300 || n > 500 {
			t.Errorf("%s is in %d subrings, want about 400", id, n)
		}
	}
	if v.Subring("x", 0) != v || v.Subring("x", 30) != v {
		t.Error("size 0, and one that covers the ring, must be the whole ring")
	}
}

func TestRank(t *testing.T) {
	list := grow(nil, 10, 1, 1)
	list[3].State, list[4].Stale, list[5].Roles = Leaving, true, Querier
	v, without := NewView(list), NewView(slices.Delete(slices.Clone(list), 7, 8))
	owned := map[string]int{}
	for i := range 7000 {
		key := fmt.Sprint("tenant/day-", i)
		order := v.Rank(Ingester, key, nil)
		if len(order) != 7 || v.Owner(Ingester, key) != order[0] {
			t.Fatalf("%s: got %v and owner %v, want 7 and the first", key, ids(order), v.Owner(Ingester, key))
		}
		owned[order[0].ID]++
		rest := slices.DeleteFunc(ids(order), func(id string) bool { return id == "ingester-7" })
		if got := ids(without.Rank(Ingester, key, order)); !slices.Equal(got, rest) {
			t.Fatalf("%s: the order changed among those that stayed: %v, want %v", key, got, rest)
		}
	}
	for id, n := range owned {
		if n < 850 || n > 1150 {
			t.Errorf("%s owns %d of 7000 keys, want about 1000", id, n)
		}
	}
	if NewView(nil).Owner(Compactor, "x") != nil {
		t.Error("an empty ring has an owner")
	}
}

func TestSingle(t *testing.T) {
	v := Single(Instance{ID: "me", Roles: All, Stale: true})
	if got := ids(v.Replicas(Token("t", 7, 3), 1, nil)); !slices.Equal(got, []string{"me"}) {
		t.Errorf("got %v, want me", got)
	}
	if o := v.Ownership(1)["me"]; o != 1 {
		t.Errorf("it owns %v of the ring, want all", o)
	}
	if v.Owner(Compactor, "x") != v.Get("me") || v.Count(Distributor) != 1 {
		t.Error("it must own every piece of work")
	}
}

func TestTokenSpreads(t *testing.T) {
	var buckets [16]int
	seen := map[uint32]bool{}
	for i := range 1000 {
		for shard := range uint32(16) {
			token := Token("fake", uint64(i), shard)
			buckets[token>>28]++
			seen[token] = true
		}
	}
	for i, n := range buckets {
		if n < 850 || n > 1150 {
			t.Errorf("bucket %d has %d of 16000 tokens, want about 1000", i, n)
		}
	}
	if len(seen) < 15_990 || Token("a", 1, 0) == Token("b", 1, 0) {
		t.Errorf("got %d distinct tokens of 16000", len(seen))
	}
}

func TestRoles(t *testing.T) {
	for text, want := range map[string]Role{"all": All, "ingester": Ingester, "querier, distributor": Querier | Distributor, "ingester,all": All} {
		if got, err := ParseRoles(text); err != nil || got != want {
			t.Errorf("%q: got %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "ingester,", "ruler"} {
		if _, err := ParseRoles(text); err == nil {
			t.Errorf("%q: want an error", text)
		}
	}
	if got := (Querier | Distributor).String(); got != "distributor,querier" {
		t.Errorf("got %s", got)
	}
}
