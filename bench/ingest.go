package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/skaldlog/skald/bench/corpus"
)

// ingest loads a corpus and prints what it cost the server.
func ingest(ctx context.Context, o options) error {
	if o.skald == "" {
		_, err := load(ctx, o, target{addr: o.addr, pid: o.pid})
		return err
	}
	dir, done, err := workDir(o.dir)
	if err != nil {
		return err
	}
	defer done()
	o.dir = dir
	if err := remember(o); err != nil {
		return err
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

// corpusFile says in a data directory which corpus was loaded into it.
const corpusFile = "bench-corpus.json"

// remember notes the corpus in the data directory, which must be new: with other data in it
// no answer would be right.
func remember(o options) error {
	if _, err := os.Stat(filepath.Join(o.dir, corpusFile)); err == nil {
		return fmt.Errorf("%s has been loaded already; give another -dir", o.dir)
	}
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return err
	}
	text, err := json.Marshal(o.corpus)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(o.dir, corpusFile), text, 0o644)
}

// recall reads what remember wrote.
func recall(dir string) (c corpus.Config, err error) {
	text, err := os.ReadFile(filepath.Join(dir, corpusFile))
	if err != nil {
		return c, fmt.Errorf("not loaded by bench ingest -restart=false: %w", err)
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return c, fmt.Errorf("%s: %w", filepath.Join(dir, corpusFile), err)
	}
	return c, nil
}

// measureFlush sends everything to the object store and weighs it.
func measureFlush(ctx context.Context, o options, p *process, loaded loadResult) error {
	before := time.Now()
	profiled := profile(ctx, o, p.addr, "flush", flushProfileSeconds)
	if err := post(ctx, p.addr+"/flush", "", nil); err != nil {
		return err
	}
	took := time.Since(before)
	use, err := usageOf(p.cmd.Process.Pid)
	if err != nil {
		return err
	}
	objects, files, err := treeSize(filepath.Join(o.dir, "objects"))
	if err != nil {
		return err
	}
	raw := float64(loaded.bytes)
	fmt.Printf("flush                      %8.2f s\n", took.Seconds())
	fmt.Printf("server CPU incl. flush     %8.2f s, %.1f s per GB raw\n", use.cpu.Seconds(), use.cpu.Seconds()/raw*1e9)
	fmt.Printf("written to disk            %8.2f bytes per raw byte\n", float64(use.written)/raw)
	if files > 0 { // else they are elsewhere
		fmt.Printf("object store               %8.1f MB in %d objects, raw / stored = %.2f\n", float64(objects)/1e6, files, raw/float64(objects))
	}
	fmt.Printf("peak RSS                   %8.1f MB\n", float64(use.peakRSS)/1e6)
	return profiled()
}

// measureRestart fills the memtable, kills the server without warning, and times how long
// a new one takes until it is ready with every line.
func measureRestart(ctx context.Context, o options, p *process) error {
	if err := os.Remove(filepath.Join(o.dir, corpusFile)); err != nil {
		return err
	}
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
