package server

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/skaldlog/skald/internal/auth"
	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/model"
)

// TenantHeader names the tenant of a request, as all of Loki's clients send it.
const TenantHeader = "X-Scope-OrgID"

type accessKey struct{}

// access is what a request's context says about its caller.
type access struct {
	header   bool           // the tenant header counts
	identity *auth.Identity // who calls; nil where no credentials are asked for
}

// tenants returns the tenants that a caller names in the header, checked.
func (a access) tenants(header string) ([]model.Tenant, error) {
	if a.identity == nil {
		return parseTenants(a.header, header)
	}
	if header == "" {
		return a.identity.Resolve(nil)
	}
	asked, err := parseTenants(true, header)
	if err != nil {
		return nil, err
	}
	return a.identity.Resolve(asked)
}

func accessOf(ctx context.Context) access {
	a, _ := ctx.Value(accessKey{}).(access)
	return a
}

func withAccess(ctx context.Context, a access) context.Context {
	return context.WithValue(ctx, accessKey{}, a)
}

// TenantOf returns the request's tenant where exactly one is allowed.
func TenantOf(r *http.Request) (model.Tenant, error) { return one(TenantsOf(r)) }

// NamedTenant returns the one tenant that the request names, which must do so even where all
// data belongs to one tenant. A caller who names none well is asked who he is.
func NamedTenant(r *http.Request) (model.Tenant, error) {
	a := accessOf(r.Context())
	a.header = true
	tenant, err := one(a.tenants(r.Header.Get(TenantHeader)))
	return tenant, whoAsks(err)
}

// TailedTenant is TenantOf for a tail, where an id that cannot be one is no id.
func TailedTenant(r *http.Request) (model.Tenant, error) {
	tenants, err := TenantsOf(r)
	return one(tenants, whoAsks(err))
}

func whoAsks(err error) error {
	if fault.Of(err) == fault.Invalid {
		return fault.Wrap(fault.Unauthenticated, err)
	}
	return err
}

// TenantsOf returns the tenants that a query reads, sorted, each once: a|b names two.
// The part of an id after a colon is dropped, as Loki does. With credentials, tenants that
// they do not open are an error, and the header may be left out where they open just one.
func TenantsOf(r *http.Request) ([]model.Tenant, error) {
	return accessOf(r.Context()).tenants(r.Header.Get(TenantHeader))
}

func one(tenants []model.Tenant, err error) (model.Tenant, error) {
	switch {
	case err != nil:
		return "", err
	case len(tenants) != 1:
		return "", fault.New(fault.Invalid, "multiple org IDs present")
	}
	return tenants[0], nil
}

// maxTenants bounds the tenants of one request: for each, objects are listed.
const maxTenants = 1000

func parseTenants(auth bool, header string) ([]model.Tenant, error) {
	if !auth {
		return []model.Tenant{model.DefaultTenant}, nil
	}
	if header == "" {
		return nil, fault.New(fault.Unauthenticated, "no org id")
	}
	if n := 1 + strings.Count(header, "|"); n > maxTenants {
		return nil, fault.New(fault.Invalid, "%d tenants are named in one request, at most %d can be", n, maxTenants)
	}
	var tenants []model.Tenant
	for _, id := range strings.Split(header, "|") {
		id, _, _ = strings.Cut(id, ":")
		t, err := model.ParseTenant(id)
		if err != nil {
			kind := fault.Invalid
			if id == "" {
				kind = fault.Unauthenticated
			}
			return nil, fault.Wrap(kind, err)
		}
		tenants = append(tenants, t)
	}
	slices.Sort(tenants)
	return slices.Compact(tenants), nil
}

// WriteError answers with err's text as plain text and the status of its kind, the way
// Loki's read endpoints do: no line feed at the end, but for a missing tenant, which Loki
// notices before it reaches them. A client that is gone gets nothing.
func WriteError(w http.ResponseWriter, err error) {
	h := w.Header()
	h.Del("Content-Encoding")
	h.Del("Content-Length")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	status := fault.HTTPStatus(err)
	if status == http.StatusServiceUnavailable && h.Get("Retry-After") == "" {
		h.Set("Retry-After", "1")
	}
	w.WriteHeader(status)
	text := err.Error()
	if fault.Of(err) == fault.Unauthenticated {
		text += "\n"
	}
	_, _ = io.WriteString(w, text)
}
