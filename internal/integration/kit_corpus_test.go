package integration

import (
	"fmt"
	"time"
)

// corpus is a set of rows that queries can tell apart in every way: several streams, lines
// of three shapes, structured metadata, equal times in and across streams, repeated lines,
// and two days, because the store keeps days apart.
type corpus struct {
	start, end time.Time
	streams    []pushStream
	rows       int
}

// newCorpus makes the rows around the last midnight but one, which is recent enough to be
// accepted and old enough to lie wholly in the past.
func newCorpus() *corpus {
	midnight := time.Now().UTC().Truncate(24 * time.Hour).Add(-24 * time.Hour)
	c := &corpus{start: midnight.Add(-30 * time.Minute), end: midnight.Add(30 * time.Minute)}
	const perStream = 1200 // one every three seconds
	for _, app := range []string{"shop", "bank", "mail"} {
		for _, env := range []string{"prod", "dev"} {
			s := pushStream{Stream: map[string]string{"app": app, "env": env, "region": "eu-" + env[:1]}}
			for i := range perStream {
				s.Values = append(s.Values, c.entry(app, env, i))
			}
			c.streams = append(c.streams, s)
			c.rows += perStream
		}
	}
	return c
}

var (
	corpusLevels = []string{"info", "info", "info", "debug", "warn", "error"}
	corpusPaths  = []string{"/", "/cart", "/pay", "/login", "/img/\u00fc.png"}
)

func (c *corpus) entry(app, env string, i int) pushEntry {
	ts := c.start.Add(time.Duration(i/3*9) * time.Second).UnixNano()
	if i%3 != 0 {
		ts += int64(i%3) * int64(len(app)+len(env)) * 1000 // some are equal in several streams
	}
	level, path := corpusLevels[i%len(corpusLevels)], corpusPaths[i*7%len(corpusPaths)]
	e := pushEntry{ts: ts, meta: map[string]string{"trace_id": fmt.Sprintf("%032x", i*i+len(app)), "shard": fmt.Sprint(i % 4)}}
	switch app {
	case "shop":
		e.line = fmt.Sprintf(`{"level":%q,"path":%q,"status":%d,"took":"%dms","user":{"id":%d,"name":"u%d"}}`, level, path, 200+i%4*100, i*31%977, i%50, i%50)
	case "bank":
		e.line = fmt.Sprintf(`level=%s path=%s status=%d bytes=%d msg="transfer %d done"`, level, path, 200+i%4*100, i*131%65536, i)
	default:
		e.line = fmt.Sprintf("Nov 12 host%d postfix[%d]: %s: to=<user%d@example.org>, delay=%d.%d", i%3, i%1000, level, i%40, i%9, i%10)
		if i%5 == 0 {
			e.line, e.meta = "connect from unknown", nil // the same line again and again
		}
	}
	return e
}

// push sends the corpus in an order in which times go back and forth.
func (c *corpus) push(s *server) {
	s.t.Helper()
	const pieces = 12
	for _, piece := range []int{5, 0, 11, 3, 7, 1, 9, 2, 10, 4, 8, 6} {
		var streams []pushStream
		for _, all := range c.streams {
			n := len(all.Values)
			streams = append(streams, pushStream{all.Stream, all.Values[n*piece/pieces : n*(piece+1)/pieces]})
		}
		s.mustPush(streams...)
	}
}
