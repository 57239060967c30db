package pipeline

import (
	"fmt"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/skaldlog/skald/logql/syntax"
)

// unwrapper makes a label the value of the sample.
type unwrapper struct {
	slot    int
	convert func(string) (float64, error)
	filters []labelFilter
}

// addUnwrap compiles an unwrap and the filters after it.
func (c *compiler) addUnwrap(u *syntax.Unwrap) error {
	w := &unwrapper{slot: c.slot(u.Label)}
	switch u.Conversion {
	case "":
		w.convert = parseFloat
	case "bytes":
		w.convert = convertBytes
	case "duration", "duration_seconds":
		w.convert = convertDuration
	default:
		return stageError(nil, fmt.Errorf("unsupported conversion operation %s", u.Conversion))
	}
	for _, s := range u.Filters {
		f, err := c.labelFilter(s)
		if err != nil {
			return stageError([]syntax.Stage{s}, err)
		}
		if f == nil {
			continue
		}
		w.filters = append(w.filters, f)
		c.required = append(c.required, filterNames(s, nil)...)
	}
	// A single filter may be applied as soon as its label is parsed; several may not.
	if len(u.Filters) == 1 && len(w.filters) == 1 && u.Filters[0].Binary == nil {
		if names := filterNames(u.Filters[0], nil); len(names) == 1 {
			c.filters = append(c.filters, earlyFilter{names[0], w.filters[0]})
		}
	}
	c.p.unwrap = w
	return nil
}

// process converts the label. A row without it, or with an empty one, is dropped; one
// that does not convert gets an error, which the filters may drop.
func (u *unwrapper) process(r *row, _ []byte) bool {
	v, _ := r.getSlot(u.slot)
	if v == "" {
		return false
	}
	x, err := u.convert(v)
	if err != nil {
		r.err, r.errDetails = errSampleExtraction, err.Error()
	}
	r.value = x
	for _, f := range u.filters {
		if !f.match(r) {
			return false
		}
	}
	return true
}

func convertBytes(v string) (float64, error) {
	b, err := humanize.ParseBytes(v)
	return float64(b), err
}

func convertDuration(v string) (float64, error) {
	d, err := time.ParseDuration(v)
	if err != nil {
		return 0, err
	}
	return d.Seconds(), nil
}
