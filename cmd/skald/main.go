// Command skald is the one binary of Skald: log aggregation that speaks Loki's protocols.
//
//	skald up       a server and an agent for this machine's own logs, in one process
//	skald serve    a server: distributor, ingester, querier
//	skald agent    a node agent that runs a Promtail config
//	skald query …  questions to any Loki-compatible server, with logcli's flags
//
// This package only wires: each command is one file that declares its flags, checks them
// and starts the parts. Wrong input ends with status 2 and a message before anything
// starts; a failure while running ends with status 1.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/skaldlog/skald/internal/conf"
	"github.com/skaldlog/skald/querier"
)

// version is set by the linker.
var version = "dev"

const envPrefix = "SKALD_"

// command is one subcommand. Its name may be two words. run gets the arguments without them.
type command struct {
	name, args, short string
	run               func(ctx context.Context, std stdio, args []string) error
}

// stdio is what a command reads and writes, so that tests can run one in process.
type stdio struct {
	in       io.Reader
	out, err io.Writer
	// describe, when set, is given a command's flags in the place of parsing any.
	describe func(fs *flag.FlagSet, src conf.Source)
}

func commands() []command {
	return slices.Concat(serverCommands(), clientCommands())
}

func serverCommands() []command {
	return []command{
		{"up", "[PATH…]", "run a server and an agent on this machine's own logs", runUp},
		{"serve", "", "run a server", runServe},
		{"agent", "", "run a node agent from a Promtail config", runAgent},
		{"compact", "DIR|URL", "merge small segments once, and drop what retention has ended", runCompact},
		{"verify", "PATH|URL", "prove that stored segments are intact", runVerify},
		{"debug", "segment FILE", "print a segment file's structure", runDebug},
		{"version", "", "print the version", runVersion},
	}
}

// usageError is wrong input: exit status 2.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func badUsage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func main() {
	querier.Build.Version = version
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() {
		// A second signal ends the process at once.
		<-ctx.Done()
		stop()
	}()
	os.Exit(run(ctx, stdio{in: os.Stdin, out: os.Stdout, err: os.Stderr}, os.Args[1:]))
}

func run(ctx context.Context, std stdio, args []string) int {
	err := dispatch(ctx, std, args)
	var usage usageError
	switch {
	case err == nil || errors.Is(err, syscall.EPIPE):
		return 0
	case errors.As(err, &usage):
		fmt.Fprintf(std.err, "skald: %v\n", err)
		return 2
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return 130
	}
	fmt.Fprintf(std.err, "skald: %v\n", err)
	return 1
}

func dispatch(ctx context.Context, std stdio, args []string) error {
	if len(args) == 0 {
		writeHelp(std.err)
		return badUsage("no command given")
	}
	name := args[0]
	switch name {
	case "help", "-h", "--help", "-help":
		writeHelp(std.out)
		return nil
	case "--help-long", "-help-long":
		return writeHelpLong(std.out)
	case "--version", "-version":
		return runVersion(ctx, std, args[1:])
	}
	if c, rest, ok := findCommand(commands(), args); ok {
		return c.run(ctx, std, rest)
	}
	// logcli takes its global flags before the command.
	if strings.HasPrefix(name, "-") {
		for i := range args {
			if c, rest, ok := findCommand(clientCommands(), args[i:]); ok {
				return c.run(ctx, std, slices.Concat(args[:i], rest))
			}
		}
	}
	if name == "delete" {
		return badUsage("delete: expected create, list or cancel; see `skald delete create --help`")
	}
	return badUsage("unknown command %q; %s`skald help` lists the commands", name, didYouMean(name))
}

// didYouMean names the command that is nearest to what was typed, if one is near.
func didYouMean(name string) string {
	var known []string
	for _, c := range commands() {
		first, _, _ := strings.Cut(c.name, " ")
		known = append(known, first)
	}
	if near := conf.Closest(name, known); len(near) > 0 {
		return fmt.Sprintf("did you mean %q? ", near[0])
	}
	return ""
}

// findCommand recognizes the command whose name args start with. Between the words of a
// name there may be flags, as in `delete --org-id=x list`.
func findCommand(from []command, args []string) (c command, rest []string, ok bool) {
	for _, c := range from {
		first, second, two := strings.Cut(c.name, " ")
		if args[0] != first {
			continue
		}
		if !two {
			return c, args[1:], true
		}
		if i := slices.Index(args, second); i > 0 {
			return c, slices.Concat(args[1:i], args[i+1:]), true
		}
	}
	return command{}, nil, false
}

func writeHelp(w io.Writer) {
	fmt.Fprint(w, "Skald stores logs and answers LogQL; it speaks Loki's protocols.\n\nUsage: skald COMMAND [flags] [arguments]\n\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-34s %s\n", strings.TrimSpace(c.name+" "+c.args), c.short)
	}
	fmt.Fprint(w, "\n`skald COMMAND --help` lists a command's flags, `skald --help-long` those of all. Start with `skald up`.\n")
}

// parseFlags fills fs and turns mistakes into usage errors; help is printed to std.out and
// reported as done.
func parseFlags(std stdio, fs *flag.FlagSet, args []string, src conf.Source, usage string) (rest []string, done bool, err error) {
	if std.describe != nil {
		std.describe(fs, src)
		return nil, true, nil
	}
	rest, err = conf.Parse(fs, args, src)
	switch {
	case conf.IsHelp(err):
		fmt.Fprintf(std.out, "Usage: skald %s\n", usage)
		conf.WriteUsage(std.out, fs, src)
		return nil, true, nil
	case err != nil:
		return nil, false, usageError{fmt.Errorf("%s: %w", fs.Name(), err)}
	}
	return rest, false, nil
}

func runVersion(_ context.Context, std stdio, args []string) error {
	rest, done, err := parseFlags(std, flag.NewFlagSet("version", flag.ContinueOnError), args, conf.Source{}, "version")
	if done || err != nil {
		return err
	}
	if len(rest) > 0 {
		return badUsage("version takes no arguments")
	}
	fmt.Fprintf(std.out, "skald %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return nil
}
