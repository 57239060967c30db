package pipeline_test

import (
	"fmt"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/logql/pipeline"
	"github.com/skaldlog/skald/logql/syntax"
)

// A worker filters a block's lines together, then runs the rest of the stages over the
// rows that are left.
func ExamplePipeline() {
	query, err := syntax.ParseLog(`{app="shop"} |= "order" | logfmt | took > 1s | line_format "{{.id}} took {{.took}}"`)
	if err != nil {
		panic(err)
	}
	p, err := pipeline.New(query.Stages, pipeline.Options{})
	if err != nil {
		panic(err)
	}
	lines := []byte("msg=order id=1 took=200ms" + "msg=order id=2 took=3s" + "msg=hello took=9s")
	offsets := []uint32{0, 25, 47, 64}
	rows := p.FilterBatch(lines, offsets, []uint32{0, 1, 2})
	stream := p.ForStream(labels.FromStrings("app", "shop"), 1)
	for _, row := range rows {
		line, lbs, ok := stream.ProcessRest(0, lines[offsets[row]:offsets[row+1]], nil)
		if ok {
			fmt.Printf("%s %v\n", line, lbs.Labels())
		}
	}
	// Output: 2 took 3s {app="shop", id="2", msg="order", took="3s"}
}

// A metric query takes a value and the labels it groups by from each row.
func ExampleLabels_Group() {
	query, err := syntax.Parse(`sum by (path) (sum_over_time({app="shop"} | json | unwrap duration(took) [1m]))`)
	if err != nil {
		panic(err)
	}
	agg, grouping := syntax.RangeAggs(query)[0], query.(*syntax.VectorAgg).Grouping
	p, err := pipeline.New(agg.Range.Log.Stages, pipeline.Options{Sample: pipeline.SampleFor(agg, grouping)})
	if err != nil {
		panic(err)
	}
	stream := p.ForStream(labels.FromStrings("app", "shop"), 1)
	_, lbs, ok := stream.Process(0, []byte(`{"path":"/pay","took":"1.5s","user":"u1"}`), nil)
	fmt.Println(ok, lbs.Group().Labels, lbs.Value())
	// Output: true {path="/pay"} 1.5
}
