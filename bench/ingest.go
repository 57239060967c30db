package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/skaldlog/skald/bench/corpus"
)

type ingestOptions struct {
	skald, addr, dir   string
	pid                int
	restart            bool
	corpus             corpus.Config
	batch, connections int
	serverFlags        stringList
}

type stringList []string

func (s *stringList) String() string     { return fmt.Sprint(*s) }
func (s *stringList) Set(v string) error { *s = append(*s, v); return nil }

// ingest loads a corpus and prints what it cost the server.
func ingest(ctx context.Context, o ingestOptions) error {
	if (o.skald == "") == (o.addr == "") {
		return errors.New("give either -skald or -addr")
	}
	if o.skald == "" {
		t := target{addr: o.addr, pid: o.pid}
		_, err := load(ctx, o, t)
		return err
	}
	if o.dir == "" {
		dir, err := os.MkdirTemp("", "skald-bench-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(dir) }()
		o.dir = dir
	}
	p, err := startServer(ctx, o)
	if err != nil {
		return err
	}
	defer p.kill()
	loaded, err := load(ctx, o, p.target())
	if err != nil {
		return err
	}
	if err := measureFlush(ctx, o, p, loaded); err != nil {
		return err
	}
	if !o.restart {
		return p.stop()
	}
	return measureRestart(ctx, o, p)
}

// measureFlush sends everything to the object store and weighs it.
func measureFlush(ctx context.Context, o ingestOptions, p *process, loaded loadResult) error {
	before := time.Now()
	if err := post(ctx, p.addr+"/flush", "", nil); err != nil {
		return err
	}
	use, err := usageOf(p.cmd.Process.Pid)
	if err != nil {
		return err
	}
	objects, files, err := treeSize(filepath.Join(o.dir, "objects"))
	if err != nil {
		return err
	}
	raw := float64(loaded.bytes)
	fmt.Printf("flush                      %8.2f s\n", time.Since(before).Seconds())
	fmt.Printf("server CPU incl. flush     %8.2f s, %.1f s per GB raw\n", use.cpu.Seconds(), use.cpu.Seconds()/raw*1e9)
	fmt.Printf("written to disk            %8.2f bytes per raw byte\n", float64(use.written)/raw)
	fmt.Printf("object store               %8.1f MB in %d objects, raw / stored = %.2f\n", float64(objects)/1e6, files, raw/float64(objects))
	fmt.Printf("peak RSS                   %8.1f MB\n", float64(use.peakRSS)/1e6)
	return nil
}

// measureRestart fills the memtable, kills the server without warning, and times how long
// a new one takes until it is ready with every line.
func measureRestart(ctx context.Context, o ingestOptions, p *process) error {
	o.corpus.Seed++
	o.corpus.Bytes = fullMemtable
	if _, err := loadQuietly(ctx, o, p.target()); err != nil {
		return err
	}
	wal, _, err := treeSize(filepath.Join(o.dir, "wal"))
	if err != nil {
		return err
	}
	p.kill()
	before := time.Now()
	again, err := startServer(ctx, o)
	if err != nil {
		return err
	}
	defer again.kill()
	fmt.Printf("restart after kill -9      %8.2f s until ready, with %.1f MB of write-ahead log\n", time.Since(before).Seconds(), float64(wal)/1e6)
	return again.stop()
}

// fullMemtable is a little less than what makes the default server write a segment.
const fullMemtable = 24 << 20

func treeSize(root string) (bytes int64, files int, err error) {
	err = filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		bytes += info.Size()
		files++
		return nil
	})
	return bytes, files, err
}
