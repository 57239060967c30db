package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
)

// pushStream is a stream of a JSON push.
type pushStream struct {
	Stream map[string]string `json:"stream"`
	Values []pushEntry       `json:"values"`
}

type pushEntry struct {
	ts   int64
	line string
	meta map[string]string
}

func (e pushEntry) MarshalJSON() ([]byte, error) {
	row := []any{strconv.FormatInt(e.ts, 10), e.line}
	if len(e.meta) > 0 {
		row = append(row, e.meta)
	}
	return json.Marshal(row)
}

var jsonHeader = http.Header{"Content-Type": {"application/json"}}

// push sends streams in one request.
func (s *server) push(streams ...pushStream) (status int, answer []byte, err error) {
	body, err := json.Marshal(map[string]any{"streams": streams})
	if err != nil {
		return 0, nil, err
	}
	return s.do(http.MethodPost, "/loki/api/v1/push", jsonHeader.Clone(), body)
}

// mustPush sends streams and demands that they are acknowledged.
func (s *server) mustPush(streams ...pushStream) {
	s.t.Helper()
	status, answer, err := s.push(streams...)
	if err != nil || status != http.StatusNoContent {
		s.t.Fatalf("push: %d %s %v", status, answer, err)
	}
}

// numbered is a stream of numbered lines a millisecond apart.
func numbered(name string, start int64, from, to int) pushStream {
	s := pushStream{Stream: map[string]string{"job": "numbers", "writer": name}}
	for i := from; i < to; i++ {
		s.Values = append(s.Values, pushEntry{ts: start + int64(i)*1e6, line: fmt.Sprintf("writer=%s n=%d", name, i)})
	}
	return s
}
