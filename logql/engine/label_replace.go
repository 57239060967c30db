package engine

import (
	"regexp"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/logql/scan"
	"github.com/skaldlog/skald/logql/syntax"
)

// labelReplace rewrites one label of every series. Series may end up with equal labels;
// they stay apart until something groups them.
func labelReplace(e *syntax.LabelReplace, in []scan.Series) ([]scan.Series, error) {
	re, err := regexp.Compile("^(?:" + e.Regex + ")$")
	if err != nil {
		return nil, fault.New(fault.Invalid, "parse error : invalid regex in label_replace: %w", err)
	}
	out := make([]scan.Series, len(in))
	builder := labels.NewBuilder(labels.EmptyLabels())
	for i, s := range in {
		out[i] = s
		src := s.Labels.Get(e.Src)
		match := re.FindStringSubmatchIndex(src)
		if match == nil {
			continue
		}
		builder.Reset(s.Labels)
		// Set with an empty value removes the label.
		builder.Set(e.Dst, string(re.ExpandString(nil, e.Replacement, src, match)))
		out[i].Labels = builder.Labels()
	}
	return out, nil
}
