package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/skaldlog/skald/internal/client"
)

func runDeleteCreate(ctx context.Context, std stdio, args []string) error {
	var r timeRange
	var maxInterval time.Duration
	register := func(fs *flag.FlagSet) {
		r.register(fs)
		fs.DurationVar(&maxInterval, "max-interval", 0, "cut the work into pieces of this length; the server chooses by default")
	}
	return clientSpec{"delete create", "LOGQL", 1, 1, register}.run(std, args, func(c *clientCommand) error {
		start, end, err := r.bounds()
		if err != nil {
			return err
		}
		id, err := c.client.CreateDelete(ctx, client.Deletion{Query: c.args[0], Start: start, End: end, MaxInterval: maxInterval})
		if err != nil {
			return fmt.Errorf("Error creating delete request: %w", explainDelete(err)) //nolint:staticcheck // logcli's text
		}
		if c.quiet {
			return nil
		}
		if id != "" {
			c.note("Request ID: %s", id)
		}
		_, err = fmt.Fprintln(std.out, "Delete request created successfully")
		return err
	})
}

// deleteJSON is a request in `delete list -o jsonl`, with the API's names.
type deleteJSON struct {
	ID      string  `json:"request_id"`
	Start   float64 `json:"start_time"`
	End     float64 `json:"end_time"`
	Query   string  `json:"query"`
	Status  string  `json:"status"`
	Created float64 `json:"created_at"`
}

func runDeleteList(ctx context.Context, std stdio, args []string) error {
	return clientSpec{name: "delete list"}.run(std, args, func(c *clientCommand) error {
		list, err := c.client.ListDeletes(ctx)
		if err != nil {
			return fmt.Errorf("Error listing delete requests: %w", explainDelete(err)) //nolint:staticcheck // logcli's text
		}
		if c.output == "jsonl" {
			rows := make([]deleteJSON, len(list))
			for i, d := range list {
				rows[i] = deleteJSON{d.ID, d.Start, d.End, d.Query, d.Status, d.Created}
			}
			text, err := json.MarshalIndent(rows, "", "  ")
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(std.out, "%s\n", text)
			return err
		}
		if !c.quiet {
			fmt.Fprintf(c.out.w, "Found %d delete requests:\n", len(list))
		}
		for i, d := range list {
			if i > 0 {
				fmt.Fprintln(c.out.w, "---")
			}
			fmt.Fprintf(c.out.w, "Query: %s\nStart Time: %s\nEnd Time: %s\nStatus: %s\nRequest ID: %s\n",
				d.Query, c.second(d.Start), c.second(d.End), d.Status, d.ID)
		}
		return c.out.w.Flush()
	})
}

func (c *clientCommand) second(s float64) string {
	return time.UnixMilli(int64(s * 1000)).In(c.out.zone).Format(c.out.layout)
}

func runDeleteCancel(ctx context.Context, std stdio, args []string) error {
	var id string
	var force bool
	register := func(fs *flag.FlagSet) {
		fs.StringVar(&id, "request-id", "", "`id` of the deletion, as `skald delete list` prints it; required")
		fs.BoolVar(&force, "force", false, "withdraw what is left of a deletion that has begun, too")
	}
	return clientSpec{"delete cancel", "--request-id=ID", 0, 0, register}.run(std, args, func(c *clientCommand) error {
		if id == "" {
			return badUsage("delete cancel: --request-id is missing; `skald delete list` prints the ids")
		}
		if err := c.client.CancelDelete(ctx, id, force); err != nil {
			return fmt.Errorf("Error cancelling delete request: %w", explainDelete(err)) //nolint:staticcheck // logcli's text
		}
		if c.quiet {
			return nil
		}
		_, err := fmt.Fprintf(std.out, "Delete request %s cancelled successfully\n", id)
		return err
	})
}

// explainDelete says what a missing route means.
func explainDelete(err error) error {
	var status *client.StatusError
	if errors.As(err, &status) && status.Status == http.StatusNotFound && strings.Contains(status.Body, "page not found") {
		return errors.New("this server does not delete log lines (404)")
	}
	return explain(err)
}
