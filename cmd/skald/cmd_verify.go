package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/skaldlog/skald/internal/conf"
	"github.com/skaldlog/skald/storage"
	"github.com/skaldlog/skald/storage/catalog"
	"github.com/skaldlog/skald/storage/object"
	"github.com/skaldlog/skald/storage/segment"
)

// verification counts what verify has seen.
type verification struct {
	std                 stdio
	quiet               bool
	segments, bad       int
	rows, bytes, stored int64
}

// runVerify reads every segment of a directory, a file or a bucket whole and checks all
// that can be checked. It changes nothing and may run beside a server.
func runVerify(ctx context.Context, std stdio, args []string) error {
	v := verification{std: std}
	var opts object.Options
	flags := flag.NewFlagSet("verify", flag.ContinueOnError)
	flags.BoolVar(&v.quiet, "q", false, "print damage and the summary only")
	opts.RegisterFlags(flags)
	rest, done, err := parseFlags(std, flags, args, conf.Source{EnvPrefix: envPrefix}, "verify [flags] PATH|URL")
	if done || err != nil {
		return err
	}
	if len(rest) != 1 {
		return badUsage("verify: expected one data directory, segment file or storage URL, got %d arguments", len(rest))
	}
	if strings.Contains(rest[0], "://") {
		err = v.bucket(ctx, rest[0], opts)
	} else {
		err = v.directory(ctx, rest[0])
	}
	if err != nil {
		return err
	}
	if v.segments+v.bad == 0 {
		fmt.Fprintf(std.out, "no segments in %s, so nothing is proved; is it the data directory or the storage URL of a server?\n", rest[0])
		return nil
	}
	fmt.Fprintf(std.out, "%d segments, %d rows, %d bytes of lines in %d bytes stored: ", v.segments, v.rows, v.bytes, v.stored)
	if v.bad > 0 {
		fmt.Fprintf(std.out, "%d DAMAGED\n", v.bad)
		return fmt.Errorf("%d of %d segments are damaged", v.bad, v.segments)
	}
	fmt.Fprintln(std.out, "all intact")
	return nil
}

func (v *verification) directory(ctx context.Context, root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, os.ErrNotExist) && path != root:
			return nil // deleted by the server meanwhile
		case err != nil:
			return err
		case d.IsDir() || filepath.Ext(path) != catalog.Suffix:
			return nil
		}
		return v.file(ctx, path)
	})
}

func (v *verification) file(ctx context.Context, path string) error {
	src, err := segment.OpenSource(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // deleted by the server meanwhile
	}
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }()
	report, err := segment.Verify(ctx, src)
	return v.count(path, report, err)
}

func (v *verification) bucket(ctx context.Context, url string, opts object.Options) error {
	store, err := object.Open(ctx, url, opts)
	if err != nil {
		return usageError{err}
	}
	for info, err := range store.List(ctx, "") {
		if err != nil {
			return err
		}
		ref, err := catalog.ParseKey(info.Key)
		if err != nil {
			if strings.HasSuffix(string(info.Key), catalog.Suffix) {
				fmt.Fprintf(v.std.out, "%s: not a segment's key: %v\n", info.Key, err)
				v.bad++
			}
			continue
		}
		ref.Size = info.Size
		report, err := segment.Verify(ctx, storage.NewSource(store, ref))
		if err == nil {
			err = storage.CheckIdentity(ref, report.Info)
		}
		if errors.Is(err, object.ErrNotFound) {
			continue
		}
		if err := v.count(string(info.Key), report, err); err != nil {
			return err
		}
	}
	return nil
}

// count prints one segment's verdict; only what stops the whole verification is returned.
func (v *verification) count(name string, report segment.Report, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	v.segments++
	v.rows += report.Info.Rows
	v.bytes += report.Info.RawBytes
	v.stored += report.Info.Size
	switch {
	case err != nil:
		v.bad++
		text := err.Error()
		if !strings.Contains(text, name) {
			text = name + ": " + text
		}
		fmt.Fprintln(v.std.out, "DAMAGED", text)
	case !v.quiet:
		fmt.Fprintf(v.std.out, "ok %s: %d rows\n", name, report.Info.Rows)
	}
	return nil
}
