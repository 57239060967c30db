package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/skaldlog/skald/bench/scale"
)

// printScale prints what some volumes a day need.
func printScale(context.Context, options) error {
	needs, ceilings := scaleTables()
	fmt.Printf("%s\n%s", needs, ceilings)
	return nil
}

// scaleTables are the tables of docs/scaling.md, in Markdown.
func scaleTables() (needs, ceilings string) {
	var out strings.Builder
	confined := scale.Defaults
	confined.TenantShard = 24
	cases := []struct {
		name     string
		load     scale.Load
		settings scale.Settings
	}{
		{"1 TB, 20 tenants", scale.Example(1e12, 20), scale.Defaults},
		{"100 TB, 200 tenants", scale.Example(1e14, 200), scale.Defaults},
		{"1 PB, 2000 tenants", scale.Example(1e15, 2000), scale.Defaults},
		{"… on 24 ingesters each", scale.Example(1e15, 2000), confined},
		{"1 PB, one tenant", scale.Example(1e15, 1), scale.Defaults},
	}
	results := make([]scale.Result, len(cases))
	head := "|"
	for i, c := range cases {
		results[i] = scale.Plan(c.load, scale.Measured, c.settings, scale.Usual, scale.UsualPrices)
		head += " " + c.name + " |"
	}
	columns := strings.Repeat("---:|", len(cases))
	row := func(name string, cell func(*scale.Result) string) {
		cells := make([]string, len(results))
		for i := range results {
			cells[i] = cell(&results[i])
		}
		fmt.Fprintf(&out, "| %s | %s |\n", name, strings.Join(cells, " | "))
	}
	bytes := func(n float64) string { return humanize.SIWithDigits(n, 1, "B") }
	count := func(n float64) string { return humanize.Comma(int64(n + 0.5)) }
	dollars := func(n float64) string { return "$" + count(n) }

	fmt.Fprintf(&out, "| a day %s\n|---|%s\n", head, columns)
	row("raw at the peak", func(r *scale.Result) string { return bytes(r.Load.BytesPerDay/86_400*r.Load.Peak) + "/s" })
	for i := range results[0].Roles {
		row(results[0].Roles[i].Name+"s", func(r *scale.Result) string {
			return fmt.Sprintf("%d (%s)", r.Roles[i].Instances, r.Roles[i].BoundBy)
		})
	}
	row("network in, at the peak", func(r *scale.Result) string { return bytes(r.NetworkIn) + "/s" })
	row("… from distributors to ingesters", func(r *scale.Result) string { return bytes(r.NetworkCopies) + "/s" })
	row("… to and from the object store", func(r *scale.Result) string { return bytes(r.NetworkStore) + "/s" })
	row("PUT requests", func(r *scale.Result) string { return fmt.Sprintf("%.1f/s", r.Puts) })
	row("GET requests", func(r *scale.Result) string { return fmt.Sprintf("%.0f/s", r.Gets) })
	row("LIST requests", func(r *scale.Result) string { return fmt.Sprintf("%.1f/s", r.Lists) })
	row("objects uploaded a day", func(r *scale.Result) string { return count(r.ObjectsUploaded) })
	row("objects kept, 30 days", func(r *scale.Result) string { return count(r.ObjectsKept) })
	row("stored, 30 days", func(r *scale.Result) string { return bytes(r.StoredBytes) })
	row("machines a month", func(r *scale.Result) string { return dollars(r.CostMachines) })
	row("storage", func(r *scale.Result) string { return dollars(r.CostStorage) })
	row("requests", func(r *scale.Result) string { return dollars(r.CostRequests) })
	row("traffic between zones", func(r *scale.Result) string { return dollars(r.CostZones) })
	row("**all**", func(r *scale.Result) string {
		return fmt.Sprintf("**%s**, $%.3f a raw GB", dollars(r.Cost()), r.Cost()/(r.Load.BytesPerDay/1e9*30))
	})
	row("fullest ceiling", func(r *scale.Result) string {
		return fmt.Sprintf("%s: %.0f %%", r.Ceilings[0].Name, 100*r.Ceilings[0].Part())
	})

	needs = out.String()
	out.Reset()
	fmt.Fprintf(&out, "| ceiling %s what raises it |\n|---|%s---|\n", head, columns)
	for _, c := range results[0].Ceilings {
		fmt.Fprintf(&out, "| %s |", c.Name)
		for i := range results {
			for _, other := range results[i].Ceilings {
				if other.Name == c.Name {
					fmt.Fprintf(&out, " %.1f %% |", 100*other.Part())
				}
			}
		}
		fmt.Fprintf(&out, " %s |\n", c.Remedy)
	}
	return needs, out.String()
}
