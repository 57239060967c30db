package querier

import (
	"github.com/prometheus/prometheus/model/labels"

	"github.com/skaldlog/skald/internal/model"
)

// A query over several tenants sees every stream with the label __tenant_id__; a label of
// that name that the stream already had becomes original___tenant_id__.
const (
	tenantLabel         = "__tenant_id__"
	originalTenantLabel = "original___tenant_id__"
)

// splitTenantMatchers applies the matchers on __tenant_id__ to the tenants, and returns
// the request that remains for each of them.
func splitTenantMatchers(tenants []model.Tenant, req *model.Request) ([]model.Tenant, *model.Request) {
	inner := *req
	inner.Matchers = nil
	wanted := tenants
	for _, m := range req.Matchers {
		switch m.Name {
		case tenantLabel:
			wanted = matchTenants(wanted, m)
		case originalTenantLabel:
			renamed := *m
			renamed.Name = tenantLabel
			inner.Matchers = append(inner.Matchers, &renamed)
		default:
			inner.Matchers = append(inner.Matchers, m)
		}
	}
	return wanted, &inner
}

func matchTenants(tenants []model.Tenant, m *labels.Matcher) []model.Tenant {
	var kept []model.Tenant
	for _, t := range tenants {
		if m.Matches(string(t)) {
			kept = append(kept, t)
		}
	}
	return kept
}

func labelTenant(sel *model.Selection, tenant model.Tenant) {
	for _, p := range sel.Parts {
		for i, b := range p.Blocks {
			p.Blocks[i] = &tenantBlock{Block: b, tenant: tenant}
		}
	}
}

// tenantBlock is a block whose streams carry their tenant as a label.
type tenantBlock struct {
	model.Block
	tenant model.Tenant
	runs   []model.Run
}

func (b *tenantBlock) Runs() []model.Run {
	if b.runs != nil {
		return b.runs
	}
	inner := b.Block.Runs()
	b.runs = make([]model.Run, len(inner))
	for i, r := range inner {
		r.Labels = withTenant(r.Labels, b.tenant)
		r.Hash = r.Labels.Hash()
		b.runs[i] = r
	}
	return b.runs
}

func withTenant(ls labels.Labels, tenant model.Tenant) labels.Labels {
	b := labels.NewBuilder(ls)
	if original := ls.Get(tenantLabel); original != "" {
		b.Set(originalTenantLabel, original)
	}
	return b.Set(tenantLabel, string(tenant)).Labels()
}
