package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/skaldlog/skald/internal/client"
	"github.com/skaldlog/skald/internal/conf"
)

func clientCommands() []command {
	return []command{
		{"query", "LOGQL", "print log lines, or a metric's samples", runQuery},
		{"instant-query", "LOGQL", "evaluate a metric query at one time", runInstantQuery},
		{"tail", "LOGQL", "print lines as they arrive", runTail},
		{"labels", "[LABEL]", "list label names, or a label's values", runLabels},
		{"series", "SELECTOR", "list streams", runSeries},
		{"stats", "SELECTOR", "count streams, blocks, entries and bytes", runStats},
		{"volume", "SELECTOR", "print how many bytes streams have", runVolume},
		{"volume_range", "SELECTOR", "print how many bytes streams have over time", runVolumeRange},
		{"detected-fields", "LOGQL [FIELD]", "list the fields in log lines, or a field's values", runDetectedFields},
		{"patterns", "LOGQL", "list the templates that log lines were printed from", runPatterns},
		{"delete create", "LOGQL", "ask for the deletion of log lines", runDeleteCreate},
		{"delete list", "", "list the deletions asked for", runDeleteList},
		{"delete cancel", "", "withdraw a deletion", runDeleteCancel},
		{"fmt", "[LOGQL]", "pretty-print a query from the argument or standard input", runFmt},
		{"completion", "bash|zsh|fish", "print a completion script for a shell", runCompletion},
	}
}

// clientOptions are the flags that every client command has; names and meanings are logcli's.
type clientOptions struct {
	conn       client.Config
	quiet      bool
	stats      bool
	output     string
	timezone   string
	timeStyle  string
	color      string
	logLevel   string
	cpuProfile string
	memProfile string
}

func (o *clientOptions) register(fs *flag.FlagSet) {
	o.conn.RegisterFlags(fs)
	alias("quiet", "q", func(name string) {
		fs.BoolVar(&o.quiet, name, false, "print results only: no label summaries, no hints, no progress")
	})
	fs.BoolVar(&o.stats, "stats", false, "print what the query cost, on standard error")
	alias("output", "o", func(name string) {
		fs.StringVar(&o.output, name, "default", "`mode`: default (time, labels, line), raw (the line alone) or jsonl")
	})
	alias("timezone", "z", func(name string) { fs.StringVar(&o.timezone, name, "Local", "`zone` of printed times: Local or UTC") })
	fs.StringVar(&o.timeStyle, "output-timestamp-format", "rfc3339", "`style` of printed times: rfc3339, rfc3339nano, rfc822z, rfc1123z, stampmicro, stampmilli, stampnano or unixdate")
	fs.StringVar(&o.color, "color", "auto", "`when` to colour: auto (on a terminal), always or never")
	fs.StringVar(&o.logLevel, "log.level", "error", "accepted for logcli's sake; Skald's client logs nothing else")
	fs.StringVar(&o.cpuProfile, "cpuprofile", "", "write a CPU profile of the client to this `file`")
	fs.StringVar(&o.memProfile, "memprofile", "", "write a memory profile of the client to this `file`")
}

// alias declares a flag under two names.
func alias(long, short string, declare func(name string)) {
	declare(long)
	declare(short)
}

// clientEnv are the environment variables of client flags: logcli's, and one of Skald's own.
func clientEnv() conf.Source {
	names := map[string]string{"newest-first": "SKALD_NEWEST_FIRST"}
	for flagName, env := range client.EnvNames {
		names[flagName] = env
	}
	return conf.Source{EnvNames: names, LookupEnv: func(name string) (string, bool) {
		// As for logcli, an empty variable is none.
		value := os.Getenv(name)
		return value, value != ""
	}}
}

// clientCommand is what a client command needs once its flags are read.
type clientCommand struct {
	clientOptions
	std    stdio
	client *client.Client
	out    printer
	args   []string
	given  map[string]bool // flags that the line or the environment has set
	cost   costs
	bar    *progress // nil where none is wanted
}

// clientSpec declares a client command: its name, its arguments and its own flags.
type clientSpec struct {
	name, usage      string
	minArgs, maxArgs int
	register         func(*flag.FlagSet) // may be nil
}

// run reads the flags, checks them and calls body.
func (s clientSpec) run(std stdio, args []string, body func(c *clientCommand) error) error {
	c, done, err := s.parse(std, args)
	if done || err != nil {
		return err
	}
	stop, err := c.profile()
	if err != nil {
		return usageError{err}
	}
	if c.bar = newProgress(c.std, c.clientOptions); c.bar != nil {
		c.std.err = c.bar
	}
	err = body(c)
	c.bar.clear()
	if err == nil && c.stats {
		err = c.cost.print(c.std.err)
	}
	return explain(errors.Join(err, stop()))
}

func (s clientSpec) parse(std stdio, args []string) (c *clientCommand, done bool, err error) {
	c = &clientCommand{std: std, given: map[string]bool{}}
	fs := flag.NewFlagSet(s.name, flag.ContinueOnError)
	c.register(fs)
	if s.register != nil {
		s.register(fs)
	}
	c.args, done, err = parseFlags(std, fs, args, clientEnv(), strings.TrimSpace(s.name+" "+s.usage))
	if done || err != nil {
		return nil, done, err
	}
	fs.Visit(func(f *flag.Flag) { c.given[f.Name] = true })
	if len(c.args) < s.minArgs || len(c.args) > s.maxArgs {
		if s.maxArgs == 0 {
			return nil, false, badUsage("%s takes no arguments, got %q", s.name, c.args)
		}
		return nil, false, badUsage("%s: expected %s, got %d arguments; quote the query so that the shell leaves it alone: skald %s '{app=\"x\"}'", s.name, s.usage, len(c.args), s.name)
	}
	c.conn.UserAgent = "skald/" + version
	if c.client, err = client.New(c.conn); err != nil {
		return nil, false, usageError{err}
	}
	if c.out, err = newPrinter(std.out, c.clientOptions); err != nil {
		return nil, false, usageError{err}
	}
	return c, false, nil
}

// note prints something that is not a result, unless --quiet.
func (c *clientCommand) note(format string, args ...any) {
	if !c.quiet {
		fmt.Fprintf(c.std.err, format+"\n", args...)
	}
}

// explain turns the server's refusals into short errors.
func explain(err error) error {
	var status *client.StatusError
	if errors.As(err, &status) && status.Status == 400 && trimmed(status.Body) != "" {
		return errors.New(trimmed(status.Body))
	}
	return err
}

// timeRange is --since, --from and --to.
type timeRange struct {
	since    time.Duration
	from, to string
}

func (r *timeRange) register(fs *flag.FlagSet) {
	fs.DurationVar(&r.since, "since", time.Hour, "look back so far, when --from is not given")
	fs.StringVar(&r.from, "from", "", "first `time`, inclusive, RFC3339 with a zone: 2021-01-19T10:00:00Z")
	fs.StringVar(&r.to, "to", "", "last `time`, exclusive; now by default")
}

// bounds returns the range in nanoseconds since 1970.
func (r *timeRange) bounds() (start, end int64, err error) {
	end = time.Now().UnixNano()
	if r.to != "" {
		if end, err = parseTime("--to", r.to); err != nil {
			return 0, 0, err
		}
	}
	start = end - int64(r.since)
	if r.from != "" {
		if start, err = parseTime("--from", r.from); err != nil {
			return 0, 0, err
		}
	}
	if start > end {
		return 0, 0, badUsage("--from %s is after --to %s", r.from, r.to)
	}
	return start, end, nil
}

func parseTime(flagName, text string) (int64, error) {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return 0, badUsage("%s: unable to parse time %q: expected RFC3339 with a zone, such as 2021-01-19T10:00:00Z", flagName, text)
	}
	return t.UnixNano(), nil
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// warnAll prints the server's warnings.
func (c *clientCommand) warnAll(warnings []string) {
	for _, w := range warnings {
		fmt.Fprintf(c.std.err, "warning: %s\n", w)
	}
}
