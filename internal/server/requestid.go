package server

import (
	"crypto/rand"
	"net/http"
)

// RequestIDHeader names a request across proxies, servers and their logs.
const RequestIDHeader = "X-Request-Id"

const maxRequestID = 128

// requestID is the client's id of a request if it is short and printable, so that it can
// stand in a log, and a new one otherwise.
func requestID(r *http.Request) string {
	id := r.Header.Get(RequestIDHeader)
	if id == "" || len(id) > maxRequestID {
		return rand.Text()
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return rand.Text()
		}
	}
	return id
}
