// Package scale is a model of what a volume of logs a day needs: instances, network,
// requests to the object store, objects, money, and which part gives in first.
//
// It is arithmetic over figures that were measured on one machine (Figures; their origin is
// bench/RESULTS.md) and prices that anybody can replace. It promises no more than that the
// sums are right; docs/scaling.md says what they leave out. `go run ./bench scale` prints it.
package scale

import (
	"cmp"
	"math"
	"slices"
)

// Figures are what was measured, for raw bytes as they are pushed.
type Figures struct {
	// CPU seconds for each raw GB: of a distributor for a push, of an ingester for one copy
	// until it is uploaded, and of a compactor for one copy that it merges.
	DistributorCPU, IngesterCPU, CompactorCPU float64
	// CPU seconds to answer from one raw GB: from columns (counts, volumes), and from lines.
	ColumnsCPU, LinesCPU float64
	// Bytes on the wire for each raw byte: of a push to a distributor, and of each copy from
	// there to an ingester.
	PushWire, CopyWire float64
	// Stored bytes for each raw byte, of an upload and after compaction.
	UploadStored, Stored float64
	// Bytes read from the store for each raw byte that is asked for, from columns and lines.
	ColumnsRead, LinesRead float64
	// RawPerUpload is the raw bytes of one uploaded object when there are enough.
	RawPerUpload float64
	// DiskWritten is bytes written to an ingester's disk for each raw byte of a copy.
	DiskWritten float64
}

// Measured are the figures of bench/RESULTS.md.
var Measured = Figures{
	DistributorCPU: 10.7, IngesterCPU: 20.7, CompactorCPU: 25,
	ColumnsCPU: 0.08, LinesCPU: 1.8,
	PushWire: 0.36, CopyWire: 0.36,
	UploadStored: 1 / 5.0, Stored: 1 / 6.85,
	ColumnsRead: 0.020, LinesRead: 0.14,
	RawPerUpload: 250e6, DiskWritten: 0.93,
}

// Settings are those of Skald that matter here, at their defaults.
type Settings struct {
	Replication     int
	UploadAge       float64 // seconds
	CompactedObject float64 // bytes
	PartBytes       float64 // of a multipart upload
	CatalogTTL      float64 // seconds
	TenantShard     int     // ingesters that hold a tenant; 0 is all
	Utilisation     float64 // of a core, in the mean of a peak
}

// Defaults are Skald's defaults in a ring of three copies.
var Defaults = Settings{Replication: 3, UploadAge: 900, CompactedObject: 256 << 20, PartBytes: 16 << 20, CatalogTTL: 5, Utilisation: 0.5}

// Machine is what one instance runs on.
type Machine struct {
	Cores     float64
	Network   float64 // bytes per second, in each direction
	Disk      float64 // bytes per second, written
	HourPrice float64
}

// Prices are of the object store and the network, in dollars.
type Prices struct {
	GBMonth             float64
	Put, Get, List      float64 // of one request
	ZoneGB              float64 // each GB between zones
	RequestsPerPrefix   float64 // PUT, per second and prefix, that the store takes
	ReadsPerPrefix      float64 // GET and LIST
	ListLatency         float64 // seconds, of one page of 1000 keys
	HoursAMonth, DaysIn float64
}

// Usual are a general machine of 16 cores with 10 Gbit/s, and the list prices and limits
// of a large public cloud. Put your own.
var (
	Usual       = Machine{Cores: 16, Network: 1.25e9, Disk: 500e6, HourPrice: 0.70}
	UsualPrices = Prices{
		GBMonth: 0.023, Put: 0.005 / 1000, Get: 0.0004 / 1000, List: 0.005 / 1000, ZoneGB: 0.02,
		RequestsPerPrefix: 3500, ReadsPerPrefix: 5500, ListLatency: 0.05, HoursAMonth: 730, DaysIn: 30,
	}
)

// Load is what is asked of a cluster.
type Load struct {
	BytesPerDay float64
	Tenants     int     // of equal size
	Peak        float64 // highest rate of the day, as a multiple of its mean
	Retention   float64 // days
	Zones       int
	// How often each ingested byte is asked for, from columns (dashboards) and from lines.
	ColumnReads, LineReads float64
	QueriesPerSecond       float64
}

// Example is a load of so many bytes a day with usual proportions.
func Example(bytesPerDay float64, tenants int) Load {
	return Load{
		BytesPerDay: bytesPerDay, Tenants: tenants, Peak: 2, Retention: 30, Zones: 3,
		ColumnReads: 10, LineReads: 1, QueriesPerSecond: max(1, bytesPerDay/1e13),
	}
}

// Role is what one role needs.
type Role struct {
	Name      string
	Instances int
	// BoundBy names the resource that decides, and Use how much of it an instance uses at
	// the peak, as a part of what it has.
	BoundBy string
	Use     float64
}

// Ceiling is something that more instances do not raise.
type Ceiling struct {
	Name  string
	Use   float64 // at the peak
	Limit float64
	Unit  string
	// Remedy is what raises it.
	Remedy string
}

// Part is how much of it is used; above 1 the load does not fit.
func (c Ceiling) Part() float64 { return c.Use / c.Limit }

// Result is the answer of the model.
type Result struct {
	Load  Load
	Roles []Role
	// Network in bytes per second at the peak: from clients, from distributors to ingesters,
	// and to and from the object store.
	NetworkIn, NetworkCopies, NetworkStore float64
	// Requests to the object store, per second in the mean.
	Puts, Gets, Lists float64
	// Objects uploaded a day, kept in all, and stored bytes.
	ObjectsUploaded, ObjectsKept, StoredBytes float64
	// Cost in dollars a month.
	CostMachines, CostStorage, CostRequests, CostZones float64
	// Ceilings, the one that is reached first in front.
	Ceilings []Ceiling
}

// Cost is all of it, in dollars a month.
func (r *Result) Cost() float64 {
	return r.CostMachines + r.CostStorage + r.CostRequests + r.CostZones
}

// Instances is the number of all machines.
func (r *Result) Instances() (n int) {
	for _, role := range r.Roles {
		n += role.Instances
	}
	return n
}

const (
	day = 86_400.0
	gb  = 1e9
)

// need is a demand for a resource of which every instance has some.
type need struct {
	resource     string
	demand, each float64
}

// size returns how many instances a role takes, at least so many.
func size(name string, least int, needs ...need) Role {
	r := Role{Name: name, Instances: least, BoundBy: "availability"}
	for _, n := range needs {
		if count := int(math.Ceil(n.demand / n.each)); count > r.Instances {
			r.Instances, r.BoundBy = count, n.resource
		}
	}
	for _, n := range needs {
		use := n.demand / n.each / float64(r.Instances)
		if r.BoundBy == n.resource || r.BoundBy == "availability" && use > r.Use {
			r.Use = use
		}
	}
	return r
}

// Plan computes what a load needs.
func Plan(l Load, f Figures, s Settings, m Machine, p Prices) Result {
	r := Result{Load: l}
	copies := float64(s.Replication)
	mean := l.BytesPerDay / day // raw bytes per second
	peak := mean * l.Peak
	cores := m.Cores * s.Utilisation

	// Instances, each role by its scarcest resource at the peak.
	r.NetworkIn = peak * f.PushWire
	r.NetworkCopies = peak * f.CopyWire * copies
	r.Roles = append(r.Roles, size("distributor", 2,
		need{"CPU", peak / gb * f.DistributorCPU, cores},
		need{"network", r.NetworkCopies, m.Network * s.Utilisation}))
	ingesters := size("ingester", max(s.Replication, l.Zones),
		need{"CPU", peak / gb * f.IngesterCPU * copies, cores},
		need{"network", peak * copies * (f.CopyWire + f.UploadStored), m.Network * s.Utilisation},
		need{"disk", peak * copies * f.DiskWritten, m.Disk * s.Utilisation})
	r.Roles = append(r.Roles, ingesters)
	// A compactor may lag behind a peak and catch up, so the mean counts.
	merged := mean * copies
	r.Roles = append(r.Roles, size("compactor", 1,
		need{"CPU", merged / gb * f.CompactorCPU, cores},
		need{"network", merged*f.UploadStored + mean*f.Stored, m.Network * s.Utilisation}))
	read := peak * (l.ColumnReads*f.ColumnsRead + l.LineReads*f.LinesRead)
	queriers := size("querier", 2,
		need{"CPU", peak / gb * (l.ColumnReads*f.ColumnsCPU + l.LineReads*f.LinesCPU), cores},
		need{"network", read, m.Network * s.Utilisation})
	r.Roles = append(r.Roles, queriers)
	r.NetworkStore = peak*copies*f.UploadStored + merged*f.UploadStored + mean*f.Stored + read

	// Objects: an ingester uploads a tenant when there is enough, or it has waited enough.
	bySize := l.BytesPerDay * copies / f.RawPerUpload
	holders := ingesters.Instances
	if s.TenantShard > 0 {
		holders = min(holders, max(s.TenantShard, s.Replication))
	}
	byAge := float64(l.Tenants*holders) * day / s.UploadAge
	r.ObjectsUploaded = max(bySize, byAge)
	perDay := max(l.BytesPerDay*f.Stored/s.CompactedObject, float64(l.Tenants))
	r.StoredBytes = l.BytesPerDay * f.Stored * l.Retention
	r.ObjectsKept = perDay*l.Retention + r.ObjectsUploaded/24 // uploads of about an hour wait for their merge

	// Requests.
	parts := func(bytesPerDay, objects float64) float64 { // PUTs a day
		n := bytesPerDay / s.PartBytes
		if n <= objects {
			return objects
		}
		return n + 2*objects // begin and complete
	}
	r.Puts = (parts(l.BytesPerDay*copies*f.UploadStored, r.ObjectsUploaded) + parts(l.BytesPerDay*f.Stored, perDay)) / day
	const rangeBytes = 4 << 20 // of a GET when blocks are read in a row
	reads := mean * (l.ColumnReads*f.ColumnsRead + l.LineReads*f.LinesRead)
	r.Gets = (merged*f.UploadStored+reads)/rangeBytes + 3*r.ObjectsUploaded/day // footers, to begin with
	keys := (perDay + r.ObjectsUploaded/24) / float64(l.Tenants)                // of a tenant's day
	pages := math.Ceil(keys / 1000)
	active := min(float64(l.Tenants), l.QueriesPerSecond*s.CatalogTTL)
	r.Lists = pages * active / s.CatalogTTL * float64(min(queriers.Instances, int(math.Ceil(l.QueriesPerSecond*s.CatalogTTL))))

	// Money.
	r.CostMachines = float64(r.Instances()) * m.HourPrice * p.HoursAMonth
	r.CostStorage = r.StoredBytes / gb * p.GBMonth
	r.CostRequests = (r.Puts*p.Put + r.Gets*p.Get + r.Lists*p.List) * day * p.DaysIn
	if l.Zones > 1 {
		elsewhere := float64(l.Zones-1) / float64(l.Zones)
		r.CostZones = l.BytesPerDay * (f.CopyWire*copies + f.PushWire) * elsewhere / gb * p.ZoneGB * p.DaysIn
	}
	r.Ceilings = ceilings(l, f, s, m, p, &r, pages)
	return r
}

// ceilings lists what more instances do not raise, fullest first.
func ceilings(l Load, f Figures, s Settings, m Machine, p Prices, r *Result, pages float64) []Ceiling {
	tenant := 1 / float64(l.Tenants)
	list := []Ceiling{
		{"compaction of one tenant's day, by its one owner", l.BytesPerDay / day / gb * tenant * float64(s.Replication) * f.CompactorCPU, m.Cores, "cores",
			"divide the tenant, or give compactors larger machines"},
		{"listing one tenant's day", pages * p.ListLatency, s.CatalogTTL, "seconds",
			"raise -catalog.ttl and -compact.target-bytes, or divide the tenant"},
		{"writes to one tenant's prefix", r.Puts * l.Peak * tenant, p.RequestsPerPrefix, "requests/s",
			"raise -ingester.upload-bytes"},
		{"reads of one tenant's prefix", (r.Gets + r.Lists) * l.Peak * tenant, p.ReadsPerPrefix, "requests/s",
			"larger caches"},
		{"queries, each of which asks every ingester", l.QueriesPerSecond * l.Peak, 2000, "calls/s of one ingester",
			"several clusters"},
		{"instances in one gossip ring", float64(r.Instances()), 1000, "instances",
			"several clusters"},
	}
	slices.SortStableFunc(list, func(a, b Ceiling) int { return cmp.Compare(b.Part(), a.Part()) })
	return list
}
