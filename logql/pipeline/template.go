package pipeline

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"text/template"
	"text/template/parse"
	"time"
)

// The bounds of templates. A template comes from a user and runs for each row, so
// neither its text nor its loops may take the server down.
const (
	// maxTemplateBytes bounds what one execution writes, and each text made on the way.
	maxTemplateBytes = 4 << 20
	// maxTemplateSteps bounds the loop rounds and template calls of one execution.
	maxTemplateSteps = 1 << 17
	// callSteps is what calling a named template costs, since calls may nest.
	callSteps = 16
	// maxTemplateRegexps bounds the compiled expressions that are kept.
	maxTemplateRegexps = 64
)

var (
	errTemplateSize  = errors.New("template output too large")
	errTemplateSteps = errors.New("template takes too many steps")
)

// templateEnv is what the templates of a stage share while they run.
type templateEnv struct {
	line    []byte
	ts      int64
	steps   int
	regexps map[string]*regexp.Regexp
	data    map[string]string
	out     []byte
}

func newTemplateEnv() *templateEnv {
	return &templateEnv{regexps: map[string]*regexp.Regexp{}, data: map[string]string{}}
}

// parse compiles a template whose functions work on env.
func (e *templateEnv) parse(name, text string) (*template.Template, error) {
	funcs := template.FuncMap{
		"__line__":      func() string { return string(e.line) },
		"__timestamp__": func() time.Time { return time.Unix(0, e.ts) },
	}
	for k, f := range templateFuncs {
		funcs[k] = f
	}
	e.addRegexpFuncs(funcs)
	return template.New(name).Option("missingkey=zero").Funcs(funcs).Parse(text)
}

// guard makes the template count its steps: a call that counts goes in front
// of the body of each loop and of each named template. The functions are unknown while
// the template is parsed, so no query can name it.
func (e *templateEnv) guard(t *template.Template) {
	t.Funcs(template.FuncMap{
		"__step__": func() (string, error) { return e.step(1) },
		"__call__": func() (string, error) { return e.step(callSteps) },
	})
	for _, named := range t.Templates() {
		if named.Tree == nil || named.Root == nil {
			continue
		}
		guardLoops(named.Tree, named.Root)
		if named != t {
			prepend(named.Tree, named.Root, "__call__")
		}
	}
}

func (e *templateEnv) step(n int) (string, error) {
	if e.steps += n; e.steps > maxTemplateSteps {
		return "", errTemplateSteps
	}
	return "", nil
}

func guardLoops(tree *parse.Tree, list *parse.ListNode) {
	if list == nil {
		return
	}
	for _, n := range list.Nodes {
		switch n := n.(type) {
		case *parse.RangeNode:
			guardLoops(tree, n.List)
			guardLoops(tree, n.ElseList)
			prepend(tree, n.List, "__step__")
		case *parse.IfNode:
			guardLoops(tree, n.List)
			guardLoops(tree, n.ElseList)
		case *parse.WithNode:
			guardLoops(tree, n.List)
			guardLoops(tree, n.ElseList)
		}
	}
}

// prepend puts a call of a function without arguments in front of a list.
func prepend(tree *parse.Tree, list *parse.ListNode, function string) {
	call := &parse.CommandNode{NodeType: parse.NodeCommand, Pos: list.Pos}
	call.Args = []parse.Node{parse.NewIdentifier(function).SetPos(list.Pos).SetTree(tree)}
	pipe := &parse.PipeNode{NodeType: parse.NodePipe, Pos: list.Pos, Cmds: []*parse.CommandNode{call}}
	action := &parse.ActionNode{NodeType: parse.NodeAction, Pos: list.Pos, Pipe: pipe}
	list.Nodes = append([]parse.Node{action}, list.Nodes...)
}

// run executes a template over env.data and returns what it wrote, valid until the next
// run.
func (e *templateEnv) run(t *template.Template) ([]byte, error) {
	e.out, e.steps = e.out[:0], 0
	if err := t.Execute((*templateWriter)(e), e.data); err != nil {
		return nil, err
	}
	return e.out, nil
}

// templateWriter collects output up to the bound.
type templateWriter templateEnv

func (w *templateWriter) Write(b []byte) (int, error) {
	if len(w.out)+len(b) > maxTemplateBytes {
		return 0, errTemplateSize
	}
	w.out = append(w.out, b...)
	return len(b), nil
}

// load fills env.data with the row's labels.
func (e *templateEnv) load(r *row) {
	clear(e.data)
	c := &r.p.sets
	// Errors are shown, except details that stand alone on a row that is otherwise
	// unchanged.
	c.scratch = c.scratch[:0]
	if r.changed || r.err != "" {
		c.scratch = r.appendLabels(c.scratch)
	} else {
		for _, l := range r.sh.base {
			e.data[l.name] = r.baseValue(l)
		}
	}
	for _, l := range c.scratch {
		e.data[l.Name] = l.Value
	}
}

// fieldNames returns the fields that a template reads, as far as its text shows.
func fieldNames(t *template.Template) []string {
	if t.Tree == nil || t.Root == nil {
		return nil
	}
	names := nodeFields(t.Root, nil)
	slices.Sort(names)
	return slices.Compact(names)
}

func nodeFields(n parse.Node, names []string) []string {
	switch n := n.(type) {
	case *parse.ListNode:
		if n != nil {
			for _, sub := range n.Nodes {
				names = nodeFields(sub, names)
			}
		}
	case *parse.ActionNode:
		names = nodeFields(n.Pipe, names)
	case *parse.PipeNode:
		if n != nil {
			for _, c := range n.Cmds {
				names = nodeFields(c, names)
			}
		}
	case *parse.CommandNode:
		for _, a := range n.Args {
			names = nodeFields(a, names)
		}
	case *parse.IfNode:
		names = branchFields(&n.BranchNode, names)
	case *parse.WithNode:
		names = branchFields(&n.BranchNode, names)
	case *parse.RangeNode:
		names = branchFields(&n.BranchNode, names)
	case *parse.FieldNode:
		names = append(names, n.Ident...)
	}
	return names
}

func branchFields(b *parse.BranchNode, names []string) []string {
	names = nodeFields(b.Pipe, names)
	names = nodeFields(b.List, names)
	return nodeFields(b.ElseList, names)
}

// simpleField returns the field of a template that is just {{.field}}.
func simpleField(t *template.Template) string {
	if t.Tree == nil || t.Root == nil || len(t.Root.Nodes) != 1 {
		return ""
	}
	a, ok := t.Root.Nodes[0].(*parse.ActionNode)
	if !ok || len(a.Pipe.Cmds) != 1 || len(a.Pipe.Cmds[0].Args) != 1 {
		return ""
	}
	if f, ok := a.Pipe.Cmds[0].Args[0].(*parse.FieldNode); ok && len(f.Ident) == 1 && len(a.Pipe.Decl) == 0 {
		return f.Ident[0]
	}
	return ""
}

// regexp compiles an expression once for many rows.
func (e *templateEnv) regexp(expr string) (*regexp.Regexp, error) {
	if re, ok := e.regexps[expr]; ok {
		return re, nil
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		return nil, err
	}
	if len(e.regexps) >= maxTemplateRegexps {
		clear(e.regexps)
	}
	e.regexps[expr] = re
	return re, nil
}

func (e *templateEnv) addRegexpFuncs(funcs template.FuncMap) {
	funcs["regexReplaceAll"] = func(expr, s, repl string) (string, error) {
		re, err := e.regexp(expr)
		if err != nil {
			return "", err
		}
		// Each group that the replacement names may bring back the whole match.
		if n := len(re.FindAllStringIndex(s, -1)); n*len(repl)+len(s)*(1+dollars(repl)) > maxTemplateBytes {
			return "", errTemplateSize
		}
		return re.ReplaceAllString(s, repl), nil
	}
	funcs["regexReplaceAllLiteral"] = func(expr, s, repl string) (string, error) {
		re, err := e.regexp(expr)
		if err != nil {
			return "", err
		}
		if n := len(re.FindAllStringIndex(s, -1)); n*len(repl)+len(s) > maxTemplateBytes {
			return "", errTemplateSize
		}
		return re.ReplaceAllLiteralString(s, repl), nil
	}
	funcs["count"] = func(expr, s string) (int, error) {
		re, err := e.regexp(expr)
		if err != nil {
			return 0, err
		}
		return len(re.FindAllStringIndex(s, -1)), nil
	}
}

func dollars(s string) int {
	n := 0
	for i := range len(s) {
		if s[i] == '$' {
			n++
		}
	}
	return n
}

// sized panics, which text/template turns into an error of the calling function, when a
// text of n bytes would be too large.
func sized(n int) {
	if n > maxTemplateBytes || n < 0 {
		panic(fmt.Errorf("%w", errTemplateSize))
	}
}
