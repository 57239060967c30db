// Package compact looks after the segments in the object store once they are there: it
// merges small ones into large ones, drops rows that stand twice, removes what retention
// has ended or a delete request names, and deletes the segments that others replace. The
// server runs it in the background (Run), an operator by hand (Once).
//
// # What keeps every row visible exactly once
//
// All state is in the object store, and none of it belongs to the compactor. A round begins
// with a LIST and the footers of what it shows, and everything follows from these:
//
//   - A segment that another names in MergedFrom is replaced; all others are live. Only live
//     segments are merged. Readers use the same rule, so the moment in which the merged
//     object appears is the moment in which it takes the place of its sources, all at once.
//   - That is why a merge has one output and never several: of several, a reader might see
//     one that replaces the sources, and not yet another that holds the rest of their rows.
//     Objects are kept to their size by the choice of what is merged, not by cutting.
//   - A replaced segment is deleted when a segment that names it is there (asked with Stat,
//     not with LIST) and has been for Config.DeleteDelay. By then no reader can hold a
//     listing without it. A merged segment names all generations before it, so the order in
//     which these go does not matter.
//   - A merge whose rows were all dropped still writes its segment, without rows, because
//     something must say that the sources are replaced. It is deleted long after them.
//
// A crash leaves at most an upload that is complete or not there. Whoever starts next sees
// either, and goes on from there. Two compactors at once, by mistake, may merge the same
// segments twice: both outputs are live and name common sources, readers drop the rows that
// stand twice, and the next round merges the two into one.
//
// # Retention and delete requests
//
// Rows expire by the UTC day: a stream's rows of a day end when the day's last moment is
// older than the stream's period. So a period costs one rewriting of a segment, not one in
// every round. A day in which everything has expired is deleted unread.
//
// Delete requests are JSON objects under <tenant>/deletes/. Deletes keeps them and tells
// the querier what to hide meanwhile; the compactor applies them to the objects when they
// can no longer be canceled.
package compact

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/storage/catalog"
	"github.com/skaldlog/skald/storage/internal/lru"
	"github.com/skaldlog/skald/storage/object"
)

// Config holds the settings of a Compactor and of Deletes. Zeros mean the defaults of
// RegisterFlags, except that Retention and Verify are off.
type Config struct {
	// Dir is where a merged segment is written before its upload, at most four times
	// TargetBytes at a time; "" is the system's directory for temporary files. What a crash
	// leaves there has no name, so it needs no cleaning.
	Dir string
	// Interval is the pause between two rounds of Run.
	Interval time.Duration
	// TargetBytes is how large objects should become.
	TargetBytes int64
	// MaxInputs bounds the segments that one merge reads, and so its memory: about three
	// megabytes each.
	MaxInputs int
	// DeleteDelay is how long a merged segment must have been there before its sources go.
	DeleteDelay time.Duration
	// CancelPeriod is how long a delete request can be canceled; until then objects keep
	// the rows, which queries do not see.
	CancelPeriod time.Duration
	// Retention lets retention periods and delete requests remove rows from objects.
	Retention bool
	// Verify reads each merged segment once more, wholly, before it is uploaded.
	Verify bool
	// Owner, if set, says whether Run is to look after a tenant's day, so that several
	// compactors share the work. The day "" stands for what is done once for a tenant.
	Owner func(tenant model.Tenant, day string) bool
}

// RegisterFlags declares the settings, with their defaults.
func (c *Config) RegisterFlags(fs *flag.FlagSet) {
	fs.DurationVar(&c.Interval, "compact.interval", defaultInterval, "Pause between two rounds of compaction. Longer leaves more small objects for queries to open.")
	fs.Int64Var(&c.TargetBytes, "compact.target-bytes", defaultTarget, "Size that objects should reach by being merged. Larger ones are fewer for a query to open; merging needs up to four times that much local disk.")
	fs.IntVar(&c.MaxInputs, "compact.max-inputs", defaultMaxInputs, "Segments that are merged at a time, each of which takes about 3 MB of memory meanwhile.")
	fs.DurationVar(&c.DeleteDelay, "compact.delete-delay", defaultDeleteDelay, "How long segments stay after they were merged into another. It must exceed the catalog's cache time and the longest query together, or queries fail now and then and have to be repeated.")
	fs.DurationVar(&c.CancelPeriod, "compact.delete-request-cancel-period", defaultCancelPeriod, "How long a delete request can be canceled. Queries do not see its rows from the start; objects lose them after this period, or after -compact.delete-delay if that is longer. It must also exceed the time that ingesters take to upload.")
	fs.BoolVar(&c.Retention, "compact.retention-enabled", true, "Delete rows whose retention period is over or that a delete request names. Without it objects keep everything.")
	fs.BoolVar(&c.Verify, "compact.verify", false, "Read each merged segment again, wholly, and check it before it replaces others. It costs nearly as much CPU as the merge, and some more memory. Rows are counted in any case.")
}

const (
	defaultInterval     = 10 * time.Minute
	defaultTarget       = 256 << 20
	defaultMaxInputs    = 16
	defaultDeleteDelay  = time.Hour
	defaultCancelPeriod = 24 * time.Hour
)

func (c *Config) setDefaults() {
	if c.Interval <= 0 {
		c.Interval = defaultInterval
	}
	if c.TargetBytes <= 0 {
		c.TargetBytes = defaultTarget
	}
	if c.MaxInputs < 2 {
		c.MaxInputs = defaultMaxInputs
	}
	if c.DeleteDelay <= 0 {
		c.DeleteDelay = defaultDeleteDelay
	}
	if c.CancelPeriod <= 0 {
		c.CancelPeriod = defaultCancelPeriod
	}
}

// CheckDelay says whether DeleteDelay suits the readers: least is the catalog's cache time
// and the longest query together.
func (c *Config) CheckDelay(least time.Duration) error {
	if c.DeleteDelay < least {
		return fmt.Errorf("-compact.delete-delay=%s: expected at least %s, the catalog's cache time and the longest query together, or queries would fail", c.DeleteDelay, least)
	}
	return nil
}

// RowFilter says which rows a query selects. It is asked once for each stream: all means
// that it selects every row; else row, unless it is nil, is asked for each row and returns
// true for those it selects. The row's line and metadata are valid during the call;
// metadata is sorted by name. One goroutine uses a RowFilter.
type RowFilter func(stream labels.Labels) (all bool, row func(ts int64, line []byte, metadata labels.Labels) bool)

// Filters is a LogQL query that was understood.
type Filters struct {
	// New returns a RowFilter. Any number of goroutines may call it, each for one of its own. It
	// costs little: what a filter needs is made when a stream is met that needs it.
	New func() RowFilter
	// Bytes are about what is kept in memory for it.
	Bytes int64
}

// Compile understands a LogQL query that selects log lines. The caller provides it, since
// storage does not know the language.
type Compile func(query string) (*Filters, error)

// Compactor compacts the segments of a store. One of them should look after a tenant's day
// at a time; more are safe, and waste work.
type Compactor struct {
	cfg     Config
	store   object.Store
	fresh   *catalog.Catalog // caches nothing
	shared  *catalog.Catalog // of this process's readers; may be nil
	limits  limits.Source
	deletes *Deletes
	compile Compile
	logger  *slog.Logger
	metrics metrics
	now     func() time.Time

	// busy holds a token while a round runs; what follows belongs to whoever took it.
	busy    chan struct{}
	known   *lru.Cache[string, *seg] // footers by segment id
	clean   *lru.Cache[string, string]
	visited *lru.Cache[tenantDay, visit]
	damaged map[object.Key]time.Time // segments that a merge found corrupt, when
}

type tenantDay struct {
	tenant model.Tenant
	day    string
}

// New returns a compactor of the segments in store, which must not be a cache. The catalog,
// which may be nil, is told of what changes; limits say what retention applies; deletes
// and compile may both be nil when there are no delete requests. A nil reg registers no
// metrics, a nil logger logs nothing.
func New(cfg Config, store object.Store, cat *catalog.Catalog, lim limits.Source, deletes *Deletes, compile Compile, reg prometheus.Registerer, logger *slog.Logger) *Compactor {
	cfg.setDefaults()
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Compactor{
		cfg: cfg, store: store, shared: cat, limits: lim, deletes: deletes, compile: compile,
		fresh:  catalog.New(store, catalog.Config{}, nil, logger),
		logger: logger, metrics: newMetrics(reg), now: time.Now,
		busy:    make(chan struct{}, 1),
		known:   lru.New[string, *seg](32 << 20),
		clean:   lru.New[string, string](100_000),
		visited: lru.New[tenantDay, visit](100_000),
		damaged: map[object.Key]time.Time{},
	}
}

// Run makes a round now and again until ctx ends, and then returns its error. A merge that
// is under way is given up; nothing of it remains.
func (c *Compactor) Run(ctx context.Context) error {
	timer := time.NewTimer(min(c.cfg.Interval, time.Minute)) // a server that starts has better things to do
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		start := c.now()
		sum, err := c.round(ctx, Filter{}, true, nil)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			c.logger.ErrorContext(ctx, "compaction could not do all of its work, will try again", "store", c.store.String(), "err", err)
		case sum.Merges > 0 || sum.SegmentsDeleted > 0:
			c.logger.InfoContext(ctx, "compacted", "took", c.now().Sub(start).Round(time.Millisecond), "summary", sum)
		}
		timer.Reset(c.cfg.Interval)
	}
}

// Filter narrows a round.
type Filter struct {
	// Tenant and Day, as 2006-01-02, when not empty, are the only ones looked at.
	Tenant model.Tenant
	Day    string
	// Full treats days as over that are not: everything is merged as far as it goes.
	Full bool
}

// Progress says what a round is doing.
type Progress struct {
	Tenant model.Tenant
	Day    string
	// Stage is "merge", "verify", "upload", "delete" or "done", which ends a merge.
	Stage string
	// Segments and Bytes are the inputs of the merge, or the segments being deleted.
	Segments int
	Bytes    int64
	// Rows of TotalRows have been read, Output bytes were written; 0 while unknown.
	Rows, TotalRows int64
	Output          int64
}

// Summary says what a round has done.
type Summary struct {
	Days, Merges            int
	SegmentsIn, SegmentsOut int
	BytesIn, BytesOut       int64
	// RowsDuplicate stood in several inputs, RowsDeleted were named by a delete request,
	// RowsExpired had come to the end of their retention while others of their segment had
	// not; days that expire as a whole are deleted uncounted.
	RowsDuplicate, RowsDeleted, RowsExpired int64
	// SegmentsDeleted counts objects that were replaced or expired.
	SegmentsDeleted int
}

// String is for logs and the operator.
func (s Summary) String() string {
	return fmt.Sprintf("%d days: %d merges of %d segments (%d bytes) into %d (%d bytes); %d rows were duplicates, %d deleted, %d expired; %d segments deleted",
		s.Days, s.Merges, s.SegmentsIn, s.BytesIn, s.SegmentsOut, s.BytesOut, s.RowsDuplicate, s.RowsDeleted, s.RowsExpired, s.SegmentsDeleted)
}

// Once makes one round over what the filter leaves, with all merges that are due, and
// reports each step to progress, unless that is nil. What cannot be done for one day does
// not keep it from the others; the error joins all failures.
func (c *Compactor) Once(ctx context.Context, filter Filter, progress func(Progress)) (Summary, error) {
	return c.round(ctx, filter, false, progress)
}

// round visits each tenant's days, those of today first: they have the most to gain.
func (c *Compactor) round(ctx context.Context, filter Filter, lazy bool, progress func(Progress)) (sum Summary, err error) {
	select {
	case c.busy <- struct{}{}:
		defer func() { <-c.busy }()
	case <-ctx.Done():
		return sum, ctx.Err()
	}
	defer func() { c.metrics.ended(c.now(), err) }()
	r := &round{Compactor: c, filter: filter, lazy: lazy, sum: &sum, progress: progress}
	tenants := []model.Tenant{filter.Tenant}
	if filter.Tenant == "" {
		if tenants, err = c.fresh.Tenants(ctx); err != nil {
			return sum, err
		}
	}
	var failures []error
	for _, tenant := range tenants {
		if err := r.tenant(ctx, tenant); err != nil {
			if ctx.Err() != nil {
				return sum, ctx.Err()
			}
			failures = append(failures, fmt.Errorf("compact tenant %s: %w", tenant, err))
		}
	}
	return sum, errors.Join(failures...)
}

// round is one passage over the store.
type round struct {
	*Compactor
	filter   Filter
	lazy     bool // leaves out days in which nothing can have changed
	sum      *Summary
	progress func(Progress)
}

func (r *round) tell(p Progress) {
	if r.progress != nil {
		r.progress(p)
	}
}

func (r *round) tenant(ctx context.Context, tenant model.Tenant) error {
	days, err := r.fresh.Days(ctx, tenant)
	if err != nil {
		return err
	}
	pending, err := r.pendingRequests(ctx, tenant)
	if err != nil {
		return err
	}
	for _, q := range pending {
		if q.Days == 0 { // or whoever has done the first one could not say of how many
			q.Days = len(q.daysAmong(days))
		}
	}
	keeps := r.retentionOf(tenant)
	var failures []error
	for i := len(days) - 1; i >= 0; i-- {
		if r.filter.Day != "" && r.filter.Day != days[i] || !r.owns(tenant, days[i]) {
			continue
		}
		if err := r.oneDay(ctx, tenantDay{tenant, days[i]}, keeps, pending); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r.metrics.failures.Inc()
			failures = append(failures, fmt.Errorf("day %s: %w", days[i], err))
		}
	}
	if r.owns(tenant, "") {
		if err := r.finishRequests(ctx, tenant, pending, days); err != nil {
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
}

// owns reports whether a tenant's day is this compactor's. A round that somebody asked for
// looks after everything.
func (r *round) owns(tenant model.Tenant, day string) bool {
	return !r.lazy || r.cfg.Owner == nil || r.cfg.Owner(tenant, day)
}
