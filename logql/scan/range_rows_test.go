package scan

import (
	"testing"

	"github.com/skaldlog/skald/logql/syntax"
)

// TestDropsEmpty: where labels with empty values stay, and where they go.
func TestDropsEmpty(t *testing.T) {
	by := &syntax.Grouping{Labels: []string{"x"}}
	for _, c := range []struct {
		query    string
		grouping *syntax.Grouping
		instant  bool
		want     bool
	}{
		{`count_over_time({a="b"} | json [1h])`, nil, true, false},
		{`count_over_time({a="b"} | json [2h])`, nil, false, false},
		{`count_over_time({a="b"} | json [2h])`, nil, true, true},
		{`count_over_time({a="b"} | json [2h])`, by, true, false},
		{`bytes_over_time({a="b"} | logfmt --keep-empty [2h])`, by, true, false},
		{`count_over_time({a="b"} | logfmt x [2h])`, by, true, true},
		{`count_over_time({a="b"} | regexp "(?P<x>z?)" [2h])`, by, true, true},
		{`rate({a="b"} | json [2h])`, by, true, true},
		{`sum_over_time({a="b"} | json | unwrap y [2h])`, by, true, true},
		{`count_over_time({a="b"} | json | drop y [5m])`, nil, false, true},
		{`count_over_time({a="b"} | json | drop y [5m])`, by, false, false},
	} {
		e, err := syntax.Parse(c.query)
		if err != nil {
			t.Fatal(err)
		}
		if got := dropsEmpty(e.(*syntax.RangeAgg), c.grouping, c.instant); got != c.want {
			t.Errorf("%s, grouping %v, instant %v: %v", c.query, c.grouping, c.instant, got)
		}
	}
}
