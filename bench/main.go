// Command bench measures a whole server from outside: it makes a corpus from a seed, pushes
// it through the public protocol, and reads what the kernel says about the process. With
// -skald it starts the server itself and also measures flush, storage and restart; with
// -addr it drives any Loki-compatible server.
//
//	go run ./bench ingest -skald bin/skald -bytes 1GB
//	go run ./bench ingest -addr http://127.0.0.1:3100 -pid 1234 -bytes 1GB
//
// Figures of this machine mean little elsewhere; RESULTS.md keeps ratios, and beside each
// the command that gives it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
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

func run(ctx context.Context, args []string) error {
	if len(args) == 0 || args[0] != "ingest" {
		return fmt.Errorf("usage: bench ingest [flags]; bench ingest -help lists them")
	}
	var o ingestOptions
	var size, start string
	o.corpus = corpus.Default()
	fs := flag.NewFlagSet("ingest", flag.ExitOnError)
	fs.StringVar(&o.skald, "skald", "", "skald `binary` to start, measure and stop")
	fs.StringVar(&o.addr, "addr", "", "`URL` of a running server instead")
	fs.IntVar(&o.pid, "pid", 0, "its process id, for CPU and memory")
	fs.StringVar(&o.dir, "dir", "", "data `directory` for -skald; a temporary one by default")
	fs.BoolVar(&o.restart, "restart", true, "with -skald: kill -9 with a full memtable and measure the restart")
	fs.StringVar(&size, "bytes", "1GB", "raw `size` of the corpus")
	fs.Uint64Var(&o.corpus.Seed, "seed", o.corpus.Seed, "seed of the corpus")
	fs.IntVar(&o.corpus.Streams, "streams", o.corpus.Streams, "number of streams")
	fs.DurationVar(&o.corpus.Span, "span", o.corpus.Span, "time that the corpus covers")
	fs.StringVar(&start, "start", "", "first timestamp, RFC3339; a span before now by default")
	fs.IntVar(&o.batch, "batch", 1<<20, "line bytes in one push")
	fs.IntVar(&o.connections, "connections", 4, "pushes under way at once")
	fs.Var(&o.serverFlags, "flag", "extra `flag` for the server; may be repeated")
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	n, err := humanize.ParseBytes(size)
	if err != nil {
		return fmt.Errorf("-bytes=%s: %w", size, err)
	}
	o.corpus.Bytes = int64(n)
	o.corpus.Start = time.Now().Add(-o.corpus.Span).Truncate(time.Second)
	if start != "" {
		if o.corpus.Start, err = time.Parse(time.RFC3339, start); err != nil {
			return fmt.Errorf("-start: %w", err)
		}
	}
	return ingest(ctx, o)
}
