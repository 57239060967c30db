package limits

import (
	"flag"
	"fmt"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// RegisterFlags adds one flag per limit, -limits.KEY, whose default is the present value.
// Lists and maps are given as YAML flow text: -limits.enforced_labels='[team, env]'.
// Validate must follow parsing; it also compiles selectors.
func (l *Limits) RegisterFlags(fs *flag.FlagSet) {
	t := reflect.TypeFor[Limits]()
	for i := range t.NumField() {
		f := t.Field(i)
		fs.Var(&flagValue{limits: l, index: i}, "limits."+keyOf(f), f.Tag.Get("help"))
	}
}

// flagValue is one limit as a flag.
type flagValue struct {
	limits *Limits
	index  int
}

func (v *flagValue) field() reflect.Value { return reflect.ValueOf(v.limits).Elem().Field(v.index) }

// IsBoolFlag allows -limits.volume_enabled without a value.
func (v *flagValue) IsBoolFlag() bool { return v.limits != nil && v.field().Kind() == reflect.Bool }

// Set parses text as the limit's YAML value.
func (v *flagValue) Set(text string) error {
	if v.field().Kind() == reflect.String { // taken as it is: "yes" and "1" are texts
		v.field().SetString(text)
		return nil
	}
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		return fmt.Errorf("got %q, want a YAML value: %w", text, err)
	}
	if len(doc.Content) == 0 {
		v.field().SetZero()
		return nil
	}
	key := &yaml.Node{Kind: yaml.ScalarNode, Value: keyOf(reflect.TypeFor[Limits]().Field(v.index))}
	return v.limits.set(key, doc.Content[0])
}

// String prints the limit so that Set reads it back.
func (v *flagValue) String() string {
	if v.limits == nil { // the zero value that package flag makes to compare defaults with
		return ""
	}
	f := v.field()
	switch f.Kind() {
	case reflect.Map, reflect.Slice:
		if f.Len() == 0 {
			return ""
		}
	case reflect.Struct:
	default:
		return fmt.Sprint(f.Interface())
	}
	var n yaml.Node
	if err := n.Encode(f.Interface()); err != nil {
		return err.Error()
	}
	n.Style = yaml.FlowStyle
	out, err := yaml.Marshal(&n)
	if err != nil {
		return err.Error()
	}
	return strings.Join(strings.Fields(string(out)), " ")
}
