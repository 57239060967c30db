package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var updateManual = flag.Bool("update", false, "rewrite docs/cli.md")

const manualFile = "../../docs/cli.md"

const manualIntro = `# Command line

This page is generated from the program: ` + "`go test ./cmd/skald -run TestManual -update`" + `.

Flags take one dash or two, may follow arguments, and have a negation where they are switches (` + "`--no-quiet`" + `). The
command line wins over the environment, which wins over a configuration file. Results go to standard output, everything
else to standard error.

| status | meaning |
|---|---|
| 0 | success; an empty result and a tail that was ended are successes |
| 1 | the work failed: the server refused, was not there, or broke off |
| 2 | wrong usage: nothing was done |
| 130 | interrupted |
| 141 | the reader of standard output went away (SIGPIPE) |

The client commands have logcli's flags, environment variables and output. ` + "`query`" + ` prints the newest line last;
` + "`--newest-first`, or `SKALD_NEWEST_FIRST=true`" + ` in the environment, gives logcli's order. logcli's flags for running
its engine against object storage (` + "`--store-config`, `--remote-schema`, `--schema-store`" + `) do not exist.
` + "`--stdin`" + ` prints lines as they came and in their order, where logcli prints at most a page of them, last first.
`

// manual is docs/cli.md.
func manual() string {
	var b strings.Builder
	b.WriteString(manualIntro)
	all := describeAll()
	b.WriteString("\n## Commands\n\n| command | |\n|---|---|\n")
	for _, d := range all {
		fmt.Fprintf(&b, "| [`%s`](#%s) | %s |\n", cell.Replace(usageOf(d)), anchor(d), d.short)
	}
	var common clientOptions
	shared := flag.NewFlagSet("", flag.ContinueOnError)
	common.register(shared)
	b.WriteString("\n## Flags of all client commands\n\n")
	writeFlags(&b, described{set: shared, src: clientEnv()}, nil)
	for _, d := range all {
		fmt.Fprintf(&b, "\n## skald %s\n\n`skald %s`: %s.\n\n", d.name, usageOf(d), d.short)
		switch {
		case d.set == nil:
		case isClient(d.name) && d.name != "completion":
			writeFlags(&b, d, shared)
		case d.name == "up":
			b.WriteString("It has the flags of [serve](#skald-serve), with defaults for one machine:\n\n")
			writeDefaults(&b, d.set, serveFlags(all))
		default:
			writeFlags(&b, d, nil)
		}
	}
	return b.String()
}

func isClient(name string) bool {
	return slices.ContainsFunc(clientCommands(), func(c command) bool { return c.name == name })
}

func serveFlags(all []described) *flag.FlagSet {
	i := slices.IndexFunc(all, func(d described) bool { return d.name == "serve" })
	return all[i].set
}

// writeDefaults lists the flags whose values differ from another command's.
func writeDefaults(b *strings.Builder, set, other *flag.FlagSet) {
	set.VisitAll(func(f *flag.Flag) {
		if o := other.Lookup(f.Name); o != nil && o.Value.String() != f.Value.String() {
			fmt.Fprintf(b, "- `--%s=%s`\n", f.Name, f.Value)
		}
	})
}

func usageOf(d described) string { return strings.TrimSpace(d.name + " " + d.args) }

func anchor(d described) string { return "skald-" + strings.ReplaceAll(d.name, " ", "-") }

// cell makes a text fit into a table.
var cell = strings.NewReplacer("|", "\\|", "\n", " ")

// writeFlags writes the flags that are not in without as a table. Two names of one flag
// share a row.
func writeFlags(b *strings.Builder, d described, without *flag.FlagSet) {
	short := map[string]string{} // the one-letter name by usage
	d.set.VisitAll(func(f *flag.Flag) {
		if len(f.Name) == 1 {
			short[f.Usage] = f.Name
		}
	})
	rows := 0
	d.set.VisitAll(func(f *flag.Flag) {
		if without != nil && without.Lookup(f.Name) != nil || len(f.Name) == 1 && hasLongName(d.set, f) {
			return
		}
		if rows++; rows == 1 {
			b.WriteString("| flag | default | environment | |\n|---|---|---|---|\n")
		}
		kind, usage := flag.UnquoteUsage(f)
		dash := "--"
		if len(f.Name) == 1 {
			dash = "-"
		}
		name := "`" + strings.TrimSpace(dash+f.Name+" "+kind) + "`"
		if s := short[f.Usage]; s != "" && s != f.Name {
			name = "`-" + s + "`, " + name
		}
		value := ""
		if f.DefValue != "" && f.DefValue != "false" {
			value = "`" + cell.Replace(f.DefValue) + "`"
		}
		env := d.src.EnvNames[f.Name]
		if env == "" && d.src.EnvPrefix != "" {
			env = d.src.EnvPrefix + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(f.Name))
		}
		if env != "" {
			env = "`" + env + "`"
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", cell.Replace(name), value, env, cell.Replace(usage))
	})
	switch {
	case rows == 0 && without != nil:
		b.WriteString("It has no flags but [those of all client commands](#flags-of-all-client-commands).\n")
	case rows == 0:
		b.WriteString("It has no flags.\n")
	}
}

func hasLongName(fs *flag.FlagSet, f *flag.Flag) (found bool) {
	fs.VisitAll(func(g *flag.Flag) { found = found || len(g.Name) > 1 && g.Usage == f.Usage })
	return found
}

// The manual says what the program has. -update writes it again.
func TestManual(t *testing.T) {
	got := manual()
	if *updateManual {
		if err := os.WriteFile(manualFile, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(manualFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("docs/cli.md is not up to date; run `go test ./cmd/skald -run TestManual -update` (-want +got):\n%s", diff)
	}
}
