package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/dustin/go-humanize"
)

// coldNames are the questions that cold asks: what the index is for.
var coldNames = []string{"needle_all", "needle_absent", "sm_equal"}

// coldRuns is how many fresh processes each question gets.
const coldRuns = 5

// coldResult is what a question cost on one corpus.
type coldResult struct {
	question    *question
	cold, open  []time.Duration // sorted
	warm, cpu   time.Duration
	coldStats   queryStats
	openStats   queryStats
	stored      int64
	objects     int
	corpusBytes int64
}

// cold measures needles in an S3 server: by a process that has seen nothing of the bucket, by
// one that has the segments' indexes, and again; on the corpus of -bytes and on one -times as
// large.
func cold(ctx context.Context, o options) error {
	if o.skald == "" || o.s3 == "" {
		return errors.New("cold needs -skald and -s3")
	}
	dir, done, err := workDir(o.dir)
	if err != nil {
		return err
	}
	defer done()
	questions := make([]question, 0, len(coldNames))
	for _, name := range coldNames {
		q, err := chosen(name)
		if err != nil {
			return err
		}
		questions = append(questions, q...)
	}
	var results [][]coldResult
	small := o.corpus.Bytes
	for _, size := range []int64{small, small * int64(o.times)} {
		o.corpus.Bytes = size
		o.dir = filepath.Join(dir, humanize.Bytes(uint64(size)))
		r, err := coldCorpus(ctx, o, questions)
		if err != nil {
			return fmt.Errorf("%s: %w", o.dir, err)
		}
		results = append(results, r)
	}
	reportCold(results)
	return nil
}

// coldCorpus loads a corpus into a bucket, unless that has been done, and asks the questions.
func coldCorpus(ctx context.Context, o options, questions []question) ([]coldResult, error) {
	root := o.dir
	bucket := filepath.Join(root, "s3", "bench")
	if err := os.MkdirAll(bucket, 0o755); err != nil {
		return nil, err
	}
	stop, url, err := startS3(ctx, o.s3, filepath.Dir(bucket))
	if err != nil {
		return nil, err
	}
	defer stop()
	o.serverFlags = append(slices.Clone(o.serverFlags), "-storage.url="+url)
	o.restart = false
	o.dir = filepath.Join(root, "loaded")
	if _, err := recall(o.dir); err != nil {
		if err := ingest(ctx, o); err != nil {
			return nil, err
		}
	}
	if o.compacted {
		// What is merged stays for an hour, and is passed over by those who ask.
		compact := exec.CommandContext(ctx, o.skald, "compact", "-full", url)
		compact.Stdout, compact.Stderr = os.Stdout, os.Stderr
		if err := compact.Run(); err != nil {
			return nil, fmt.Errorf("%s compact: %w", o.skald, err)
		}
	}
	truth, err := findTruth(ctx, o.corpus, questions)
	if err != nil {
		return nil, err
	}
	stored, objects, err := treeSize(bucket)
	if err != nil {
		return nil, err
	}
	results := make([]coldResult, len(questions))
	for i := range questions {
		r := &results[i]
		r.question, r.stored, r.objects, r.corpusBytes = &questions[i], stored, objects, truth.bytes
		for range coldRuns {
			if err := coldRun(ctx, o, root, truth, i, r); err != nil {
				return nil, fmt.Errorf("%s: %w", r.question.name, err)
			}
		}
		slices.Sort(r.cold)
		slices.Sort(r.open)
	}
	return results, nil
}

// coldRun asks a question of two fresh processes with empty directories: of one at once, and
// then again; of the other when it has opened all segments.
func coldRun(ctx context.Context, o options, root string, t *truth, i int, r *coldResult) error {
	fresh := func(use func(p *process) error) error {
		var err error
		if o.dir, err = os.MkdirTemp(root, "fresh-"); err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(o.dir) }()
		p, err := startServer(ctx, o)
		if err != nil {
			return err
		}
		defer p.kill()
		return use(p)
	}
	err := fresh(func(p *process) error {
		took, stats, err := ask(ctx, p.addr, t, i, r.question)
		if err != nil {
			return err
		}
		r.cold, r.coldStats = append(r.cold, took), stats
		before, err := cpuOf(p.cmd.Process.Pid)
		if err != nil {
			return err
		}
		var warm []time.Duration
		for range max(1, o.runs) {
			took, _, err := ask(ctx, p.addr, t, i, r.question)
			if err != nil {
				return err
			}
			warm = append(warm, took)
		}
		after, err := cpuOf(p.cmd.Process.Pid)
		slices.Sort(warm)
		r.warm, r.cpu = warm[len(warm)/2], (after-before)/time.Duration(len(warm))
		return err
	})
	if err != nil {
		return err
	}
	return fresh(func(p *process) error {
		if err := openAll(ctx, p.addr, o); err != nil {
			return err
		}
		took, stats, err := ask(ctx, p.addr, t, i, r.question)
		r.open, r.openStats = append(r.open, took), stats
		return err
	})
}

// openAll has all segments opened: who asks for an id opens only those that have it.
func openAll(ctx context.Context, addr string, o options) error {
	_, err := get(ctx, fmt.Sprintf("%s/loki/api/v1/labels?start=%d&end=%d", addr, o.corpus.Start.UnixNano(), o.corpus.Start.Add(o.corpus.Span).UnixNano()))
	return err
}

func reportCold(results [][]coldResult) {
	fmt.Printf("\n| query | raw MB | stored MB | objects | cold ms | opened ms | warm ms | warm CPU ms | KB fetched cold | KB opened | opened / stored | requests cold | opened | line blocks |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	for i := range coldNames {
		for _, corpus := range results {
			r := &corpus[i]
			c, s := r.coldStats.Skald, r.openStats.Skald
			fmt.Printf("| %s | %.0f | %.1f | %d | %s | %s | %s | %s | %.0f | %.0f | %.3f %% | %d | %d | %d |\n", r.question.name, float64(r.corpusBytes)/1e6, float64(r.stored)/1e6, r.objects,
				short(ms(r.cold[len(r.cold)/2])), short(ms(r.open[len(r.open)/2])), short(ms(r.warm)), short(ms(r.cpu)),
				float64(c.BytesFetched)/1e3, float64(s.BytesFetched)/1e3, 100*float64(s.BytesFetched)/float64(r.stored), c.FetchRequests, s.FetchRequests, s.LineBlocks)
		}
		small, large := &results[0][i], &results[1][i]
		ratio := func(a, b time.Duration) float64 { return float64(b) / float64(a) }
		fmt.Printf("| … ratio | %.1f | | | %.2f | %.2f | %.2f | %.2f | | | | | | |\n", float64(large.corpusBytes)/float64(small.corpusBytes),
			ratio(small.cold[len(small.cold)/2], large.cold[len(large.cold)/2]), ratio(small.open[len(small.open)/2], large.open[len(large.open)/2]),
			ratio(small.warm, large.warm), ratio(small.cpu, large.cpu))
	}
}

// startS3 runs versitygw over a directory, each folder of which is a bucket, and returns the
// URL by which Skald uses the bucket "bench".
func startS3(ctx context.Context, program, root string) (stop func(), url string, err error) {
	const access, secret = "skald-bench", "skald-bench-secret"
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		return nil, "", err
	}
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret, "AWS_EC2_METADATA_DISABLED": "true"} {
		if err := os.Setenv(name, value); err != nil {
			return nil, "", err
		}
	}
	cmd := exec.Command(program, "--access", access, "--secret", secret, "--quiet", "--keep-alive", "--port", addr, "posix", root)
	if err := cmd.Start(); err != nil {
		return nil, "", fmt.Errorf("-s3: %w", err)
	}
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	for until := time.Now().Add(20 * time.Second); ; {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			_ = conn.Close()
			return stop, fmt.Sprintf("s3://bench/?endpoint=http://%s&region=us-east-1&path_style=true", addr), nil
		}
		if ctx.Err() != nil || time.Now().After(until) {
			stop()
			return nil, "", errors.Join(fmt.Errorf("%s does not answer: %w", program, err), ctx.Err())
		}
		time.Sleep(20 * time.Millisecond)
	}
}
