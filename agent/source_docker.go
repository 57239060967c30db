package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/client"
	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/moby"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/agent/discover"
)

const (
	dockerID     = "__meta_docker_container_id"
	dockerStream = "__meta_docker_container_log_stream"
)

func dockerDiscovery(list []*moby.DockerSDConfig) []discovery.Config {
	out := make([]discovery.Config, len(list))
	for i, c := range list {
		out[i] = c
	}
	return out
}

// dockerSource reads the logs of containers through the Docker API, for one client. The
// position of a container is the time, to the nanosecond, of the last line acknowledged.
type dockerSource struct {
	job  *job
	rt   *engine
	feed *feed
	apis []*client.Client
	mu   struct {
		sync.Mutex
		running map[string]*dockerLog // by container
		problem string
	}
}

func newDockerSource(rt *engine, j *job, f *feed) (*dockerSource, error) {
	s := &dockerSource{job: j, rt: rt, feed: f}
	s.mu.running = map[string]*dockerLog{}
	for i, c := range j.Docker {
		api, err := dockerClient(c)
		if err != nil {
			return nil, fmt.Errorf("docker_sd_configs[%d]: %w", i, err)
		}
		s.apis = append(s.apis, api)
	}
	return s, nil
}

// dockerClient connects as discovery does, but without a bound on the length of an answer.
func dockerClient(c *moby.DockerSDConfig) (*client.Client, error) {
	opts := []client.Opt{client.WithHost(c.Host)}
	u, err := url.Parse(c.Host)
	if err != nil {
		return nil, err
	}
	if u.Scheme == "http" || u.Scheme == "https" {
		rt, err := promconfig.NewRoundTripperFromConfig(c.HTTPClientConfig, "docker")
		if err != nil {
			return nil, err
		}
		opts = append(opts, client.WithHTTPClient(&http.Client{Transport: rt}), client.WithScheme(u.Scheme))
	}
	return client.New(opts...)
}

func (s *dockerSource) info() sourceInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	return sourceInfo{
		Job: s.job.JobName, Type: "Docker", Where: fmt.Sprintf("%s, %d containers", s.job.Docker[0].Host, len(s.mu.running)),
		Ready: len(s.mu.running) > 0, Problem: s.mu.problem,
	}
}

func (s *dockerSource) close() error { return nil }

func (s *dockerSource) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	s.job.discover.Run(ctx, func(found []discover.Target) {
		seen := map[string]bool{}
		for _, t := range found {
			// A container has a target for each of its ports and networks; the first one counts.
			id := t.Labels.Get(dockerID)
			if id == "" || seen[id] {
				continue
			}
			seen[id] = true
			s.mu.Lock()
			have := s.mu.running[id]
			if have == nil {
				l := &dockerLog{s: s, id: id, labels: t.Labels, cursor: newCursor(s.feed.lane, id)}
				s.mu.running[id] = l
				wg.Go(func() { l.run(ctx) })
			} else {
				have.setLabels(t.Labels)
			}
			s.mu.Unlock()
		}
	})
}

// dockerLog reads one container.
type dockerLog struct {
	s      *dockerSource
	id     string
	cursor *cursor
	mu     sync.Mutex
	labels labels.Labels
}

func (l *dockerLog) setLabels(ls labels.Labels) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.labels = ls
}

// run reads until the context ends, or the container is gone.
func (l *dockerLog) run(ctx context.Context) {
	defer func() {
		l.s.mu.Lock()
		defer l.s.mu.Unlock()
		delete(l.s.mu.running, l.id)
	}()
	since := l.cursor.get()
	wait := time.Second
	for ctx.Err() == nil {
		began := time.Now()
		next, stopped, err := l.follow(ctx, since)
		since = next
		if ctx.Err() != nil || stopped && err == nil {
			return // discovery tells when it runs again
		}
		if err != nil {
			l.s.fail(l.id, err)
			if strings.Contains(strings.ToLower(err.Error()), "no such container") {
				l.cursor.store.SetCursor(l.cursor.name, "")
				return
			}
		}
		if time.Since(began) > time.Minute {
			wait = time.Second
		}
		if !pause(ctx, wait) {
			return
		}
		wait = min(2*wait, 30*time.Second)
	}
}

func (s *dockerSource) fail(id string, err error) {
	s.rt.log.Warn("reading the log of a container failed", "job", s.job.JobName, "container", id, "err", err)
	if s.feed.lane.first {
		s.rt.agent.metrics.errors.WithLabelValues("docker", "read").Inc()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.problem = err.Error()
}

// follow reads from a time on and returns the time of the last line that was read, and
// whether the container has stopped.
func (l *dockerLog) follow(ctx context.Context, since string) (last string, stopped bool, err error) {
	for _, api := range l.s.apis {
		var c client.ContainerInspectResult
		if c, err = api.ContainerInspect(ctx, l.id, client.ContainerInspectOptions{}); err != nil {
			continue // another host's, perhaps
		}
		var r io.ReadCloser
		r, err = api.ContainerLogs(ctx, l.id, client.ContainerLogsOptions{
			ShowStdout: true, ShowStderr: true, Follow: true, Timestamps: true, Since: dockerSince(since),
		})
		if err != nil {
			return since, false, err
		}
		defer r.Close()
		tty := c.Container.Config != nil && c.Container.Config.Tty
		d := &dockerReader{log: l, ctx: ctx, after: since, last: since}
		if tty {
			err = d.readRaw(bufio.NewReaderSize(r, 64<<10))
		} else {
			err = d.readFrames(bufio.NewReaderSize(r, 64<<10))
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		if err == nil {
			if c, e := api.ContainerInspect(ctx, l.id, client.ContainerInspectOptions{}); e != nil || c.Container.State == nil || !c.Container.State.Running {
				stopped = true
			}
		}
		return d.last, stopped, err
	}
	return since, false, err
}

// dockerSince is the time to ask Docker for. Promtail kept whole seconds.
func dockerSince(cursor string) string {
	if t, err := time.Parse(time.RFC3339Nano, cursor); err == nil {
		return fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond())
	}
	return cursor
}

// dockerReader cuts an answer into lines.
type dockerReader struct {
	log   *dockerLog
	ctx   context.Context //nolint:containedctx // of one answer, as the reader
	after string          // lines up to this time have been delivered
	last  string
	parts [3]struct { // by stream, lines that have not ended
		text []byte
		time time.Time // of the last piece that had one
	}
	batch []entry
}

// maxDockerFrame bounds what one frame may hold, in bytes: Docker cuts lines long before.
const maxDockerFrame = 4 << 20

// readFrames reads frames of 8 bytes (stream, three zeros, length) and a piece of a line.
func (d *dockerReader) readFrames(r *bufio.Reader) error {
	var head [8]byte
	var buf []byte
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return errors.Join(d.flush(), err)
		}
		n := int(binary.BigEndian.Uint32(head[4:]))
		if head[0] > 2 || n > maxDockerFrame {
			return errors.Join(d.flush(), fmt.Errorf("a frame of stream %d with %d bytes is not Docker's", head[0], n))
		}
		if cap(buf) < n {
			buf = make([]byte, n)
		}
		buf = buf[:n]
		if _, err := io.ReadFull(r, buf); err != nil {
			return errors.Join(d.flush(), err)
		}
		d.piece(int(head[0]), buf)
		if len(d.batch) >= maxGather || r.Buffered() == 0 {
			if err := d.flush(); err != nil {
				return err
			}
		}
	}
}

// readRaw reads the output of a container with a terminal, which is not framed.
func (d *dockerReader) readRaw(r *bufio.Reader) error {
	for {
		line, err := r.ReadSlice('\n')
		if len(line) > 0 {
			d.piece(1, line)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return errors.Join(d.flush(), err)
		}
		if len(d.batch) >= maxGather || r.Buffered() == 0 {
			if err := d.flush(); err != nil {
				return err
			}
		}
	}
}

// piece takes a time, a blank, and a line or the beginning of one. Each piece of a line that
// Docker has cut has a time of its own; those that our buffer has cut have none.
func (d *dockerReader) piece(stream int, b []byte) {
	part := &d.parts[stream]
	stamp, text, ok := bytes.Cut(b, []byte{' '})
	if at, err := time.Parse(time.RFC3339Nano, string(stamp)); ok && err == nil {
		part.time = at
	} else {
		text = b
	}
	part.text = append(part.text, text...)
	ended := bytes.HasSuffix(part.text, []byte{'\n'})
	if !ended && len(part.text) < maxDockerFrame {
		return
	}
	line, ts := part.text, part.time
	part.text = nil
	if ended {
		part.time = time.Time{}
	}
	if ts.IsZero() {
		if d.log.s.feed.lane.first {
			d.log.s.rt.agent.metrics.errors.WithLabelValues("docker", "no_time").Inc()
		}
		return
	}
	at := ts.UTC().Format(time.RFC3339Nano)
	if after, err := time.Parse(time.RFC3339Nano, d.after); err == nil && !ts.After(after) {
		return // delivered before; Docker counts in coarser steps
	}
	d.last = at
	d.log.mu.Lock()
	ls := d.log.labels
	d.log.mu.Unlock()
	name := "stdout"
	if stream == 2 {
		name = "stderr"
	}
	out, keep := relabelEntry(labels.NewBuilder(ls).Set(dockerStream, name), d.log.s.job.Relabel, nil)
	if keep {
		d.batch = append(d.batch, entry{labels: out, ts: ts.UnixNano(), line: bytes.TrimRight(line, "\r\n")})
	}
}

// flush hands on what has come, when there is room.
func (d *dockerReader) flush() error {
	if len(d.batch) == 0 {
		return nil
	}
	f := d.log.s.feed
	if !f.wait(d.ctx) {
		return d.ctx.Err()
	}
	r := d.log.cursor.begin(d.last)
	f.add(d.batch, r)
	r.Release()
	if f.lane.first {
		d.log.s.rt.agent.metrics.entries.WithLabelValues("docker").Add(float64(len(d.batch)))
	}
	d.batch = d.batch[:0]
	return nil
}
