package main

import (
	"context"
	"flag"
)

// runServe runs a server until a signal, then stops in order and within 30 seconds.
func runServe(ctx context.Context, std stdio, args []string) error {
	var cfg serverConfig
	fs := flag.NewFlagSet("serve", flag.ContinueOnError)
	cfg.register(fs)
	rest, done, err := parseFlags(std, fs, args, cfg.source(), "serve [flags]")
	if done || err != nil {
		return err
	}
	if len(rest) > 0 {
		return badUsage("serve takes no arguments, got %q", rest)
	}
	if err := cfg.validate(); err != nil {
		return usageError{err}
	}
	logger, err := cfg.log.logger(std)
	if err != nil {
		return usageError{err}
	}
	n, err := newNode(ctx, cfg, logger)
	if err != nil {
		return err
	}
	logger.Info("skald is ready", "version", version, "http", n.http.Addr().String(), "data", cfg.dataDir, "storage", cfg.storageURL)
	if err := n.run(ctx); err != nil {
		return err
	}
	logger.Info("skald has stopped; everything acknowledged is on disk")
	return nil
}
