package limits

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/skaldlog/skald/internal/conf"
)

// ignored are keys that Loki knows and that mean nothing to Skald: they tune caches,
// query splitting, index shards and components that do not exist here. They are accepted
// with any value, so that a Loki configuration can be used as it is.
var ignored = []string{
	"split_queries_by_interval", "split_metadata_queries_by_interval", "split_recent_metadata_queries_by_interval",
	"recent_metadata_query_window", "split_instant_metric_queries_by_interval", "split_ingester_queries_by_interval",
	"min_sharding_lookback", "engine_results_cache_time_bucket_interval", "max_cache_freshness_per_query",
	"max_metadata_cache_freshness", "max_stats_cache_freshness", "tsdb_max_bytes_per_shard", "tsdb_sharding_strategy",
	"tsdb_precompute_chunks", "query_ready_index_num_days", "allow_deletes",
	"index_gateway_shard_size", "index_gateway_max_capacity", "pattern_ingester_tokenizable_json_fields_default",
	"pattern_ingester_tokenizable_json_fields_append", "pattern_ingester_tokenizable_json_fields_delete",
	"pattern_rate_threshold", "pattern_persistence_granularity", "ingestion_partitions_tenant_shard_size",
	"policy_override_limits", "per_tenant_override_config", "per_tenant_override_period", "max_scan_task_parallelism",
	"debug_engine_tasks", "debug_engine_streams", "discover_generic_fields",
}

var ignoredPrefixes = []string{"bloom_", "s3_sse_", "ruler_"}

// Ignored reports whether key is one that Loki knows and Skald accepts without effect.
func Ignored(key string) bool {
	if _, ok := fieldByKey[key]; ok {
		return false
	}
	return slices.Contains(ignored, key) ||
		slices.ContainsFunc(ignoredPrefixes, func(p string) bool { return strings.HasPrefix(key, p) })
}

var fieldByKey = func() map[string]int {
	m := map[string]int{}
	t := reflect.TypeFor[Limits]()
	for i := range t.NumField() {
		m[keyOf(t.Field(i))] = i
	}
	return m
}()

func keyOf(f reflect.StructField) string {
	key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return key
}

// UnmarshalYAML changes the limits that the map n has keys for and checks the result.
// Unknown keys, at any depth, and values of a wrong type are errors that name their line.
func (l *Limits) UnmarshalYAML(n *yaml.Node) error {
	next := *l
	if err := next.apply(n); err != nil {
		return err
	}
	if err := next.Validate(); err != nil {
		return fmt.Errorf("line %d: %w", n.Line, err)
	}
	*l = next
	return nil
}

// apply sets the fields that n has keys for, without validating the whole.
func (l *Limits) apply(n *yaml.Node) error {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if isNull(n) {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: got %s, want a map of limits", n.Line, describe(n))
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if err := l.set(n.Content[i], n.Content[i+1]); err != nil {
			return err
		}
	}
	return nil
}

func (l *Limits) set(key, value *yaml.Node) error {
	index, ok := fieldByKey[key.Value]
	switch {
	case key.Value == "<<": // a YAML merge
		return l.apply(value)
	case Ignored(key.Value):
		return nil
	case !ok:
		return fmt.Errorf("line %d: unknown limit %q%s", key.Line, key.Value, suggestion(key.Value))
	case isNull(value):
		return nil
	}
	field := reflect.ValueOf(l).Elem().Field(index)
	if err := checkKeys(value, field.Type()); err != nil {
		return fmt.Errorf("%w (in %s)", err, key.Value)
	}
	// Lists, maps and the OTLP rules replace what was there; decoding would add to a
	// map that other tenants share. Other structs keep the fields that are not given.
	if k := field.Kind(); k == reflect.Map || k == reflect.Slice || field.Type() == reflect.TypeFor[OTLPConfig]() {
		field.SetZero()
	}
	if err := value.Decode(field.Addr().Interface()); err != nil {
		return fmt.Errorf("%s: %w", key.Value, tidy(err, value))
	}
	if key.Value == "otlp_config" {
		l.OTLPConfig.withDefaults()
	}
	return nil
}

// tidy turns the decoder's report into one line that says where.
func tidy(err error, n *yaml.Node) error {
	if te, ok := err.(*yaml.TypeError); ok {
		return fmt.Errorf("%s", strings.Join(te.Errors, "; "))
	}
	if strings.Contains(err.Error(), "line ") {
		return err
	}
	return fmt.Errorf("line %d: %w", n.Line, err)
}

// checkKeys finds keys that the struct at the same place in t does not have.
func checkKeys(n *yaml.Node, t reflect.Type) error {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[yaml.Unmarshaler]()) {
		return nil
	}
	switch {
	case n.Kind == yaml.SequenceNode && t.Kind() == reflect.Slice:
		for _, item := range n.Content {
			if err := checkKeys(item, t.Elem()); err != nil {
				return err
			}
		}
	case n.Kind == yaml.MappingNode && t.Kind() == reflect.Map:
		for i := 1; i < len(n.Content); i += 2 {
			if err := checkKeys(n.Content[i], t.Elem()); err != nil {
				return err
			}
		}
	case n.Kind == yaml.MappingNode && t.Kind() == reflect.Struct:
		return checkStruct(n, t)
	}
	return nil
}

func checkStruct(n *yaml.Node, t reflect.Type) error {
	types, names := map[string]reflect.Type{}, []string{}
	for i := range t.NumField() {
		if key := keyOf(t.Field(i)); key != "" && key != "-" {
			types[key] = t.Field(i).Type
			names = append(names, key)
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		sub, ok := types[key.Value]
		if !ok {
			return fmt.Errorf("line %d: unknown key %q, want one of %s", key.Line, key.Value, strings.Join(names, ", "))
		}
		if err := checkKeys(n.Content[i+1], sub); err != nil {
			return err
		}
	}
	return nil
}

// suggestion offers the known key that is nearest.
func suggestion(key string) string {
	near := conf.Closest(key, slices.Sorted(maps.Keys(fieldByKey)))
	if len(near) == 0 {
		return ""
	}
	return fmt.Sprintf(", did you mean %q?", near[0])
}

func isNull(n *yaml.Node) bool { return n.Kind == 0 || n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		return fmt.Sprintf("%q", n.Value)
	}
	return "something else"
}

// YAML prints every limit under its key, in canonical form; reading it back gives equal
// limits.
func (l *Limits) YAML() ([]byte, error) { return yaml.Marshal(l) }

// Drilldown returns the limits that explorers of logs may see, by key, ready for
// encoding/json.
func (l *Limits) Drilldown() map[string]any {
	keys := []string{
		"discover_log_levels", "discover_service_name", "log_level_fields", "max_entries_limit_per_query",
		"max_line_size_truncate", "max_query_bytes_read", "max_query_length", "max_query_lookback",
		"max_query_range", "max_query_series", "metric_aggregation_enabled", "otlp_config",
		"pattern_persistence_enabled", "query_timeout", "retention_period", "retention_stream",
		"volume_enabled", "volume_max_series",
	}
	out, v := make(map[string]any, len(keys)), reflect.ValueOf(l).Elem()
	for _, key := range keys {
		out[key] = v.Field(fieldByKey[key]).Interface()
	}
	return out
}
