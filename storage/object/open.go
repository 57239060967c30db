package object

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// Options says how to reach a store. What the store's URL says wins over it.
type Options struct {
	S3    S3Config
	Retry RetryConfig
	Hedge HedgeConfig
	// Registerer receives the metrics; nil means none are registered.
	Registerer prometheus.Registerer
	// Logger receives slow and failed requests; nil means nothing is logged.
	Logger *slog.Logger
}

// RegisterFlags declares the settings, with their defaults.
func (o *Options) RegisterFlags(fs *flag.FlagSet) {
	o.S3.registerFlags(fs)
	o.Retry.registerFlags(fs)
	o.Hedge.registerFlags(fs)
}

// Open returns the store that a URL names, with retries and metrics around it:
//
//	file:///var/lib/skald/objects     a directory; a path without a scheme is one too
//	s3://bucket/prefix?region=…       see S3Config for the parameters
//	mem://                            lost when the process ends
//
// Credentials never stand in the URL: S3 takes them from the AWS chain (environment,
// shared files, web identity, instance role). Errors name the parameter that is wrong.
func Open(ctx context.Context, rawURL string, opts Options) (Store, error) {
	if !strings.Contains(rawURL, "://") {
		rawURL = "file://" + filepath.ToSlash(rawURL)
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		// url.Error quotes the URL, which may hold a secret by mistake.
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, fmt.Errorf("storage URL: %w", err)
	}
	if u.User != nil {
		return nil, errors.New("storage URL: credentials do not belong there; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use a profile or a role")
	}
	if u.Fragment != "" {
		return nil, fmt.Errorf("storage URL: unexpected #%s", u.Fragment)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("storage URL: parameters: %w", err)
	}
	var store Store
	switch u.Scheme {
	case "mem":
		if err = checkParameters(query); err == nil {
			store = NewMem()
		}
	case "file":
		store, err = openFS(u, query)
	case "s3":
		store, err = openS3(ctx, u, query, opts.S3)
	default:
		err = fmt.Errorf("scheme %q is not known, want file, s3 or mem", u.Scheme)
	}
	if err != nil {
		return nil, fmt.Errorf("storage URL: %w", err)
	}
	metrics := NewMetrics(opts.Registerer)
	store = Instrument(store, metrics, opts.Logger)
	if Remote(store) {
		store = Hedge(store, opts.Hedge, metrics)
	}
	return Retry(store, opts.Retry, metrics, opts.Logger), nil
}

func openFS(u *url.URL, query url.Values) (Store, error) {
	if err := checkParameters(query); err != nil {
		return nil, err
	}
	path := u.Path
	switch u.Host {
	case "", "localhost":
	default: // file://data is what people write for a relative path
		path = u.Host + path
	}
	if path == "" {
		return nil, errors.New("file:// has no path, want file:///dir")
	}
	return NewFS(filepath.FromSlash(path))
}

// checkParameters refuses parameters that are not known, given twice, or empty.
func checkParameters(query url.Values, known ...string) error {
	for name, values := range query {
		switch {
		case !slices.Contains(known, name) && len(known) == 0:
			return fmt.Errorf("parameter %q is not known, this kind of store has none", name)
		case !slices.Contains(known, name):
			return fmt.Errorf("parameter %q is not known, want one of %s", name, strings.Join(known, ", "))
		case len(values) > 1:
			return fmt.Errorf("parameter %q is given %d times", name, len(values))
		case values[0] == "":
			return fmt.Errorf("parameter %q is empty", name)
		}
	}
	return nil
}

func openS3(ctx context.Context, u *url.URL, query url.Values, cfg S3Config) (Store, error) {
	if err := checkParameters(query, "endpoint", "region", "path_style", "sse", "sse_kms_key_id", "ca_file", "checksums"); err != nil {
		return nil, err
	}
	cfg.Bucket = u.Host
	cfg.Prefix = strings.Trim(u.Path, "/")
	for name, field := range map[string]*string{
		"endpoint": &cfg.Endpoint, "region": &cfg.Region, "sse": &cfg.SSE,
		"sse_kms_key_id": &cfg.SSEKMSKeyID, "ca_file": &cfg.CAFile, "checksums": &cfg.Checksums,
	} {
		if query.Has(name) {
			*field = query.Get(name)
		}
	}
	if query.Has("path_style") {
		v, err := strconv.ParseBool(query.Get("path_style"))
		if err != nil {
			return nil, fmt.Errorf("parameter %q: got %q, want true or false", "path_style", query.Get("path_style"))
		}
		cfg.PathStyle = v
	}
	return NewS3(ctx, cfg)
}
