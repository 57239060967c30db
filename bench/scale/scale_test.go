package scale

import (
	"math"
	"testing"
)

func plan(l Load) Result { return Plan(l, Measured, Defaults, Usual, UsualPrices) }

func (r *Result) role(name string) Role {
	for _, role := range r.Roles {
		if role.Name == name {
			return role
		}
	}
	return Role{}
}

// TestHandComputed follows one load by hand: 86.4 TB a day are 1 GB/s, 2 GB/s at the peak.
func TestHandComputed(t *testing.T) {
	f := Figures{DistributorCPU: 4, IngesterCPU: 8, CompactorCPU: 4, ColumnsCPU: 0.1, LinesCPU: 1, PushWire: 0.25, CopyWire: 0.5,
		UploadStored: 0.2, Stored: 0.1, ColumnsRead: 0.01, LinesRead: 0.1, RawPerUpload: 1e9, DiskWritten: 1}
	s := Settings{Replication: 3, UploadAge: 900, CompactedObject: 1e9, PartBytes: 1e9, CatalogTTL: 5, Utilisation: 0.5}
	m := Machine{Cores: 16, Network: 1e9, Disk: 1e9, HourPrice: 1}
	l := Load{BytesPerDay: 86.4e12, Tenants: 10, Peak: 2, Retention: 10, Zones: 3, ColumnReads: 10, LineReads: 1, QueriesPerSecond: 1}
	r := Plan(l, f, s, m, UsualPrices)
	for name, want := range map[string]Role{
		"distributor": {Instances: 6, BoundBy: "network"}, // 2·0.5·3 = 3 GB/s over 0.5; CPU would be 1
		"ingester":    {Instances: 12, BoundBy: "disk"},   // 2·3 = 6 GB/s over 0.5; CPU 48 cores over 8
		"compactor":   {Instances: 2, BoundBy: "CPU"},     // 3 GB/s·4 = 12 cores over 8; network 0.7 over 0.5
		"querier":     {Instances: 2, BoundBy: "availability"},
	} {
		if got := r.role(name); got.Instances != want.Instances || got.BoundBy != want.BoundBy {
			t.Errorf("%s: %d by %s, want %d by %s", name, got.Instances, got.BoundBy, want.Instances, want.BoundBy)
		}
	}
	near := func(what string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 1e-6*math.Abs(want) {
			t.Errorf("%s: %g, want %g", what, got, want)
		}
	}
	near("objects uploaded", r.ObjectsUploaded, 259_200) // 3 GB/s in objects of 1 GB
	near("stored", r.StoredBytes, 86.4e12)               // a tenth, ten days
	near("from clients", r.NetworkIn, 0.5e9)
	near("machines", r.CostMachines, 22*730)
	near("storage", r.CostStorage, 86_400*0.023)
	near("zones", r.CostZones, 86_400*(0.5*3+0.25)*2/3*0.02*30)
	near("compaction of a tenant", r.ceiling("compaction").Use, 1.2) // a tenth of 12 cores
}

func (r *Result) ceiling(prefix string) Ceiling {
	for _, c := range r.Ceilings {
		if len(c.Name) >= len(prefix) && c.Name[:len(prefix)] == prefix {
			return c
		}
	}
	return Ceiling{}
}

func TestTenTimesTheLoadIsAboutTenTimesEverything(t *testing.T) {
	a, b := plan(Example(1e14, 100)), plan(Example(1e15, 1000))
	for what, pair := range map[string][2]float64{
		"instances": {float64(a.Instances()), float64(b.Instances())},
		"storage":   {a.StoredBytes, b.StoredBytes},
		"network":   {a.NetworkCopies, b.NetworkCopies},
		"cost":      {a.Cost(), b.Cost()},
	} {
		if ratio := pair[1] / pair[0]; ratio < 9 || ratio > 11 {
			t.Errorf("%s: %g and %g, a ratio of %.1f", what, pair[0], pair[1], ratio)
		}
	}
}

func TestALoadOfNothingStillSurvivesAFailure(t *testing.T) {
	r := plan(Example(1, 1))
	if n := r.role("ingester").Instances; n != 3 {
		t.Errorf("%d ingesters, want one for each copy", n)
	}
	if n := r.role("distributor").Instances; n != 2 {
		t.Errorf("%d distributors, want 2", n)
	}
	for _, c := range r.Ceilings {
		if c.Part() >= 1 || c.Part() < 0 || math.IsNaN(c.Part()) {
			t.Errorf("%s is used by %g", c.Name, c.Part())
		}
	}
}

func TestAScarceResourceDecides(t *testing.T) {
	m := Usual
	m.Network /= 100
	r := Plan(Example(1e14, 100), Measured, Defaults, m, UsualPrices)
	for _, name := range []string{"distributor", "ingester", "querier"} {
		if got := r.role(name); got.BoundBy != "network" || got.Use > 1 {
			t.Errorf("%s is bound by %s, used by %g", name, got.BoundBy, got.Use)
		}
	}
}

// TestNobodyIsOverloaded holds for any load: at the peak no instance has more to do than
// the planned part of what it has.
func TestNobodyIsOverloaded(t *testing.T) {
	for bytes := 1e9; bytes < 1e17; bytes *= 3 {
		r := plan(Example(bytes, 7))
		for _, role := range r.Roles {
			if role.Use > 1+1e-9 || role.Use < 0 {
				t.Errorf("%g bytes a day: %s is used by %g", bytes, role.Name, role.Use)
			}
		}
		for i := 1; i < len(r.Ceilings); i++ {
			if r.Ceilings[i-1].Part() < r.Ceilings[i].Part() {
				t.Errorf("%g bytes a day: ceilings are out of order", bytes)
			}
		}
	}
}
