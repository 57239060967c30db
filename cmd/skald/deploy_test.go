package main

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"
)

const deployDir = "../../deploy/"

// TestDashboardAndAlertsNameRealMetrics holds every metric of the dashboard and of the
// alerts against those that a server exports.
func TestDashboardAndAlertsNameRealMetrics(t *testing.T) {
	exported := metricNames(testNode(t, "-data.dir="+t.TempDir()).registry)
	exported["up"] = true // every scrape has it
	queries := append(dashboardQueries(t), alertQueries(t)...)
	if len(queries) < 40 {
		t.Errorf("only %d queries were found", len(queries))
	}
	for _, q := range queries {
		expr, err := parser.NewParser(parser.Options{}).ParseExpr(strings.NewReplacer("$__rate_interval", "5m").Replace(q))
		if err != nil {
			t.Errorf("%s: %v", q, err)
			continue
		}
		parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
			if v, ok := n.(*parser.VectorSelector); ok && !exported[v.Name] {
				t.Errorf("%s: no server exports %s", q, v.Name)
			}
			return nil
		})
	}
}

var descName = regexp.MustCompile(`^Desc\{fqName: "([^"]+)"`)

// metricNames are the names of all metrics, also of those without a sample yet, and of the
// series that histograms have.
func metricNames(reg *prometheus.Registry) map[string]bool {
	names := map[string]bool{}
	descs := make(chan *prometheus.Desc)
	go func() { reg.Describe(descs); close(descs) }()
	for d := range descs {
		if m := descName.FindStringSubmatch(d.String()); m != nil {
			for _, suffix := range []string{"", "_bucket", "_count", "_sum"} {
				names[m[1]+suffix] = true
			}
		}
	}
	return names
}

func dashboardQueries(t *testing.T) (queries []string) {
	text, err := os.ReadFile(deployDir + "grafana/dashboards/skald.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			ID          int
			Type, Title string
			Targets     []struct{ Expr string }
			GridPos     struct{ X, Y, W, H int }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	ids, cells := map[int]bool{}, map[[2]int]string{}
	for _, p := range dashboard.Panels {
		if ids[p.ID] {
			t.Errorf("two panels have the number %d", p.ID)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := cells[[2]int{x, y}]; other != "" {
					t.Errorf("%q covers %q", p.Title, other)
				}
				cells[[2]int{x, y}] = p.Title
			}
		}
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("%q asks for nothing", p.Title)
		}
		for _, target := range p.Targets {
			queries = append(queries, target.Expr)
		}
	}
	return queries
}

func alertQueries(t *testing.T) (queries []string) {
	text, err := os.ReadFile(deployDir + "prometheus/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if r.Alert == "" || r.Annotations["summary"] == "" || r.Annotations["runbook"] == "" {
				t.Errorf("alert %q needs a name, a summary and a runbook", r.Alert)
			}
			queries = append(queries, r.Expr)
		}
	}
	return queries
}
