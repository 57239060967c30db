// Package fault gives errors one of a short, closed list of kinds. The kind decides
// behaviour (is a retry useful? which status does a client see?), the text is for the
// reader. The depths never mention HTTP; one table at each edge turns kinds into codes.
package fault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
)

// Kind says what sort of failure an error is.
type Kind uint8

// The kinds. Internal is the zero value: an error nobody classified is our fault.
const (
	Internal        Kind = iota // a bug or a broken invariant; 500
	Invalid                     // the request is wrong and will stay wrong; 400
	Unauthenticated             // no tenant, or credentials that are not valid; 401
	Forbidden                   // not allowed for this tenant; 403
	NotFound                    // 404
	TooLarge                    // a body over its limit; 413
	Unprocessable               // nothing to do in the request; 422
	RateLimited                 // a limit of the tenant, worth a retry later; 429
	Canceled                    // the client went away; 499
	Unavailable                 // cannot be done now, worth a retry; 503
	Timeout                     // a deadline passed; 504
	Corrupt                     // stored data fails its checksum or makes no sense; 500
)

var statuses = map[Kind]int{
	Internal: http.StatusInternalServerError, Invalid: http.StatusBadRequest,
	Unauthenticated: http.StatusUnauthorized, Forbidden: http.StatusForbidden,
	NotFound: http.StatusNotFound, TooLarge: http.StatusRequestEntityTooLarge,
	Unprocessable: http.StatusUnprocessableEntity, RateLimited: http.StatusTooManyRequests,
	Canceled: 499, Unavailable: http.StatusServiceUnavailable,
	Timeout: http.StatusGatewayTimeout, Corrupt: http.StatusInternalServerError,
}

// Error is an error with a kind. Its text is the cause's text, nothing more, because
// clients compare texts.
type Error struct {
	Kind  Kind
	cause error
}

func (e *Error) Error() string { return e.cause.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

// New returns an error of the kind with a formatted text; %w works as in fmt.Errorf.
func New(kind Kind, format string, args ...any) error {
	return &Error{Kind: kind, cause: fmt.Errorf(format, args...)}
}

// Wrap gives err a kind, which then hides the kinds of the errors inside. A nil err stays nil.
func Wrap(kind Kind, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Kind: kind, cause: err}
}

// Of returns the kind of the outermost Error in err's chain. Context errors are Canceled
// and Timeout; anything else is Internal.
func Of(err error) Kind {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, context.Canceled):
		return Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return Timeout
	}
	return Internal
}

// HTTPStatus returns the status that a client sees for err.
func HTTPStatus(err error) int { return statuses[Of(err)] }
