package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const deletePath = "/loki/api/v1/delete"

// Deletion asks for the removal of the lines of a query in [Start, End).
type Deletion struct {
	Query      string
	Start, End int64 // ns; the API knows whole seconds
	// MaxInterval splits the work, 0: the server's choice.
	MaxInterval time.Duration
}

// DeleteRequest is a deletion that the server knows.
type DeleteRequest struct {
	ID     string
	Query  string
	Status string // "received", "processed" or "N% Complete"
	// Times are seconds since 1970.
	Start, End, Created float64
}

// CreateDelete hands in a deletion. The id is empty when the server does not name it.
func (c *Client) CreateDelete(ctx context.Context, d Deletion) (id string, err error) {
	seconds := func(ns int64) string { return strconv.FormatInt(ns/int64(time.Second), 10) }
	p := url.Values{"query": {d.Query}, "start": {seconds(d.Start)}, "end": {seconds(d.End)}}
	if d.MaxInterval > 0 {
		p.Set("max_interval", d.MaxInterval.String())
	}
	header, err := c.send(ctx, http.MethodPost, deletePath, p, nil)
	return header.Get("X-Delete-Request-ID"), err
}

// ListDeletes returns the deletions that the server knows, oldest first.
func (c *Client) ListDeletes(ctx context.Context) ([]DeleteRequest, error) {
	var body []struct {
		ID      string  `json:"request_id"`
		Query   string  `json:"query"`
		Status  string  `json:"status"`
		Start   float64 `json:"start_time"`
		End     float64 `json:"end_time"`
		Created float64 `json:"created_at"`
	}
	if err := c.Do(ctx, http.MethodGet, deletePath, nil, &body); err != nil {
		return nil, err
	}
	out := make([]DeleteRequest, len(body))
	for i, r := range body {
		out[i] = DeleteRequest{ID: r.ID, Query: r.Query, Status: r.Status, Start: r.Start, End: r.End, Created: r.Created}
	}
	return out, nil
}

// CancelDelete withdraws a deletion; force withdraws one that is partly done, too.
func (c *Client) CancelDelete(ctx context.Context, id string, force bool) error {
	p := url.Values{"request_id": {id}}
	if force {
		p.Set("force", "true")
	}
	return c.Do(ctx, http.MethodDelete, deletePath, p, nil)
}
