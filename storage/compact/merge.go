package compact

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/storage/catalog"
	"github.com/skaldlog/skald/storage/segment"
)

// merge does a job and returns the id of the segment it uploaded:
//
//  1. merge the inputs into a local file, without the rows that the rules drop;
//  2. read that file again and account for every row;
//  3. make sure that nobody else has replaced an input meanwhile;
//  4. upload the file and ask the store for its size: now it has replaced the inputs.
//
// A failure up to the upload leaves nothing. One after it leaves what the next round finds.
func (r *round) merge(ctx context.Context, d *dayState, j *job, u *rules) (id string, err error) {
	start := time.Now()
	m := &merging{round: r, d: d, j: j, rules: u, id: ulid.MustNew(ulid.Timestamp(r.now()), rand.Reader).String()}
	for _, s := range j.inputs {
		m.progress.Bytes += s.ref.Size
		m.progress.TotalRows += s.info.Rows
	}
	m.progress.Tenant, m.progress.Day, m.progress.Segments = d.tenant, d.day, len(j.inputs)

	file, err := newTemporary(r.cfg.Dir)
	if err != nil {
		return "", fmt.Errorf("temporary file: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := m.write(ctx, file); err != nil {
		return "", err
	}
	if err := m.check(ctx, file); err != nil {
		return "", err
	}
	if err := m.stillLive(ctx); err != nil {
		return "", err
	}
	if err := m.upload(ctx, file); err != nil {
		return "", err
	}
	m.count(time.Since(start))
	return m.id, nil
}

// merging is a merge under way.
type merging struct {
	*round
	d        *dayState
	j        *job
	rules    *rules
	id       string
	info     segment.Info
	key      string
	deleted  int64 // rows dropped for requests
	expired  int64 // for retention
	progress Progress
	told     time.Time
}

func (m *merging) write(ctx context.Context, file *temporary) error {
	readers := make([]*segment.Reader, len(m.j.inputs))
	for i, s := range m.j.inputs {
		var err error
		if readers[i], err = segment.Open(ctx, m.source(s), segment.ReaderOptions{}); err != nil {
			return err
		}
		if err := m.countExpired(ctx, s); err != nil {
			return err
		}
	}
	m.stage("merge", 0)
	buf := bufio.NewWriterSize(file, 256<<10)
	info, err := segment.Merge(ctx, buf, readers, segment.MergeOptions{
		WriterOptions: segment.WriterOptions{ID: m.id, Tenant: m.d.tenant, Level: levelOf(m.j.inputs), ZstdLevel: segment.ZstdBetter},
		Keep:          m.rules.keep(&m.deleted),
		Progress:      func(rows int64) { m.stage("merge", rows) },
	})
	if err == nil {
		err = buf.Flush()
	}
	if err != nil {
		return err
	}
	m.info, file.size = info, info.Size
	m.progress.Output = info.Size
	return nil
}

// countExpired adds the rows of an input whose retention is over. Merge does not even look
// at them. The reader is not the one that is merged: its stream table would stay in memory.
func (m *merging) countExpired(ctx context.Context, s *seg) error {
	if !m.rules.expiring {
		return nil
	}
	reader, err := segment.Open(ctx, m.source(s), segment.ReaderOptions{})
	if err != nil {
		return err
	}
	series, err := reader.Series(ctx, &model.Request{Range: m.d.span})
	for _, s := range series {
		if m.rules.expired(s.Labels) {
			m.expired += s.Entries
		}
	}
	return err
}

// check reads the merged file and compares its rows with those of the inputs.
func (m *merging) check(ctx context.Context, file *temporary) error {
	if m.cfg.Verify {
		m.stage("verify", m.progress.TotalRows)
		if _, err := segment.Verify(ctx, asSource{file}); err != nil {
			// Not of kind Corrupt: no stored segment is to blame.
			return fault.New(fault.Internal, "the merged segment is not sound: %v", err)
		}
	}
	for _, s := range m.j.inputs {
		if id := s.ref.ID; !slices.Contains(m.info.MergedFrom, id) {
			return fmt.Errorf("the merged segment does not name its source %s", id)
		}
	}
	duplicates := m.duplicates()
	if duplicates < 0 || len(m.j.inputs) == 1 && duplicates > 0 {
		return fmt.Errorf("rows are not accounted for: %d read, %d deleted, %d expired, %d written", m.progress.TotalRows, m.deleted, m.expired, m.info.Rows)
	}
	return nil
}

func (m *merging) duplicates() int64 {
	return m.progress.TotalRows - m.deleted - m.expired - m.info.Rows
}

var errOvertaken = errors.New("another compactor was faster")

// stillLive lists the day again. It makes it unlikely, not impossible, that two compactors
// replace the same segment.
func (m *merging) stillLive(ctx context.Context) error {
	d, err := m.load(ctx, m.d.tenantDay)
	if err != nil {
		return err
	}
	for _, s := range m.j.inputs {
		if !slices.ContainsFunc(d.live, func(o *seg) bool { return o.ref.ID == s.ref.ID }) {
			return fmt.Errorf("segment %s is no longer live: %w", s.ref.Key, errOvertaken)
		}
	}
	return nil
}

// upload puts the file into the store. A segment without rows has the times of its sources.
func (m *merging) upload(ctx context.Context, file *temporary) error {
	first, last := m.info.MinTime, m.info.MaxTime
	if m.info.Rows == 0 {
		first, last = m.j.inputs[0].ref.Min, m.j.inputs[0].ref.Max
		for _, s := range m.j.inputs {
			first, last = min(first, s.ref.Min), max(last, s.ref.Max)
		}
	}
	key := catalog.KeyFor(m.d.tenant, m.d.day, m.info.Level, first, last, m.id, m.info.IDs)
	m.key = string(key)
	m.stage("upload", m.progress.TotalRows)
	defer m.changed(m.d.tenantDay) // it may be there even if Put has failed
	if err := m.store.Put(ctx, key, file, file.size); err != nil {
		return err
	}
	got, err := m.store.Stat(ctx, key)
	if err != nil {
		return err
	}
	if got.Size != file.size {
		// The sources are all there; this object would only hide them.
		err := fmt.Errorf("object %s in %s has %d bytes, want %d", key, m.store, got.Size, file.size)
		return errors.Join(err, m.store.Delete(ctx, key))
	}
	return nil
}

// stage reports progress, and logs it now and then while a merge is long.
func (m *merging) stage(stage string, rows int64) {
	m.progress.Stage, m.progress.Rows = stage, rows
	m.tell(m.progress)
	now := time.Now()
	if m.told.IsZero() {
		m.told = now
	}
	if now.Sub(m.told) >= 10*time.Second {
		m.told = now
		m.logger.Info("compacting", "tenant", m.d.tenant, "day", m.d.day, "stage", stage, "segments", len(m.j.inputs),
			"bytes", m.progress.Bytes, "rows", rows, "of", m.progress.TotalRows)
	}
}

func (m *merging) count(took time.Duration) {
	m.stage("done", m.progress.TotalRows)
	s, duplicates := m.sum, m.duplicates()
	s.Merges++
	s.SegmentsIn += len(m.j.inputs)
	s.SegmentsOut++
	s.BytesIn += m.progress.Bytes
	s.BytesOut += m.info.Size
	s.RowsDuplicate += duplicates
	s.RowsDeleted += m.deleted
	s.RowsExpired += m.expired
	m.metrics.merges.WithLabelValues(m.j.reason).Inc()
	m.metrics.seconds.Observe(took.Seconds())
	m.metrics.bytes.WithLabelValues("in").Add(float64(m.progress.Bytes))
	m.metrics.bytes.WithLabelValues("out").Add(float64(m.info.Size))
	for fate, n := range map[string]int64{"kept": m.info.Rows, "duplicate": duplicates, "deleted": m.deleted, "expired": m.expired} {
		m.metrics.rows.WithLabelValues(fate).Add(float64(n))
	}
	m.logger.Info("merged segments", "tenant", m.d.tenant, "day", m.d.day, "reason", m.j.reason, "inputs", len(m.j.inputs),
		"bytes_in", m.progress.Bytes, "bytes_out", m.info.Size, "rows", m.info.Rows, "duplicates", duplicates,
		"deleted", m.deleted, "expired", m.expired, "segment", m.key, "took", took.Round(time.Millisecond))
}
