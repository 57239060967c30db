// Command bench measures a whole server from outside: it makes a corpus from a seed, pushes
// it through the public protocol, asks it the kinds of query that people ask, checks every
// answer against a scan of the corpus that shares no code with the server, and reads what
// the kernel says about the process. With -skald it starts the server itself; with -addr it
// drives any Loki-compatible server.
//
//	go run ./bench all    -skald bin/skald -bytes 1GB              # ingest, size and query on a fresh directory
//	go run ./bench ingest -skald bin/skald -bytes 1GB -dir /tmp/b  # load, flush, restart after kill -9
//	go run ./bench query  -skald bin/skald -dir /tmp/b             # queries over a directory that was loaded
//	go run ./bench query  -addr http://127.0.0.1:3100 -pid 1234    # the same of a running server
//	go run ./bench ring   -skald bin/skald -bytes 300MB            # one process with one copy against three with three
//	go run ./bench scale                                           # what 1 TB, 100 TB and 1 PB a day need, computed
//	go run ./bench agent  -skald bin/skald -bytes 310MB            # the node agent: a backlog, new lines, 1000 files
//	go run ./bench size   -bytes 1GB                               # what zstd makes of the corpus
//	go run ./bench cold   -skald bin/skald -s3 versitygw -bytes 200MB  # needles in an S3 server, and in ten times the data
//
// Figures of one machine mean little on another; RESULTS.md keeps ratios, and beside each
// the command that gives it. README.md says what each number means.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/skaldlog/skald/bench/corpus"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the flags of all commands.
type options struct {
	skald, addr, dir   string
	pid                int
	restart, cold      bool
	corpus             corpus.Config
	batch, connections int
	serverFlags        stringList
	runs               int
	only               string
	profiles           string
	s3                 string
	times              int
	compacted          bool
}

type stringList []string

func (s *stringList) String() string     { return fmt.Sprint(*s) }
func (s *stringList) Set(v string) error { *s = append(*s, v); return nil }

var commands = map[string]func(context.Context, options) error{
	"agent": benchAgent, "all": all, "ingest": ingest, "query": query, "size": size, "ring": ring, "scale": printScale, "cold": cold,
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 || commands[args[0]] == nil {
		return errors.New("usage: bench agent|all|cold|ingest|query|ring|scale|size [flags]; bench query -help lists them")
	}
	o, err := parse(args[0], args[1:])
	if err != nil {
		return err
	}
	if args[0] != "size" && args[0] != "scale" && (o.skald == "") == (o.addr == "") {
		return errors.New("give either -skald or -addr")
	}
	return commands[args[0]](ctx, o)
}

func parse(command string, args []string) (options, error) {
	o := options{corpus: corpus.Default()}
	var bytes, start string
	fs := flag.NewFlagSet(command, flag.ExitOnError)
	fs.StringVar(&o.skald, "skald", "", "skald `binary` to start, measure and stop")
	fs.StringVar(&o.addr, "addr", "", "`URL` of a running server instead")
	fs.IntVar(&o.pid, "pid", 0, "its process id, for CPU and memory")
	fs.StringVar(&o.dir, "dir", "", "data `directory` for -skald; query needs one that was loaded, otherwise a temporary one is the default")
	fs.BoolVar(&o.restart, "restart", true, "ingest with -skald: kill -9 with a full memtable and measure the restart; a directory that is queried later needs false")
	fs.BoolVar(&o.cold, "cold", true, "query with -skald: a fresh process for the first run of each query")
	fs.StringVar(&bytes, "bytes", "1GB", "raw `size` of the corpus")
	fs.Uint64Var(&o.corpus.Seed, "seed", o.corpus.Seed, "seed of the corpus")
	fs.IntVar(&o.corpus.Streams, "streams", o.corpus.Streams, "number of streams")
	fs.DurationVar(&o.corpus.Span, "span", o.corpus.Span, "time that the corpus covers")
	fs.StringVar(&start, "start", o.corpus.Start.Format(time.RFC3339), "first `time`stamp, RFC3339, or \"now\" for a span before now, for servers that refuse old samples")
	fs.IntVar(&o.batch, "batch", 1<<20, "line bytes in one push")
	fs.IntVar(&o.connections, "connections", 4, "pushes under way at once")
	fs.Var(&o.serverFlags, "flag", "extra `flag` for the server; may be repeated")
	fs.IntVar(&o.runs, "runs", 7, "warm runs of each query")
	fs.StringVar(&o.only, "only", "", "comma-separated `names` of the queries to run")
	fs.StringVar(&o.profiles, "profiles", "", "`directory` for CPU profiles of the server: of the load, and of each query repeated for some seconds")
	fs.StringVar(&o.s3, "s3", "", "cold: `program` versitygw, for a bucket that is used as object store")
	fs.IntVar(&o.times, "times", 10, "cold: how many times larger the second corpus is")
	fs.BoolVar(&o.compacted, "compacted", false, "cold: merge the objects as far as it goes before asking, as the server does in time")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	n, err := humanize.ParseBytes(bytes)
	if err != nil {
		return o, fmt.Errorf("-bytes=%s: %w", bytes, err)
	}
	o.corpus.Bytes = int64(n)
	if start == "now" {
		o.corpus.Start = time.Now().UTC().Add(-o.corpus.Span).Truncate(time.Hour)
	} else if o.corpus.Start, err = time.Parse(time.RFC3339, start); err != nil {
		return o, fmt.Errorf("-start: %w", err)
	}
	if o.profiles != "" {
		err = os.MkdirAll(o.profiles, 0o755)
	}
	return o, err
}

// all measures ingestion, size and queries of one corpus.
func all(ctx context.Context, o options) error {
	if o.skald == "" {
		return errors.New("all needs -skald")
	}
	dir, done, err := workDir(o.dir)
	if err != nil {
		return err
	}
	defer done()
	o.dir, o.restart = dir, false
	for _, step := range []func(context.Context, options) error{ingest, size, query} {
		if err := step(ctx, o); err != nil {
			return err
		}
		fmt.Println(strings.Repeat("-", 40))
	}
	return nil
}

// workDir returns dir, or a temporary directory that done removes.
func workDir(dir string) (_ string, done func(), err error) {
	if dir != "" {
		return dir, func() {}, nil
	}
	dir, err = os.MkdirTemp("", "skald-bench-")
	return dir, func() { _ = os.RemoveAll(dir) }, err
}
