package agent

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

// stdinSource reads lines from standard input and is over when all are delivered.
type stdinSource struct {
	job   *job
	feeds []*feed
	r     io.Reader
}

func newStdin(j *job, feeds []*feed, r io.Reader) *stdinSource { return &stdinSource{j, feeds, r} }

func (s *stdinSource) info() sourceInfo {
	return sourceInfo{Job: s.job.JobName, Type: "Stdin", Ready: true, Labels: labels.FromMap(s.job.Static[0].Labels).String()}
}

func (s *stdinSource) close() error { return nil }

func (s *stdinSource) run(ctx context.Context) {
	ls := labels.FromMap(s.job.Static[0].Labels)
	limit := s.feeds[0].lane.rt.agent.opts.Tail.MaxLine
	if limit <= 0 {
		limit = 1 << 20
	}
	lines := make(chan [][]byte)
	var failed error
	go func() { // it may wait for ever in Read; the process ends with the source
		defer close(lines)
		failed = readLines(ctx, s.r, limit, lines)
	}()
	var sent sync.WaitGroup
	for batch := range lines {
		entries := make([]entry, len(batch))
		for i, l := range batch {
			entries[i] = entry{labels: ls, ts: time.Now().UnixNano(), line: l}
		}
		sent.Add(1)
		r := newReceipt(sent.Done)
		ok := give(ctx, s.feeds, entries, r)
		r.Release()
		if !ok {
			break
		}
	}
	for _, f := range s.feeds {
		f.end()
	}
	delivered := make(chan struct{})
	go func() {
		sent.Wait()
		close(delivered)
	}()
	select {
	case <-delivered:
		if failed != nil {
			s.feeds[0].lane.rt.log.Error("reading standard input failed", "err", failed)
		}
	case <-ctx.Done():
	}
}

// readLines reads lines in small batches. Empty ones are skipped, long ones cut.
func readLines(ctx context.Context, r io.Reader, limit int, to chan<- [][]byte) error {
	br := bufio.NewReaderSize(r, 64<<10)
	var batch [][]byte
	var line []byte
	for {
		part, err := br.ReadSlice('\n')
		line = append(line, part[:min(len(part), max(limit+1-len(line), 0))]...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if l := bytes.TrimRight(line, "\r\n"); len(l) > 0 {
			batch = append(batch, append([]byte(nil), l[:min(len(l), limit)]...))
		}
		line = line[:0]
		if len(batch) > 0 && (err != nil || br.Buffered() == 0 || len(batch) >= maxGather) {
			select {
			case to <- batch:
			case <-ctx.Done():
				return nil
			}
			batch = nil
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return err
		}
	}
}
