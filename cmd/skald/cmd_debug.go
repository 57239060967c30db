package main

import (
	"context"
	"flag"

	"github.com/skaldlog/skald/internal/conf"
	"github.com/skaldlog/skald/storage/segment"
)

// runDebug prints what a file is made of: `skald debug segment FILE`.
func runDebug(ctx context.Context, std stdio, args []string) error {
	var opts segment.DumpOptions
	fs := flag.NewFlagSet("debug", flag.ContinueOnError)
	fs.BoolVar(&opts.Blocks, "blocks", false, "list every block")
	fs.BoolVar(&opts.Streams, "streams", false, "list every stream")
	fs.BoolVar(&opts.Rows, "rows", false, "print every row")
	fs.BoolVar(&opts.Hex, "hex", false, "print every byte with its meaning; for small files")
	rest, done, err := parseFlags(std, fs, args, conf.Source{}, "debug segment FILE [flags]")
	if done || err != nil {
		return err
	}
	if len(rest) != 2 || rest[0] != "segment" {
		return badUsage("debug: expected `segment FILE`, got %q", rest)
	}
	src, err := segment.OpenSource(rest[1])
	if err != nil {
		return usageError{err}
	}
	defer func() { _ = src.Close() }()
	return segment.Dump(ctx, std.out, src, opts)
}
