package conformance

import (
	"fmt"
	"math"
	"slices"
)

// sameSet compares two lists of texts as sets, in which nothing stands twice.
func sameSet(got, want []string) error {
	slices.Sort(got)
	slices.Sort(want)
	if len(slices.Compact(slices.Clone(got))) != len(got) {
		return fmt.Errorf("something stands twice in %q", got)
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("sets differ:\n got: %.2000q\nwant: %.2000q", got, want)
	}
	return nil
}

func texts(v []any) []string {
	out := make([]string, len(v))
	for i, x := range v {
		out[i] = canonical(x)
	}
	return out
}

func checkSet(_ *Case, got, want any) error {
	return sameSet(texts(list(at(got, "data"))), texts(list(at(want, "data"))))
}

func checkSeries(c *Case, got, want any) error { return checkSet(c, got, want) }

func checkFieldValues(_ *Case, got, want any) error {
	return sameSet(texts(list(at(got, "values"))), texts(list(at(want, "values"))))
}

func checkIndexStats(_ *Case, got, want any) error {
	for _, k := range []string{"streams", "entries"} {
		if g, w := at(got, k), at(want, k); g != w {
			return fmt.Errorf("%s: %v, want %v", k, g, w)
		}
	}
	for _, k := range []string{"chunks", "bytes"} {
		if n, ok := at(got, k).(float64); !ok || n != math.Trunc(n) {
			return fmt.Errorf("%s: %v is not an integer", k, at(got, k))
		}
	}
	return nil
}

func checkDetectedLabels(_ *Case, got, want any) error {
	cardinalities := func(v any) map[string]any {
		out := map[string]any{}
		for _, l := range list(at(v, "detectedLabels")) {
			out[fmt.Sprint(at(l, "label"))] = at(l, "cardinality")
		}
		return out
	}
	return sameMaps(cardinalities(got), cardinalities(want), func(g, w any) error {
		if g != w {
			return fmt.Errorf("cardinality %v, want %v", g, w)
		}
		return nil
	})
}

func checkDetectedFields(c *Case, got, want any) error {
	fields := func(v any) map[string]string {
		out := map[string]string{}
		for _, f := range list(at(v, "fields")) {
			shown := map[string]any{"type": at(f, "type"), "parsers": sorted(list(at(f, "parsers"))), "jsonPath": list(at(f, "jsonPath"))}
			for _, k := range c.Compare.Ignore {
				delete(shown, k)
			}
			out[fmt.Sprint(at(f, "label"))] = canonical(shown)
		}
		return out
	}
	if g, w := at(got, "limit"), at(want, "limit"); g != w {
		return fmt.Errorf("limit %v, want %v", g, w)
	}
	return sameMaps(fields(got), fields(want), func(g, w string) error {
		if g != w {
			return fmt.Errorf("%s, want %s", g, w)
		}
		return nil
	})
}

func sorted(v []any) []string {
	out := texts(v)
	slices.Sort(out)
	return out
}

// checkShape wants every key of the expected value with a value of its type.
func checkShape(where string, got, want any) error {
	if fmt.Sprintf("%T", got) != fmt.Sprintf("%T", want) {
		return fmt.Errorf("%s: %T, want %T", where, got, want)
	}
	w, ok := want.(map[string]any)
	if !ok {
		return nil
	}
	for k, v := range w {
		if err := checkShape(where+"."+k, at(got, k), v); err != nil {
			return err
		}
	}
	return nil
}
