package patterns

import (
	"cmp"
	"context"
	"slices"
	"strings"
)

const (
	// similarity is the share of its words in which a shape must agree with a cluster.
	similarity = 0.5
	// A cluster is cut by a word that has at most maxAlternatives texts, each in at least
	// minAlternative lines: opened and closed are two messages, names of users one.
	maxAlternatives = 3
	minAlternative  = 5
	maxCuts         = 8
	// minRun is how many values in a row, with equal separators, are one list.
	minRun = 4
)

// cluster is a template and the shapes that were printed from it.
type cluster struct {
	tokens  tokens
	members []item
}

// item is a shape, taken apart.
type item struct {
	*shape
	tokens tokens
}

// clustered groups shapes into templates, each of which takes over their counts.
func clustered(ctx context.Context, all []*shape) ([]*shape, error) {
	leaves := map[string][]item{}
	for _, s := range all {
		it := item{s, split(s.masked, s.values)}
		it.tokens.collapse()
		k := it.tokens.leaf()
		leaves[k] = append(leaves[k], it)
	}
	var clusters []*cluster
	for _, items := range leaves {
		slices.SortFunc(items, func(a, b item) int {
			return cmp.Or(cmp.Compare(b.total, a.total), strings.Compare(string(a.masked), string(b.masked)))
		})
		found, err := clusterLeaf(ctx, items)
		if err != nil {
			return nil, err
		}
		for _, c := range found {
			clusters = append(clusters, c.cut()...)
		}
	}
	clusters = joinFirstWords(clusters)
	table := newShapes()
	for _, c := range clusters {
		table.adopt(c.template())
	}
	out := make([]*shape, 0, len(table.byHash))
	for _, s := range table.byHash {
		out = append(out, s)
	}
	return out, nil
}

// leaf is the path down the tree: the separators, the keys, and the first word.
func (t *tokens) leaf() string {
	var b strings.Builder
	first := true
	for i, tok := range t.list {
		b.WriteString(t.separators[i])
		switch {
		case tok.kind == key || tok.kind == plain && first:
			b.WriteString(tok.text)
			first = first && tok.kind == key
		default:
			b.WriteByte(placeholder)
		}
	}
	b.WriteString(t.separators[len(t.list)])
	return b.String()
}

// collapse turns a list of values, such as the bytes of a dump, into one value.
func (t *tokens) collapse() {
	list, separators := t.list[:0:0], t.separators[:0:0]
	for i := 0; i < len(t.list); {
		end := i + 1
		for end < len(t.list) && t.list[end].kind == value && t.list[i].kind == value &&
			(end == i+1 || t.separators[end] == t.separators[i+1]) {
			end++
		}
		separators = append(separators, t.separators[i])
		if end-i < minRun {
			end = i + 1
			list = append(list, t.list[i])
		} else {
			list = append(list, token{kind: value})
		}
		i = end
	}
	t.list, t.separators = list, append(separators, t.separators[len(t.list)])
}

func clusterLeaf(ctx context.Context, items []item) ([]*cluster, error) {
	var found []*cluster
	for _, it := range items {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		var best *cluster
		most := similarity
		for _, c := range found {
			if s := it.tokens.similar(&c.tokens); s > most || s == most && best == nil {
				best, most = c, s
			}
		}
		if best == nil {
			best = &cluster{tokens: it.tokens.clone()}
			found = append(found, best)
		}
		best.tokens.meet(&it.tokens)
		best.members = append(best.members, it)
	}
	return found, nil
}

// similar is the share of the words of t that o has, too. Both have the same leaf.
func (t *tokens) similar(o *tokens) float64 {
	words, equal := 0, 0
	for i := range t.list {
		if t.list[i].kind != plain {
			continue
		}
		words++
		if t.list[i].text != "" && t.list[i] == o.list[i] {
			equal++
		}
	}
	if words == 0 {
		return 1
	}
	return float64(equal) / float64(words)
}

// meet forgets the tokens in which o differs.
func (t *tokens) meet(o *tokens) {
	for i := range t.list {
		a, b := &t.list[i], o.list[i]
		if a.text != b.text {
			a.text = ""
		}
		if a.kind != b.kind {
			a.text, a.kind = "", value
		}
	}
}

func (t *tokens) clone() tokens {
	return tokens{list: slices.Clone(t.list), separators: t.separators}
}

// cut divides a cluster by the words of which there are few.
func (c *cluster) cut() []*cluster {
	if len(c.members) == 1 {
		return []*cluster{c}
	}
	at := c.alternatives()
	if len(at) == 0 {
		return []*cluster{c}
	}
	parts := map[string]*cluster{}
	var order []*cluster
	for _, m := range c.members {
		var k strings.Builder
		for _, i := range at {
			k.WriteString(m.tokens.list[i].text)
			k.WriteByte(placeholder)
		}
		p := parts[k.String()]
		if p == nil {
			p = &cluster{tokens: m.tokens.clone()}
			parts[k.String()] = p
			order = append(order, p)
		}
		p.tokens.meet(&m.tokens)
		p.members = append(p.members, m)
	}
	if len(order) > maxCuts {
		return []*cluster{c}
	}
	return order
}

// alternatives are the positions where few words alternate.
func (c *cluster) alternatives() (at []int) {
	lines := map[string]int64{}
next:
	for i, tok := range c.tokens.list {
		if tok.kind != plain || tok.text != "" {
			continue
		}
		clear(lines)
		for _, m := range c.members {
			text := m.tokens.list[i].text
			if text == "" {
				continue next
			}
			lines[text] += m.total
			if len(lines) > maxAlternatives {
				continue next
			}
		}
		for _, n := range lines {
			if n < minAlternative {
				continue next
			}
		}
		at = append(at, i)
	}
	return at
}

// joinFirstWords joins templates that differ in their first word only, if there are so
// many that it must be a value: the tree has kept them apart.
func joinFirstWords(all []*cluster) []*cluster {
	groups := map[string][]*cluster{}
	for _, c := range all {
		masked := c.tokens.clone()
		for i := range masked.list {
			if masked.list[i].kind == plain {
				masked.list[i].text = ""
				break
			}
		}
		k := masked.pattern()
		groups[k] = append(groups[k], c)
	}
	var out []*cluster
	for _, group := range groups {
		if len(group) <= maxAlternatives {
			out = append(out, group...)
			continue
		}
		joined := group[0]
		for _, c := range group[1:] {
			joined.tokens.meet(&c.tokens)
			joined.members = append(joined.members, c.members...)
		}
		out = append(out, joined)
	}
	return out
}

// template is the cluster as a shape.
func (c *cluster) template() *shape {
	t := &shape{}
	t.masked, t.values = c.tokens.masked()
	for _, m := range c.members {
		t.total += m.total
		t.counts.adopt(&m.counts)
	}
	return t
}
