package syntax

import "time"

// kind is the class of a token.
type kind uint8

const (
	tokEOF kind = iota
	tokIdent
	tokString
	tokNumber
	tokDuration
	tokBytes
	tokRange
	tokFlag

	tokComma
	tokDot
	tokOpenBrace
	tokCloseBrace
	tokOpenParen
	tokCloseParen
	tokCloseBracket
	tokPipe
	tokEq
	tokRegex
	tokNotRegex
	tokNotPattern
	tokPipeExact
	tokPipeMatch
	tokPipePattern

	tokOr
	tokAnd
	tokUnless
	tokCmpEq
	tokNeq
	tokLT
	tokLTE
	tokGT
	tokGTE
	tokAdd
	tokSub
	tokMul
	tokDiv
	tokMod
	tokPow

	tokBy
	tokWithout
	tokBool
	tokOn
	tokIgnoring
	tokGroupLeft
	tokGroupRight
	tokOffset
	tokUnwrap
	tokJSON
	tokLogfmt
	tokRegexp
	tokPattern
	tokUnpack
	tokLineFormat
	tokLabelFormat
	tokDecolorize
	tokDrop
	tokKeep
	tokVariants
	tokOf

	tokIP
	tokLabelReplace
	tokVector
	tokConversion // bytes, duration, duration_seconds
	tokRangeOp    // rate, count_over_time, …
	tokVectorOp   // sum, topk, …
)

// classNames are the names of tokens that stand for a class of texts in messages.
var classNames = map[kind]string{
	tokEOF: "$end", tokIdent: "IDENTIFIER", tokString: "STRING", tokNumber: "NUMBER",
	tokDuration: "DURATION", tokBytes: "BYTES", tokRange: "RANGE", tokFlag: "FUNCTION_FLAG",
}

// keywords are the tokens that are always tokens, whatever follows them.
var keywords = map[string]kind{
	",": tokComma, ".": tokDot, "{": tokOpenBrace, "}": tokCloseBrace,
	"(": tokOpenParen, ")": tokCloseParen, "]": tokCloseBracket, "|": tokPipe,
	"=": tokEq, "=~": tokRegex, "!~": tokNotRegex, "!>": tokNotPattern,
	"|=": tokPipeExact, "|~": tokPipeMatch, "|>": tokPipePattern,
	"or": tokOr, "and": tokAnd, "unless": tokUnless,
	"==": tokCmpEq, "!=": tokNeq, "<": tokLT, "<=": tokLTE, ">": tokGT, ">=": tokGTE,
	"+": tokAdd, "-": tokSub, "*": tokMul, "/": tokDiv, "%": tokMod, "^": tokPow,
	"by": tokBy, "without": tokWithout, "bool": tokBool, "on": tokOn, "ignoring": tokIgnoring,
	"group_left": tokGroupLeft, "group_right": tokGroupRight, "offset": tokOffset,
	"unwrap": tokUnwrap, "json": tokJSON, "logfmt": tokLogfmt, "regexp": tokRegexp,
	"pattern": tokPattern, "unpack": tokUnpack, "line_format": tokLineFormat,
	"label_format": tokLabelFormat, "decolorize": tokDecolorize, "drop": tokDrop,
	"keep": tokKeep, "variants": tokVariants, "of": tokOf,
}

// functions are names that are tokens only when an argument list or a grouping
// follows; otherwise they are identifiers, so that labels may bear these names.
var functions = map[string]kind{
	"ip": tokIP, "label_replace": tokLabelReplace, "vector": tokVector,
	"bytes": tokConversion, "duration": tokConversion, "duration_seconds": tokConversion,

	"rate": tokRangeOp, "rate_counter": tokRangeOp, "count_over_time": tokRangeOp,
	"bytes_rate": tokRangeOp, "bytes_over_time": tokRangeOp, "absent_over_time": tokRangeOp,
	"avg_over_time": tokRangeOp, "sum_over_time": tokRangeOp, "min_over_time": tokRangeOp,
	"max_over_time": tokRangeOp, "stdvar_over_time": tokRangeOp, "stddev_over_time": tokRangeOp,
	"quantile_over_time": tokRangeOp, "first_over_time": tokRangeOp, "last_over_time": tokRangeOp,

	"sum": tokVectorOp, "avg": tokVectorOp, "min": tokVectorOp, "max": tokVectorOp,
	"count": tokVectorOp, "stddev": tokVectorOp, "stdvar": tokVectorOp, "topk": tokVectorOp,
	"bottomk": tokVectorOp, "approx_topk": tokVectorOp, "sort": tokVectorOp, "sort_desc": tokVectorOp,
}

// functionNames are the functions that appear in messages under another name than
// their own in capitals.
var functionNames = map[string]string{
	"ip": "ip", "label_replace": "label_replace", "bytes": "BYTES_CONV",
	"duration": "DURATION_CONV", "duration_seconds": "DURATION_SECONDS_CONV",
}

// token is one lexical unit. Line is 0 for tokens that took look-ahead to recognise;
// users know error texts with these positions.
type token struct {
	kind      kind
	text      string // keywords and functions: in lower case; strings: unquoted
	dur       time.Duration
	bytes     uint64
	line, col int
}

// binaryPrecedence returns how tightly a binary operator binds, 0 for other tokens.
func (k kind) binaryPrecedence() int {
	switch k {
	case tokOr:
		return 1
	case tokAnd, tokUnless:
		return 2
	case tokCmpEq, tokNeq, tokLT, tokLTE, tokGT, tokGTE:
		return 3
	case tokAdd, tokSub:
		return 4
	case tokMul, tokDiv, tokMod:
		return 5
	case tokPow:
		return 6
	}
	return 0
}

// lineOp returns the line filter operator that the token is, if any.
func (k kind) lineOp() (LineOp, bool) {
	switch k {
	case tokPipeExact:
		return LineContains, true
	case tokNeq:
		return LineNotContains, true
	case tokPipeMatch:
		return LineMatches, true
	case tokNotRegex:
		return LineNotMatches, true
	case tokPipePattern:
		return LinePattern, true
	case tokNotPattern:
		return LineNotPattern, true
	}
	return "", false
}
