package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skaldlog/skald/internal/conf"
	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/querier"
	"github.com/skaldlog/skald/storage/compact"
	"github.com/skaldlog/skald/storage/object"
)

// runCompact makes one round of compaction over an object store, beside a server or
// without one.
func runCompact(ctx context.Context, std stdio, args []string) error {
	cfg := serverConfig{limits: limits.Defaults()}
	var filter compact.Filter
	var tenant string
	fs := flag.NewFlagSet("compact", flag.ContinueOnError)
	fs.StringVar(&tenant, "tenant", "", "compact this `tenant` only")
	fs.StringVar(&filter.Day, "day", "", "compact this `day` only, as 2006-01-02")
	fs.BoolVar(&filter.Full, "full", false, "merge everything as far as it goes, also days that are not over")
	cfg.log.register(fs)
	cfg.compact.RegisterFlags(fs)
	cfg.object.RegisterFlags(fs)
	cfg.limits.RegisterFlags(fs)
	cfg.overrides.RegisterFlags(fs)
	rest, done, err := parseFlags(std, fs, args, conf.Source{EnvPrefix: envPrefix}, "compact [flags] DIR|URL")
	if done || err != nil {
		return err
	}
	if len(rest) != 1 {
		return badUsage("compact: expected the object store, DIR or URL, got %d arguments", len(rest))
	}
	if tenant != "" {
		if filter.Tenant, err = model.ParseTenant(tenant); err != nil {
			return usageError{fmt.Errorf("-tenant: %w", err)}
		}
	}
	if filter.Day != "" {
		if _, err := time.Parse(time.DateOnly, filter.Day); err != nil {
			return badUsage("-day=%s: expected a date such as 2026-01-31", filter.Day)
		}
	}
	logger, err := cfg.log.logger(std)
	if err != nil {
		return usageError{err}
	}
	reg := prometheus.NewRegistry()
	cfg.object.Registerer, cfg.object.Logger = reg, logger
	where, err := objectsIn(rest[0])
	if err != nil {
		return usageError{fmt.Errorf("compact: %w", err)}
	}
	store, err := object.Open(ctx, where, cfg.object)
	if err != nil {
		return usageError{err}
	}
	lim, err := limits.NewOverrides(cfg.overrides, cfg.limits, reg, logger)
	if err != nil {
		return usageError{err}
	}
	c := compact.New(cfg.compact, store, nil, lim, compact.NewDeletes(cfg.compact, store, lim, logger), querier.CompileDelete, reg, logger)
	sum, err := c.Once(ctx, filter, progressLine(std))
	if errors.Is(err, context.Canceled) {
		return err
	}
	fmt.Fprintln(std.out, sum)
	return err
}

// objectsIn is the object store that the user means: of a server's data directory, the
// objects in it. A directory that does not exist is a typing error, not an empty store.
func objectsIn(dir string) (string, error) {
	if strings.Contains(dir, "://") {
		return dir, nil
	}
	if _, err := os.Stat(dir); err != nil {
		return "", err
	}
	if objects := filepath.Join(dir, objectsDir); isDir(objects) && isDir(filepath.Join(dir, "wal")) {
		return objects, nil
	}
	return dir, nil
}

func isDir(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}

// progressLine shows each step on a terminal, in one line that is written over.
func progressLine(std stdio) func(compact.Progress) {
	if !isTerminal(std.err) {
		return nil
	}
	var last time.Time
	return func(p compact.Progress) {
		if now := time.Now(); p.Stage == "done" || now.Sub(last) > 100*time.Millisecond {
			last = now
			fmt.Fprintf(std.err, "\r\x1b[K%s %s: %s %d segments, %d of %d rows", p.Tenant, p.Day, p.Stage, p.Segments, p.Rows, p.TotalRows)
			if p.Stage == "done" {
				fmt.Fprintln(std.err)
			}
		}
	}
}
