package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/skaldlog/skald/internal/conf"
)

// described is a command with its flags, for help, completion and the manual.
type described struct {
	command
	flags []describedFlag
	set   *flag.FlagSet
	src   conf.Source
}

type describedFlag struct {
	name, usage string
	kind        string // of its value, "" for a boolean
}

// describeAll asks every command for its flags, by running it in the mode where it only
// tells them.
func describeAll() []described {
	var out []described
	for _, c := range commands() {
		d := described{command: c}
		std := stdio{in: strings.NewReader(""), out: io.Discard, err: io.Discard}
		std.describe = func(fs *flag.FlagSet, src conf.Source) {
			d.set, d.src = fs, src
			fs.VisitAll(func(f *flag.Flag) {
				kind, usage := flag.UnquoteUsage(f)
				if b, ok := f.Value.(interface{ IsBoolFlag() bool }); ok && b.IsBoolFlag() {
					kind = ""
				}
				d.flags = append(d.flags, describedFlag{f.Name, usage, kind})
			})
		}
		// An error can only come from a command without flags, which has nothing to tell.
		_ = c.run(context.Background(), std, nil)
		out = append(out, d)
	}
	return out
}

// writeHelpLong is the help of every command in one text.
func writeHelpLong(w io.Writer) error {
	writeHelp(w)
	for _, d := range describeAll() {
		fmt.Fprintf(w, "\n%s\n    %s\n", strings.TrimSpace("skald "+d.name+" "+d.args), d.short)
		if d.set != nil {
			conf.WriteUsage(w, d.set, d.src)
		}
	}
	return nil
}

func runCompletion(_ context.Context, std stdio, args []string) error {
	fs := flag.NewFlagSet("completion", flag.ContinueOnError)
	rest, done, err := parseFlags(std, fs, args, conf.Source{}, "completion bash|zsh|fish\n\n"+
		"bash:  source <(skald completion bash)\n"+
		"zsh:   skald completion zsh >\"${fpath[1]}/_skald\"\n"+
		"fish:  skald completion fish | source")
	if done || err != nil {
		return err
	}
	writers := map[string]func([]described) string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}
	if len(rest) != 1 || writers[rest[0]] == nil {
		return badUsage("completion: expected bash, zsh or fish, got %q", rest)
	}
	_, err = io.WriteString(std.out, writers[rest[0]](describeAll()))
	return err
}

// flagValues are the words that a flag of a client command takes.
var flagValues = map[string][]string{
	"output": {"default", "raw", "jsonl"}, "o": {"default", "raw", "jsonl"},
	"timezone": {"Local", "UTC"}, "z": {"Local", "UTC"},
	"color":                   {"auto", "always", "never"},
	"output-timestamp-format": {"rfc3339", "rfc3339nano", "rfc822z", "rfc1123z", "stampmicro", "stampmilli", "stampnano", "unixdate"},
	"log.level":               {"debug", "info", "warn", "error"},
	"log.format":              {"logfmt", "json"},
}

// argumentWords are the words that a command takes as its argument.
var argumentWords = map[string][]string{"completion": {"bash", "zsh", "fish"}, "debug": {"segment"}}

func (f describedFlag) isFile() bool {
	return f.kind == "file" || f.kind == "directory" || f.kind == "path"
}

func (f describedFlag) dashed() string {
	if len(f.name) == 1 {
		return "-" + f.name
	}
	return "--" + f.name
}

// words splits the commands into first words, in order, and second words by first.
func words(all []described) (first []string, second map[string][]string) {
	second = map[string][]string{}
	for _, d := range all {
		a, b, two := strings.Cut(d.name, " ")
		if !slices.Contains(first, a) {
			first = append(first, a)
		}
		if two {
			second[a] = append(second[a], b)
		}
	}
	return first, second
}

func bashCompletion(all []described) string {
	var b strings.Builder
	first, second := words(all)
	b.WriteString(`# bash completion for skald: source <(skald completion bash)
_skald() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} cmd= i
    # "=" is a word of its own: --output=r is three words.
    if [[ $cur == = ]]; then cur=; elif [[ $prev == = ]]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
`)
	fmt.Fprintf(&b, "        %s) cmd=${COMP_WORDS[i]}; break ;;\n        esac\n    done\n", strings.Join(first, "|"))
	for _, name := range slices.Sorted(maps.Keys(second)) {
		fmt.Fprintf(&b, "    if [[ $cmd == %s ]]; then\n        for ((i++; i < COMP_CWORD; i++)); do\n            case ${COMP_WORDS[i]} in\n            %s) cmd=\"%s ${COMP_WORDS[i]}\"; break ;;\n            esac\n        done\n    fi\n",
			name, strings.Join(second[name], "|"), name)
	}
	b.WriteString("    case $prev in\n")
	for _, name := range slices.Sorted(maps.Keys(flagValues)) {
		fmt.Fprintf(&b, "    -%s|--%s) COMPREPLY=($(compgen -W '%s' -- \"$cur\")); return ;;\n", name, name, strings.Join(flagValues[name], " "))
	}
	for _, name := range fileFlags(all) {
		fmt.Fprintf(&b, "    -%s|--%s) COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n", name, name)
	}
	b.WriteString("    esac\n    case $cmd in\n")
	fmt.Fprintf(&b, "    '') COMPREPLY=($(compgen -W '%s help' -- \"$cur\")); return ;;\n", strings.Join(first, " "))
	for _, name := range slices.Sorted(maps.Keys(second)) {
		fmt.Fprintf(&b, "    %s) COMPREPLY=($(compgen -W '%s' -- \"$cur\")) ;;\n", name, strings.Join(second[name], " "))
	}
	for _, d := range all {
		var flags []string
		for _, f := range d.flags {
			flags = append(flags, f.dashed())
		}
		fmt.Fprintf(&b, "    '%s') if [[ $cur == -* ]]; then COMPREPLY=($(compgen -W '%s' -- \"$cur\")); else ", d.name, strings.Join(flags, " "))
		if list := argumentWords[d.name]; list != nil {
			fmt.Fprintf(&b, "COMPREPLY=($(compgen -W '%s' -- \"$cur\")); fi ;;\n", strings.Join(list, " "))
		} else {
			b.WriteString("COMPREPLY=($(compgen -f -- \"$cur\")); fi ;;\n")
		}
	}
	b.WriteString("    esac\n}\ncomplete -o filenames -F _skald skald\n")
	return b.String()
}

func fileFlags(all []described) []string {
	set := map[string]bool{}
	for _, d := range all {
		for _, f := range d.flags {
			if f.isFile() {
				set[f.name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(set))
}

func zshCompletion(all []described) string {
	var b strings.Builder
	_, second := words(all)
	// In a specification ' ends the shell's quotes, and : [ ] are its own punctuation.
	quote := strings.NewReplacer("'", "’", ":", "\\:", "[", "\\[", "]", "\\]", "`", "", "\n", " ")
	b.WriteString("#compdef skald\n# zsh completion for skald: skald completion zsh >\"${fpath[1]}/_skald\"\n_skald() {\n    local -a commands\n    local cmd=$words[2]\n    commands=(\n")
	for _, d := range all {
		if first, _, two := strings.Cut(d.name, " "); !two {
			fmt.Fprintf(&b, "        '%s:%s'\n", d.name, quote.Replace(d.short))
		} else if d.name == first+" "+second[first][0] {
			fmt.Fprintf(&b, "        '%s:%s'\n", first, strings.Join(second[first], ", "))
		}
	}
	b.WriteString("    )\n    if ((CURRENT == 2)); then _describe -t commands 'skald command' commands; return; fi\n    shift words; ((CURRENT--))\n")
	for _, name := range slices.Sorted(maps.Keys(second)) {
		fmt.Fprintf(&b, "    if [[ $cmd == %s ]]; then\n        if ((CURRENT == 2)); then compadd %s; return; fi\n        cmd=\"$cmd $words[2]\"; shift words; ((CURRENT--))\n    fi\n", name, strings.Join(second[name], " "))
	}
	b.WriteString("    case $cmd in\n")
	for _, d := range all {
		fmt.Fprintf(&b, "    '%s') _arguments", d.name)
		for _, f := range d.flags {
			fmt.Fprintf(&b, " \\\n        '%s", f.dashed())
			switch {
			case f.kind == "":
				fmt.Fprintf(&b, "[%s]'", quote.Replace(f.usage))
				continue
			case len(f.name) > 1:
				b.WriteString("=")
			}
			fmt.Fprintf(&b, "[%s]:%s:", quote.Replace(f.usage), quote.Replace(f.kind))
			if list := flagValues[f.name]; list != nil {
				fmt.Fprintf(&b, "(%s)", strings.Join(list, " "))
			} else if f.isFile() {
				b.WriteString("_files")
			}
			b.WriteString("'")
		}
		if list := argumentWords[d.name]; list != nil {
			fmt.Fprintf(&b, " \\\n        '*:argument:(%s)' ;;\n", strings.Join(list, " "))
		} else {
			b.WriteString(" \\\n        '*:argument:_files' ;;\n")
		}
	}
	b.WriteString("    esac\n}\n_skald \"$@\"\n")
	return b.String()
}

func fishCompletion(all []described) string {
	var b strings.Builder
	_, second := words(all)
	quote := func(s string) string {
		return "'" + strings.NewReplacer("\\", "\\\\", "'", "\\'", "\n", " ").Replace(s) + "'"
	}
	b.WriteString("# fish completion for skald: skald completion fish | source\n")
	for _, d := range all {
		first, sub, two := strings.Cut(d.name, " ")
		seen := "__fish_seen_subcommand_from " + first
		if two {
			if sub == second[first][0] {
				fmt.Fprintf(&b, "complete -c skald -f -n __fish_use_subcommand -a %s -d %s\n", first, quote(strings.Join(second[first], ", ")))
			}
			fmt.Fprintf(&b, "complete -c skald -f -n '%s; and not __fish_seen_subcommand_from %s' -a %s -d %s\n", seen, strings.Join(second[first], " "), sub, quote(d.short))
			seen += "; and __fish_seen_subcommand_from " + sub
		} else {
			fmt.Fprintf(&b, "complete -c skald -f -n __fish_use_subcommand -a %s -d %s\n", d.name, quote(d.short))
		}
		if list := argumentWords[d.name]; list != nil {
			fmt.Fprintf(&b, "complete -c skald -f -n '%s' -a %s\n", seen, quote(strings.Join(list, " ")))
		}
		for _, f := range d.flags {
			kind := "-l"
			if len(f.name) == 1 {
				kind = "-s"
			}
			fmt.Fprintf(&b, "complete -c skald -n '%s' %s %s", seen, kind, f.name)
			switch list := flagValues[f.name]; {
			case list != nil:
				fmt.Fprintf(&b, " -x -a %s", quote(strings.Join(list, " ")))
			case f.isFile():
				b.WriteString(" -r -F")
			case f.kind != "":
				b.WriteString(" -x")
			}
			fmt.Fprintf(&b, " -d %s\n", quote(f.usage))
		}
	}
	return b.String()
}
