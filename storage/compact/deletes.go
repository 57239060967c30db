package compact

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/storage/internal/lru"
	"github.com/skaldlog/skald/storage/object"
)

// Request is a delete request. Under <tenant>/deletes/, <id>.json holds what was asked for
// and never changes; <id>.state.json, once there is something to say, how far it has come.
type Request struct {
	ID    string `json:"id"`
	Query string `json:"query"`
	// Start and End are the first and the last timestamp concerned, in nanoseconds.
	Start int64 `json:"start"`
	End   int64 `json:"end"`
	// Created is when it was made, in nanoseconds.
	Created int64 `json:"created"`

	// DaysDone are the days from whose objects the rows are gone, of Days that had objects.
	DaysDone []string `json:"-"`
	Days     int      `json:"-"`
	// Processed is when the last of them was done, in nanoseconds; 0 before.
	Processed int64 `json:"-"`
}

// state is the content of <id>.state.json.
type state struct {
	DaysDone  []string `json:"days_done"`
	Days      int      `json:"days"`
	Processed int64    `json:"processed,omitempty"`
}

// Status is how the API tells how far a request has come: received, N% Complete, processed.
func (q *Request) Status() string {
	switch {
	case q.Processed > 0:
		return "processed"
	case len(q.DaysDone) > 0:
		return fmt.Sprintf("%d%% Complete", min(99, 100*len(q.DaysDone)/max(1, q.Days)))
	}
	return "received"
}

func (q *Request) contains(ts int64) bool { return ts >= q.Start && ts <= q.End }

// span is the request's time as a half-open range.
func (q *Request) span() model.TimeRange {
	through := q.End
	if through < 1<<63-1 {
		through++
	}
	return model.TimeRange{From: q.Start, Through: through}
}

// Bounds of what a tenant may store: the text of a query, and requests at a time.
const (
	maxQuery    = 64 << 10
	maxRequests = 1000
	maxObject   = 1 << 20
)

// deletesTTL is how long a tenant's requests are believed. Another process's request is
// hidden that much later.
const deletesTTL = 10 * time.Second

// getsAtOnce bounds how many delete requests are read at the same time.
const getsAtOnce = 16

// keepProcessed is how long a request is listed after it was processed.
const keepProcessed = 30 * 24 * time.Hour

// Deletes keeps the delete requests in the object store. The HTTP API creates, lists and
// cancels them, the querier asks which rows to hide, the compactor applies them. All
// methods may be called from many goroutines.
type Deletes struct {
	cfg    Config
	store  object.Store
	limits limits.Source
	logger *slog.Logger
	now    func() time.Time
	mu     struct {
		sync.Mutex
		tenants *lru.Cache[model.Tenant, requestList]
		filters *lru.Cache[string, *Filters] // by a request's query
		changed map[model.Tenant]uint64      // counts writes, so that a listing they overtook is not kept
	}
}

type requestList struct {
	requests []Request // by creation; read-only
	at       time.Time
}

// NewDeletes returns the delete requests in store. A nil logger logs nothing.
func NewDeletes(cfg Config, store object.Store, lim limits.Source, logger *slog.Logger) *Deletes {
	cfg.setDefaults()
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	d := &Deletes{cfg: cfg, store: store, limits: lim, logger: logger, now: time.Now}
	d.mu.tenants = lru.New[model.Tenant, requestList](100_000)
	d.mu.filters = lru.New[string, *Filters](maxCompiled)
	d.mu.changed = map[model.Tenant]uint64{}
	return d
}

// Allowed says why a tenant has no delete API: NotFound without retention, Forbidden when
// its deletion_mode is disabled.
func (d *Deletes) Allowed(tenant model.Tenant) error {
	if !d.cfg.Retention {
		return fault.New(fault.NotFound, "404 page not found")
	}
	if d.mode(tenant) == "disabled" {
		return fault.New(fault.Forbidden, "deletion is not available for this tenant")
	}
	return nil
}

func (d *Deletes) mode(tenant model.Tenant) string {
	if d.limits == nil {
		return "filter-and-delete"
	}
	return d.limits.For(tenant).DeletionMode
}

// Create stores a request to delete the rows that query selects with timestamps from start
// to end, both included, and returns it with its id. That the query can be compiled is the
// caller's to check. Rows are hidden from this process's queries when it returns.
func (d *Deletes) Create(ctx context.Context, tenant model.Tenant, query string, start, end time.Time) (Request, error) {
	now := d.now()
	switch {
	case query == "":
		return Request{}, fault.New(fault.Invalid, "query not set")
	case len(query) > maxQuery:
		return Request{}, fault.New(fault.Invalid, "query has %d bytes, at most %d are allowed", len(query), maxQuery)
	}
	if err := d.CheckSpan(start, end); err != nil {
		return Request{}, err
	}
	list, err := d.load(ctx, tenant)
	if err != nil {
		return Request{}, err
	}
	if open := slices.DeleteFunc(list, func(q Request) bool { return q.Processed > 0 }); len(open) >= maxRequests {
		return Request{}, fault.New(fault.Invalid, "%d delete requests are waiting to be processed, at most %d are allowed", len(open), maxRequests)
	}
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	q := Request{ID: hex.EncodeToString(id[:]), Query: query, Start: start.UnixNano(), End: end.UnixNano(), Created: now.UnixNano()}
	if err := d.put(ctx, tenant, requestKey(tenant, q.ID), q); err != nil {
		return Request{}, err
	}
	d.logger.InfoContext(ctx, "delete request created", "tenant", tenant, "id", q.ID, "query", query, "start", start, "end", end)
	return q, nil
}

// CheckSpan says why rows from start to end cannot be deleted.
func (d *Deletes) CheckSpan(start, end time.Time) error {
	switch {
	case end.After(d.now()):
		return fault.New(fault.Invalid, "deletes in the future are not allowed")
	case !start.Before(end):
		return fault.New(fault.Invalid, "start time can't be greater than or equal to end time")
	}
	return nil
}

// List returns a tenant's requests in the order of their creation.
func (d *Deletes) List(ctx context.Context, tenant model.Tenant) ([]Request, error) {
	return d.load(ctx, tenant)
}

// Cancel takes a request back. One that was processed cannot be; one that was partly, or
// that is older than the cancel period, only with force. What is gone already stays so.
func (d *Deletes) Cancel(ctx context.Context, tenant model.Tenant, id string, force bool) error {
	list, err := d.load(ctx, tenant)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(list, func(q Request) bool { return q.ID == id })
	switch {
	case at < 0:
		return fault.New(fault.NotFound, "could not find delete request with given id")
	case list[at].Processed > 0:
		return fault.New(fault.Invalid, "deletion of request which is in process or already processed is not allowed")
	case force:
	case len(list[at].DaysDone) > 0, d.now().Sub(time.Unix(0, list[at].Created)) > d.cfg.CancelPeriod:
		return fault.New(fault.Invalid, "Cancellation of partially completed delete request or delete request past the deadline of %s since its creation is not allowed. To force, use the ?force query parameter", d.cfg.CancelPeriod)
	}
	if err := d.forget(ctx, tenant, id); err != nil {
		return err
	}
	d.logger.InfoContext(ctx, "delete request canceled", "tenant", tenant, "id", id)
	return nil
}

// Prepare reads the tenant's requests if Hide would have to, so that a query need not wait for
// them when it has what they are about. It leaves errors to Hide.
func (d *Deletes) Prepare(ctx context.Context, tenant model.Tenant) {
	if d.Allowed(tenant) == nil {
		if _, ok := d.known(tenant); !ok {
			_, _ = d.load(ctx, tenant) // Hide will meet the error
		}
	}
}

// known returns the tenant's requests when they were read a moment ago. The caller must not
// modify them.
func (d *Deletes) known(tenant model.Tenant) ([]Request, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	list, ok := d.mu.tenants.Get(tenant)
	return list.requests, ok && d.now().Sub(list.at) < deletesTTL
}

// hiding returns the requests whose rows queries must not see: those in work, and those
// processed so recently that a replaced segment may still be read.
func (d *Deletes) hiding(ctx context.Context, tenant model.Tenant, r model.TimeRange) ([]Request, error) {
	if d.Allowed(tenant) != nil {
		return nil, nil
	}
	list, ok := d.known(tenant)
	if !ok {
		var err error
		if list, err = d.load(ctx, tenant); err != nil {
			return nil, err
		}
	}
	now := d.now()
	var out []Request
	for _, q := range list {
		recent := q.Processed == 0 || now.Sub(time.Unix(0, q.Processed)) < 2*d.cfg.DeleteDelay+d.cfg.Interval
		if recent && r.Overlaps(q.Start, q.End) {
			out = append(out, q)
		}
	}
	return out, nil
}

// Keys.

func folder(tenant model.Tenant) string { return string(tenant) + "/deletes/" }

const stateSuffix, requestSuffix = ".state.json", ".json"

func requestKey(tenant model.Tenant, id string) object.Key {
	return object.Key(folder(tenant) + id + requestSuffix)
}

func stateKey(tenant model.Tenant, id string) object.Key {
	return object.Key(folder(tenant) + id + stateSuffix)
}

// load reads a tenant's requests from the store. One that was canceled while they were
// listed is left out; one that cannot be read is an error, since its rows would reappear.
func (d *Deletes) load(ctx context.Context, tenant model.Tenant) ([]Request, error) {
	d.mu.Lock()
	age := d.mu.changed[tenant]
	d.mu.Unlock()
	at := d.now()
	var mu sync.Mutex // of the two maps
	requests, states := map[string]*Request{}, map[string]state{}
	var keys []object.Key
	for info, err := range d.store.List(ctx, folder(tenant)) {
		if err != nil {
			err = fmt.Errorf("list delete requests: %w", err)
			if fault.Of(err) == fault.Internal {
				err = fault.Wrap(fault.Unavailable, err) // the store's trouble, not ours
			}
			return nil, err
		}
		keys = append(keys, info.Key)
	}
	group, gets := errgroup.WithContext(ctx)
	group.SetLimit(getsAtOnce)
	for _, key := range keys {
		name := strings.TrimPrefix(string(key), folder(tenant))
		if id, ok := strings.CutSuffix(name, stateSuffix); ok {
			group.Go(func() error {
				var s state
				found, err := d.get(gets, key, &s)
				mu.Lock()
				defer mu.Unlock()
				if found {
					states[id] = s
				}
				return err
			})
		} else if id, ok := strings.CutSuffix(name, requestSuffix); ok {
			group.Go(func() error {
				q := new(Request)
				found, err := d.get(gets, key, q)
				mu.Lock()
				defer mu.Unlock()
				if found {
					q.ID = id
					requests[id] = q
				}
				return err
			})
		}
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	list := make([]Request, 0, len(requests))
	for id, q := range requests {
		s := states[id]
		q.DaysDone, q.Days, q.Processed = s.DaysDone, s.Days, s.Processed
		list = append(list, *q)
	}
	slices.SortFunc(list, func(a, b Request) int { return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.ID, b.ID)) })
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.changed[tenant] == age {
		d.mu.tenants.Put(tenant, requestList{list, at}, int64(1+len(list)))
	}
	return slices.Clone(list), nil
}

func (d *Deletes) get(ctx context.Context, key object.Key, into any) (bool, error) {
	data, err := object.ReadAll(ctx, d.store, key, maxObject)
	if errors.Is(err, object.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return false, fault.New(fault.Corrupt, "delete request %s in %s: %v (restore or remove the object)", key, d.store, err)
	}
	return true, nil
}

func (d *Deletes) put(ctx context.Context, tenant model.Tenant, key object.Key, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	defer d.invalidate(tenant)
	return d.store.Put(ctx, key, bytes.NewReader(data), int64(len(data)))
}

// forget removes a request, and then its state, which means nothing alone.
func (d *Deletes) forget(ctx context.Context, tenant model.Tenant, id string) error {
	defer d.invalidate(tenant)
	if err := d.store.Delete(ctx, requestKey(tenant, id)); err != nil {
		return err
	}
	return d.store.Delete(ctx, stateKey(tenant, id))
}

func (d *Deletes) invalidate(tenant model.Tenant) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.changed[tenant]++
	d.mu.tenants.Remove(tenant)
}
