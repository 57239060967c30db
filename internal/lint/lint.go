// Package lint holds the house rules that a machine can check. Each rule is a test whose
// failure says what to do instead; run them with go test ./internal/lint.
package lint
