package syntax

import (
	"fmt"

	"github.com/skaldlog/skald/internal/fault"
)

// ParseError says what is wrong with a query, and where.
type ParseError struct {
	Msg string
	// Line and Col count from 1, Col in characters. Both are 0 when the error belongs
	// to no place in the text; Line alone is 0 for tokens that took look-ahead.
	Line, Col int
}

// Error returns the text that clients know.
func (e *ParseError) Error() string {
	if e.Line == 0 && e.Col == 0 {
		return "parse error : " + e.Msg
	}
	return fmt.Sprintf("parse error at line %d, col %d: %s", e.Line, e.Col, e.Msg)
}

// Errorf returns a fault.Invalid ParseError without a position.
func Errorf(format string, args ...any) error {
	return fault.Wrap(fault.Invalid, &ParseError{Msg: fmt.Sprintf(format, args...)})
}

// StageError returns the error of a stage that cannot be compiled. The stage is in its
// canonical form; adjacent line filters count as one stage and are joined by a space.
func StageError(stage string, cause error) error {
	return Errorf("stage '%s' : %s", stage, cause)
}

var (
	errOnlyMatchers = fault.New(fault.Invalid, "only label matchers are supported")
	errOnlyLog      = fault.New(fault.Invalid, "only log selector is supported")
)

const errEmptySelector = `queries require at least one regexp or equality matcher that does not have an empty-compatible value. For instance, app=~".*" does not meet this requirement, but app=~".+" will`
