package pipeline

import (
	"testing"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/logql/syntax"
)

func TestSmoke(t *testing.T) {
	p, err := New([]syntax.Stage{
		&syntax.LineFilter{Op: syntax.LineContains, Operands: []syntax.LineOperand{{Text: "a"}}},
		&syntax.JSONStage{},
		&syntax.LabelFilter{Number: &syntax.NumberFilter{Name: "status", Op: ">=", Number: 500}},
	}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := p.ForStream(labels.FromStrings("app", "x"), 1)
	_, l, ok := s.Process(1, []byte(`{"status":503,"a":{"b":"x\ny"},"app":"z"}`), []labels.Label{{Name: "trace", Value: "1"}})
	t.Log(l.Labels(), ok, l.Parsed(), l.Metadata(), l.Stream())
	_, _, ok = s.Process(1, []byte(`{"status":403,"a":{"b":"x\ny"},"app":"z"}`), nil)
	if ok {
		t.Fatal("kept")
	}
}
