package stage

import (
	"strings"

	"github.com/prometheus/prometheus/model/labels"
)

// TenantLabel is the label by which a pipeline chooses an entry's tenant. It is never sent.
const TenantLabel = "__tenant_id__"

// maxSets bounds the label sets a pipeline remembers. A pipeline that makes more, because a
// label has very many values, forgets them and starts again: slower, never larger.
const maxSets = 4096

// Set is an immutable set of labels, interned by the pipeline that made it: adding the same
// label to the same set gives the same pointer, without building anything.
type Set struct {
	// Labels are the labels to send.
	Labels labels.Labels
	// Hash is Labels.Hash().
	Hash uint64
	// Tenant is the value of TenantLabel, "" when no stage set one.
	Tenant string

	all   labels.Labels // Labels and TenantLabel
	owner *sets

	last struct { // the transition taken last
		name, value string
		to          *Set
	}
	next map[string]map[string]*Set // name → value → set
}

// sets is what the sets of one pipeline share.
type sets struct {
	root  *Set
	count int
}

func newSets(base labels.Labels) *sets {
	o := &sets{}
	o.root = o.make(base)
	return o
}

func (o *sets) make(all labels.Labels) *Set {
	s := &Set{Labels: all, all: all, owner: o}
	if t := all.Get(TenantLabel); t != "" {
		s.Tenant = t
		s.Labels = labels.NewBuilder(all).Del(TenantLabel).Labels()
	}
	s.Hash = s.Labels.Hash()
	return s
}

func (s *Set) lookup(name string) (string, bool) {
	if v := s.all.Get(name); v != "" {
		return v, true
	}
	return "", false
}

// with returns the set with one label set; an empty value removes it. The arguments may
// alias memory that changes later.
func (s *Set) with(name, value string) *Set {
	if s.last.to != nil && s.last.value == value && s.last.name == name {
		return s.last.to
	}
	to := s.next[name][value]
	if to == nil {
		to = s.build(name, value)
	}
	s.last.name, s.last.value, s.last.to = name, to.all.Get(name), to
	return to
}

func (s *Set) build(name, value string) *Set {
	name, value = strings.Clone(name), strings.Clone(value)
	if s.all.Get(name) == value {
		s.remember(name, value, s)
		return s
	}
	to := s.owner.make(labels.NewBuilder(s.all).Set(name, value).Labels())
	s.remember(name, value, to)
	return to
}

func (s *Set) remember(name, value string, to *Set) {
	if s.owner.count++; s.owner.count > maxSets {
		s.owner.count = 0
		s.owner.root.next, s.owner.root.last.to = nil, nil
		s.next = nil
	}
	if s.next == nil {
		s.next = make(map[string]map[string]*Set)
	}
	if s.next[name] == nil {
		s.next[name] = make(map[string]*Set)
	}
	s.next[name][value] = to
}

// without returns the set without some labels.
func (s *Set) without(names []string) *Set {
	for _, n := range names {
		if _, ok := s.lookup(n); ok {
			s = s.with(n, "")
		}
	}
	return s
}
