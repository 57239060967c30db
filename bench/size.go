package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/klauspost/compress/zstd"

	"github.com/skaldlog/skald/bench/corpus"
)

// size writes the lines of each stream to a file of its own and prints how small zstd makes them.
func size(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "skald-bench-size-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	files, raw, err := writeStreams(ctx, o.corpus, dir)
	if err != nil {
		return err
	}
	packed, tool, err := packAll(ctx, files)
	if err != nil {
		return err
	}
	fmt.Printf("zstd -3 of each stream     %8.1f MB, raw / packed = %.2f (%s)\n", float64(packed)/1e6, float64(raw)/float64(packed), tool)
	if o.dir != "" {
		objects, _, err := treeSize(filepath.Join(o.dir, "objects"))
		if err != nil {
			return err
		}
		if objects > 0 {
			fmt.Printf("objects / zstd -3          %8.3f\n", float64(objects)/float64(packed))
		}
	}
	return nil
}

func writeStreams(ctx context.Context, cfg corpus.Config, dir string) (files []string, raw int64, err error) {
	open := map[string]*bufio.Writer{}
	var batch corpus.Batch
	for c := corpus.New(cfg); c.Next(&batch, 4<<20) && ctx.Err() == nil; {
		raw += batch.Bytes
		for _, s := range batch.Streams {
			name := s.Labels.Get("pod")
			w := open[name]
			if w == nil {
				f, err := os.Create(filepath.Join(dir, name))
				if err != nil {
					return nil, 0, err
				}
				defer func() { _ = f.Close() }()
				files = append(files, f.Name())
				w = bufio.NewWriterSize(f, 1<<16)
				open[name] = w
			}
			for i := range s.Entries {
				_, _ = w.Write(s.Entries[i].Line)
				_ = w.WriteByte('\n')
			}
		}
	}
	for _, w := range open {
		if err := w.Flush(); err != nil {
			return nil, 0, err
		}
	}
	return files, raw, ctx.Err()
}

// packAll sums the compressed sizes; without the zstd command it uses the library at the
// level nearest to -3.
func packAll(ctx context.Context, files []string) (total int64, tool string, err error) {
	tool = "zstd command"
	path, err := exec.LookPath("zstd")
	if err != nil {
		tool = "library, default level"
	}
	for _, file := range files {
		var n counter
		if path != "" {
			cmd := exec.CommandContext(ctx, path, "-3", "-q", "-c", file)
			cmd.Stdout = &n
			err = cmd.Run()
		} else {
			err = packFile(&n, file)
		}
		if err != nil {
			return 0, tool, fmt.Errorf("%s: %w", file, err)
		}
		total += int64(n)
	}
	return total, tool, nil
}

func packFile(w io.Writer, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	enc, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(2<<20))
	if err != nil {
		return err
	}
	if _, err := io.Copy(enc, f); err != nil {
		return err
	}
	return enc.Close()
}

type counter int64

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }
