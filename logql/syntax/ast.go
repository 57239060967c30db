// Package syntax is LogQL as text and as a tree: lexer, parser, AST, canonical printing
// and pretty printing. It knows nothing of how queries are executed.
//
// Parse returns an Expr; Expr.String is the canonical form, which parses back to an
// equal tree. The grammar, the texts of errors and both printed forms are those of
// Loki 3.7 (https://grafana.com/docs/loki/latest/query/), except that a printed form
// never changes what a query means: sizes are not rounded, numbers that have no literal
// are written as operations, and splitting a query over lines keeps the alternatives of
// line filters, empty groupings and the parentheses that operators need. Neither is a
// query read on after its first error, or accepted when it nests too deeply.
//
// Parse checks what it can without compiling stages. The regular expressions of line
// filters, templates, addresses and JSON paths are checked by whoever compiles them,
// with StageError and the helpers here.
package syntax

import (
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

// Expr is any LogQL expression: a LogExpr or a MetricExpr.
type Expr interface {
	// String returns the canonical form on one line.
	String() string
	// Pretty returns the indented form; level is the depth of indentation.
	Pretty(level int) string
	expr()
}

// LogExpr is an expression that yields log lines: a selector and its pipeline.
type LogExpr struct {
	// Matchers is the stream selector. After a successful Parse at least one of them does
	// not match the empty string.
	Matchers []*labels.Matcher
	// Stages are the pipeline in the order written.
	Stages []Stage
}

// MetricExpr is an expression that yields samples.
type MetricExpr interface {
	Expr
	metric()
}

// LogRange is the argument of a range aggregation.
type LogRange struct {
	Log    LogExpr
	Unwrap *Unwrap // nil when the aggregation works on lines
	Range  time.Duration
	Offset time.Duration
}

// Unwrap turns a label into the sample's value.
type Unwrap struct {
	Label string
	// Conversion is "", "bytes", "duration" or "duration_seconds".
	Conversion string
	// Filters are applied after the conversion, usually | __error__="".
	Filters []*LabelFilter
}

// Grouping is a by (…) or without (…) clause.
type Grouping struct {
	Without bool
	Labels  []string
}

// RangeAgg is an aggregation over a window of log lines, such as rate(… [5m]).
type RangeAgg struct {
	Op    string // "count_over_time", "rate", …
	Param *float64
	Range LogRange
	// Grouping is nil when none was written.
	Grouping *Grouping
}

// VectorAgg is an aggregation over series, such as sum by (app) (…).
type VectorAgg struct {
	Op       string // "sum", "topk", …
	Param    *float64
	Expr     MetricExpr
	Grouping *Grouping
}

// BinOp combines two metric expressions.
type BinOp struct {
	Op       string // "+", "and", "==", …
	LHS, RHS MetricExpr
	// ReturnBool is the bool modifier of comparisons.
	ReturnBool bool
	Matching   *VectorMatching // nil when not written
}

// VectorMatching says how the series of two sides find each other.
type VectorMatching struct {
	On     bool // on (…) rather than ignoring (…)
	Labels []string
	// Group is "", "left" or "right"; Include are the labels copied from the one side.
	Group   string
	Include []string
}

// Literal is a number.
type Literal struct{ Value float64 }

// VectorLiteral is vector(n).
type VectorLiteral struct{ Value float64 }

// LabelReplace is label_replace(v, dst, replacement, src, regex).
type LabelReplace struct {
	Expr                         MetricExpr
	Dst, Replacement, Src, Regex string
}

// Variants is variants(a, b, …) of (range).
type Variants struct {
	Exprs []MetricExpr
	Of    LogRange
}

// Stage is one step of a pipeline.
type Stage interface {
	String() string
	stage()
}

// LineOp is the operator of a line filter.
type LineOp string

// The line filter operators.
const (
	LineContains    LineOp = "|="
	LineNotContains LineOp = "!="
	LineMatches     LineOp = "|~"
	LineNotMatches  LineOp = "!~"
	LinePattern     LineOp = "|>"
	LineNotPattern  LineOp = "!>"
)

// Negative reports whether the operator keeps the lines that do not match.
func (op LineOp) Negative() bool { return op[0] == '!' }

// LineFilter keeps lines by their text. Several operands are joined by or; for the
// negative operators a line must match none of them. Parse makes a negative filter with
// several operands into several filters.
type LineFilter struct {
	Op       LineOp
	Operands []LineOperand
}

// LineOperand is a text, a regular expression, a pattern, or an address when IP is set.
type LineOperand struct {
	Text string
	IP   bool
}

// Extraction is name="expression" in a parser stage.
type Extraction struct{ Name, Expr string }

// JSONStage is | json, with extractions or without.
type JSONStage struct{ Extract []Extraction }

// LogfmtStage is | logfmt.
type LogfmtStage struct {
	Strict, KeepEmpty bool
	Extract           []Extraction
}

// RegexpStage is | regexp "…".
type RegexpStage struct{ Regex string }

// PatternStage is | pattern "…".
type PatternStage struct{ Pattern string }

// UnpackStage is | unpack.
type UnpackStage struct{}

// LineFormat is | line_format "…".
type LineFormat struct{ Template string }

// LabelFormat is | label_format a=b, c="…".
type LabelFormat struct{ Formats []LabelAssign }

// LabelAssign is dst=src (Rename) or dst="template".
type LabelAssign struct {
	Dst    string
	Value  string
	Rename bool
}

// Decolorize is | decolorize.
type Decolorize struct{}

// DropStage is | drop a, b="x".
type DropStage struct{ Labels []NameOrMatcher }

// KeepStage is | keep a, b="x".
type KeepStage struct{ Labels []NameOrMatcher }

// NameOrMatcher is a label's name, or a matcher on it.
type NameOrMatcher struct {
	Name    string
	Matcher *labels.Matcher // nil for a bare name
}

// LabelFilter is a pipeline stage that keeps rows by their labels: a leaf, or two
// filters joined by and or or.
type LabelFilter struct {
	// Exactly one of the following is set.
	Matcher *labels.Matcher // string comparison
	Number  *NumberFilter
	IP      *IPFilter
	Binary  *BinaryFilter
}

// NumberFilter compares a label's value with a number, a duration or a size.
type NumberFilter struct {
	Name string
	Op   string // "=", "!=", ">", ">=", "<", "<="
	Kind NumberKind
	// Number is the value: a plain number, nanoseconds or bytes by Kind. Durations and
	// sizes may be too large for it to be exact; Duration and Bytes have them whole.
	Number   float64
	Duration time.Duration
	Bytes    uint64
	// Text is the literal in canonical form.
	Text string
}

// NumberKind says how a label's value is converted before it is compared.
type NumberKind uint8

// The kinds of numeric label filters.
const (
	KindNumber NumberKind = iota
	KindDuration
	KindBytes
)

// IPFilter compares a label's value with addresses; Op is "=" or "!=".
type IPFilter struct{ Name, Op, Pattern string }

// BinaryFilter joins two label filters.
type BinaryFilter struct {
	Or          bool // or rather than and
	Left, Right *LabelFilter
}

func (*LogExpr) expr()       {}
func (*RangeAgg) expr()      {}
func (*VectorAgg) expr()     {}
func (*BinOp) expr()         {}
func (*Literal) expr()       {}
func (*VectorLiteral) expr() {}
func (*LabelReplace) expr()  {}
func (*Variants) expr()      {}

func (*RangeAgg) metric()      {}
func (*VectorAgg) metric()     {}
func (*BinOp) metric()         {}
func (*Literal) metric()       {}
func (*VectorLiteral) metric() {}
func (*LabelReplace) metric()  {}
func (*Variants) metric()      {}

func (*LineFilter) stage()   {}
func (*JSONStage) stage()    {}
func (*LogfmtStage) stage()  {}
func (*RegexpStage) stage()  {}
func (*PatternStage) stage() {}
func (*UnpackStage) stage()  {}
func (*LineFormat) stage()   {}
func (*LabelFormat) stage()  {}
func (*Decolorize) stage()   {}
func (*DropStage) stage()    {}
func (*KeepStage) stage()    {}
func (*LabelFilter) stage()  {}
