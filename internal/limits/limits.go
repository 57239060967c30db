package limits

import (
	"slices"

	"github.com/skaldlog/skald/internal/model"
)

// Limits are the settings of one tenant. Zero means "no limit" where a field does not
// say otherwise. The yaml tag is Loki's key and also the flag, -limits.KEY; the help tag
// is the flag's help text.
//
// A Limits is shared by all requests of a tenant and is read-only once it has been
// handed out; a changed file yields a new value at a new address.
type Limits struct {
	// Ingestion, enforced by the distributor.

	IngestionRateStrategy             string              `yaml:"ingestion_rate_strategy" help:"local: each distributor grants the whole rate; global: the rate is divided by the number of distributors."`
	IngestionRateMB                   float64             `yaml:"ingestion_rate_mb" help:"Bytes a tenant may push per second, in MiB, metadata included. Pushes above it are refused with 429. 0 refuses nothing."`
	IngestionBurstSizeMB              float64             `yaml:"ingestion_burst_size_mb" help:"Size of the rate's bucket, in MiB. One push larger than it can never succeed."`
	MaxLabelNameLength                int                 `yaml:"max_label_name_length" help:"Longest stream label name, in bytes."`
	MaxLabelValueLength               int                 `yaml:"max_label_value_length" help:"Longest stream label value, in bytes."`
	MaxLabelNamesPerSeries            int                 `yaml:"max_label_names_per_series" help:"Labels a stream may have, service_name not counted."`
	RejectOldSamples                  bool                `yaml:"reject_old_samples" help:"Refuse entries older than reject_old_samples_max_age."`
	RejectOldSamplesMaxAge            Duration            `yaml:"reject_old_samples_max_age" help:"Age up to which entries are accepted."`
	CreationGracePeriod               Duration            `yaml:"creation_grace_period" help:"How far in the future a timestamp may lie."`
	MaxLineSize                       Bytes               `yaml:"max_line_size" help:"Longest line. Longer ones are refused, or cut with max_line_size_truncate. 0 allows any length."`
	MaxLineSizeTruncate               bool                `yaml:"max_line_size_truncate" help:"Cut lines above max_line_size instead of refusing them."`
	MaxLineSizeTruncateIdentifier     string              `yaml:"max_line_size_truncate_identifier" help:"Text at the end of lines that were cut; it counts towards max_line_size."`
	AllowStructuredMetadata           bool                `yaml:"allow_structured_metadata" help:"Accept structured metadata. Without it no detected_level is derived either."`
	MaxStructuredMetadataSize         Bytes               `yaml:"max_structured_metadata_size" help:"Names and values of one entry's structured metadata together."`
	MaxStructuredMetadataEntriesCount int                 `yaml:"max_structured_metadata_entries_count" help:"Structured metadata pairs one entry may have."`
	IncrementDuplicateTimestamp       bool                `yaml:"increment_duplicate_timestamp" help:"Move an entry by a nanosecond when it has the timestamp of the previous entry of the push and another line."`
	EnforcedLabels                    []string            `yaml:"enforced_labels" help:"Labels that every stream must have."`
	PolicyEnforcedLabels              map[string][]string `yaml:"policy_enforced_labels" help:"Labels that streams of a policy must have besides enforced_labels; the policy * is every stream's."`
	BlockIngestionUntil               Time                `yaml:"block_ingestion_until" help:"Refuse all pushes until this time."`
	BlockIngestionStatusCode          int                 `yaml:"block_ingestion_status_code" help:"Status that blocked pushes get; 200 drops them silently."`
	BlockIngestionPolicyUntil         map[string]Time     `yaml:"block_ingestion_policy_until" help:"Refuse streams of a policy until a time; the policy * is every stream's."`
	SimulatedPushLatency              GoDuration          `yaml:"simulated_push_latency" help:"Delay before a push is answered, to test clients."`
	PolicyStreamMapping               PolicyMapping       `yaml:"policy_stream_mapping" help:"Which streams belong to which policy."`

	// Derivation of labels and metadata, done by the distributor.

	DiscoverServiceName       []string   `yaml:"discover_service_name" help:"Labels whose value becomes service_name, in order of preference; empty switches discovery off."`
	DiscoverLogLevels         bool       `yaml:"discover_log_levels" help:"Store the level of each line as the metadata detected_level."`
	LogLevelFields            []string   `yaml:"log_level_fields" help:"Labels, metadata keys and fields of the line that hold the level, in order of preference."`
	LogLevelFromJSONMaxDepth  int        `yaml:"log_level_from_json_max_depth" help:"How many levels of nested objects are searched for the level; 0 searches all."`
	OTLPConfig                OTLPConfig `yaml:"otlp_config" help:"What becomes of OTLP attributes."`
	MetricAggregationEnabled  bool       `yaml:"metric_aggregation_enabled" help:"Shown to clients; Skald aggregates at query time."`
	PatternPersistenceEnabled bool       `yaml:"pattern_persistence_enabled" help:"Shown to clients; Skald finds patterns at query time."`

	// Ingestion, enforced by the ingester.

	MaxStreamsPerUser        int          `yaml:"max_streams_per_user" help:"Active streams a tenant may have on one ingester."`
	IngestionTenantShardSize int          `yaml:"ingestion_tenant_shard_size" help:"Ingesters that hold a tenant's streams (shuffle sharding), spread evenly over zones, at least the replication factor; 0 means all of them."`
	MaxGlobalStreamsPerUser  int          `yaml:"max_global_streams_per_user" help:"Active streams a tenant may have in the cluster. Pushes to others are refused with 429."`
	UseOwnedStreamCount      bool         `yaml:"use_owned_stream_count" help:"Count only streams that the ingester owns in the ring."`
	PerStreamRateLimit       Bytes        `yaml:"per_stream_rate_limit" help:"Bytes one stream may receive per second."`
	PerStreamRateLimitBurst  Bytes        `yaml:"per_stream_rate_limit_burst" help:"Size of the per-stream rate's bucket."`
	UnorderedWrites          bool         `yaml:"unordered_writes" help:"Accept entries older than the newest of their stream."`
	ShardStreams             ShardStreams `yaml:"shard_streams" help:"How streams that receive much are spread."`

	// Queries.

	MaxEntriesLimitPerQuery    int            `yaml:"max_entries_limit_per_query" help:"Highest limit a log query may ask for."`
	MaxQuerySeries             int            `yaml:"max_query_series" help:"Series a metric query may return; 0 allows none."`
	MaxQueryLength             Duration       `yaml:"max_query_length" help:"Longest time range of a query."`
	MaxQueryLookback           Duration       `yaml:"max_query_lookback" help:"How far into the past queries see; earlier starts are moved."`
	MaxQueryRange              Duration       `yaml:"max_query_range" help:"Longest [range] of a range aggregation."`
	QueryTimeout               Duration       `yaml:"query_timeout" help:"Time a query may take before it fails with 504."`
	MaxQueryParallelism        int            `yaml:"max_query_parallelism" help:"Parallel parts of one query; with tsdb_max_query_parallelism both 0 querying is disabled."`
	TSDBMaxQueryParallelism    int            `yaml:"tsdb_max_query_parallelism" help:"Parallel parts of one query; with max_query_parallelism both 0 querying is disabled."`
	MaxStreamsMatchersPerQuery int            `yaml:"max_streams_matchers_per_query" help:"Label matchers a query may hold."`
	MaxConcurrentTailRequests  int            `yaml:"max_concurrent_tail_requests" help:"Tails a tenant may have open."`
	MaxChunksPerQuery          int            `yaml:"max_chunks_per_query" help:"Blocks a query may read."`
	CardinalityLimit           int            `yaml:"cardinality_limit" help:"Kept for compatibility; Skald's index has no such limit."`
	MaxQueryBytesRead          Bytes          `yaml:"max_query_bytes_read" help:"Bytes a query may have to read, by index statistics."`
	MaxQuerierBytesRead        Bytes          `yaml:"max_querier_bytes_read" help:"Bytes one querier may have to read for a query, by index statistics."`
	VolumeEnabled              bool           `yaml:"volume_enabled" help:"Serve the log volume endpoints; off answers 404."`
	VolumeMaxSeries            int            `yaml:"volume_max_series" help:"Series a volume query may return."`
	RequiredLabels             []string       `yaml:"required_labels" help:"Labels that the matchers of every query must name."`
	MinimumLabelsNumber        int            `yaml:"minimum_labels_number" help:"Matchers that every query must have."`
	BlockedQueries             []BlockedQuery `yaml:"blocked_queries" help:"Queries to refuse."`
	EnableMultiVariantQueries  bool           `yaml:"enable_multi_variant_queries" help:"Allow variants(…) of …."`
	ShardAggregations          []string       `yaml:"shard_aggregations" help:"Aggregations that Loki shards. approx_topk must be named to be allowed; other names change nothing, since every aggregation is computed in parallel here."`
	MaxQueriersPerTenant       int            `yaml:"max_queriers_per_tenant" help:"Queriers that serve a tenant."`
	MaxQueryCapacity           float64        `yaml:"max_query_capacity" help:"Share of the queriers that serve a tenant, 0 to 1."`

	// Rules, retention and deletion.

	RulerMaxRulesPerRuleGroup   int               `yaml:"ruler_max_rules_per_rule_group" help:"Rules a rule group may have."`
	RulerMaxRuleGroupsPerTenant int               `yaml:"ruler_max_rule_groups_per_tenant" help:"Rule groups a tenant may have."`
	RetentionPeriod             Duration          `yaml:"retention_period" help:"Age at which entries are deleted; 0s keeps them for ever."`
	RetentionStream             []StreamRetention `yaml:"retention_stream" help:"Other retention periods for some streams."`
	DeletionMode                string            `yaml:"deletion_mode" help:"disabled, filter-only or filter-and-delete."`
}

const (
	kb = 1 << 10
	mb = 1 << 20
	gb = 1 << 30
)

// Defaults returns Loki's defaults.
func Defaults() Limits {
	return Limits{
		IngestionRateStrategy:             "global",
		IngestionRateMB:                   4,
		IngestionBurstSizeMB:              6,
		MaxLabelNameLength:                1024,
		MaxLabelValueLength:               2048,
		MaxLabelNamesPerSeries:            15,
		RejectOldSamples:                  true,
		RejectOldSamplesMaxAge:            7 * day,
		CreationGracePeriod:               10 * minute,
		MaxLineSize:                       256 * kb,
		AllowStructuredMetadata:           true,
		MaxStructuredMetadataSize:         64 * kb,
		MaxStructuredMetadataEntriesCount: 128,
		BlockIngestionStatusCode:          260,
		DiscoverServiceName: []string{
			"service", "app", "application", "app_name", "name", "app_kubernetes_io_name", "container",
			"container_name", "k8s_container_name", "component", "workload", "job", "k8s_job_name",
		},
		DiscoverLogLevels: true,
		LogLevelFields: []string{
			"level", "LEVEL", "Level", "log.level", "severity", "SEVERITY", "Severity", "SeverityText",
			"lvl", "LVL", "Lvl", "severity_text", "Severity_Text", "SEVERITY_TEXT",
		},
		LogLevelFromJSONMaxDepth: 2,
		OTLPConfig:               defaultOTLP(),

		MaxGlobalStreamsPerUser: 5000,
		PerStreamRateLimit:      3 * mb,
		PerStreamRateLimitBurst: 15 * mb,
		UnorderedWrites:         true,
		ShardStreams:            ShardStreams{Enabled: true, DesiredRate: 1536 * kb, TimeShardingIgnoreRecent: 40 * minute},

		MaxEntriesLimitPerQuery:    5000,
		MaxQuerySeries:             500,
		MaxQueryLength:             721 * hour,
		QueryTimeout:               minute,
		MaxQueryParallelism:        32,
		TSDBMaxQueryParallelism:    128,
		MaxStreamsMatchersPerQuery: 1000,
		MaxConcurrentTailRequests:  10,
		MaxChunksPerQuery:          2_000_000,
		CardinalityLimit:           100_000,
		MaxQuerierBytesRead:        150 * gb,
		VolumeEnabled:              true,
		VolumeMaxSeries:            1000,

		DeletionMode: "filter-and-delete",
	}
}

// IngestionRate returns ingestion_rate_mb in bytes per second.
func (l *Limits) IngestionRate() float64 { return l.IngestionRateMB * mb }

// IngestionBurst returns ingestion_burst_size_mb in bytes.
func (l *Limits) IngestionBurst() int { return int(l.IngestionBurstSizeMB * mb) }

// Source hands out the limits of a tenant. It is safe for concurrent use.
type Source interface {
	For(tenant model.Tenant) *Limits
}

// Static returns a Source that gives every tenant the same limits.
func Static(l Limits) Source { return static{&l} }

type static struct{ l *Limits }

func (s static) For(model.Tenant) *Limits { return s.l }

// Tightest returns the first of ls with every query limit replaced by the smallest
// positive value that any of ls has, which is what a query over several tenants obeys.
// It needs at least one element.
func Tightest(ls ...*Limits) *Limits {
	out := *ls[0]
	for _, l := range ls[1:] {
		tighten(&out.MaxEntriesLimitPerQuery, l.MaxEntriesLimitPerQuery)
		tighten(&out.MaxQuerySeries, l.MaxQuerySeries)
		tighten(&out.MaxQueryLength, l.MaxQueryLength)
		tighten(&out.MaxQueryLookback, l.MaxQueryLookback)
		tighten(&out.MaxQueryRange, l.MaxQueryRange)
		tighten(&out.QueryTimeout, l.QueryTimeout)
		tighten(&out.MaxQueryParallelism, l.MaxQueryParallelism)
		tighten(&out.TSDBMaxQueryParallelism, l.TSDBMaxQueryParallelism)
		tighten(&out.MaxStreamsMatchersPerQuery, l.MaxStreamsMatchersPerQuery)
		tighten(&out.MaxConcurrentTailRequests, l.MaxConcurrentTailRequests)
		tighten(&out.MaxChunksPerQuery, l.MaxChunksPerQuery)
		tighten(&out.MaxQueryBytesRead, l.MaxQueryBytesRead)
		tighten(&out.MaxQuerierBytesRead, l.MaxQuerierBytesRead)
		tighten(&out.VolumeMaxSeries, l.VolumeMaxSeries)
		out.VolumeEnabled = out.VolumeEnabled && l.VolumeEnabled
		out.EnableMultiVariantQueries = out.EnableMultiVariantQueries && l.EnableMultiVariantQueries
		out.ShardAggregations = intersection(out.ShardAggregations, l.ShardAggregations)
		out.MinimumLabelsNumber = max(out.MinimumLabelsNumber, l.MinimumLabelsNumber)
		out.RequiredLabels = union(out.RequiredLabels, l.RequiredLabels)
		out.BlockedQueries = append(slices.Clip(out.BlockedQueries), l.BlockedQueries...)
	}
	return &out
}

func tighten[N int | Duration | Bytes](have *N, other N) {
	if other > 0 && (*have <= 0 || other < *have) {
		*have = other
	}
}

func intersection(a, b []string) []string {
	var out []string
	for _, s := range a {
		if slices.Contains(b, s) {
			out = append(out, s)
		}
	}
	return out
}

func union(a, b []string) []string {
	out := slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
