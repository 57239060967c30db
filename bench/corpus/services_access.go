package corpus

import (
	"math/rand/v2"
	"time"
)

// writeNginx is nginx' combined format with what people add: request time and id, upstream, cache.
func writeNginx(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	b = appendIP(b, r)
	b = append(b, " - - ["...)
	b = ts.UTC().AppendFormat(b, "02/Jan/2006:15:04:05 -0700")
	b = append(b, `] "`...)
	b = append(b, often(r, methods)...)
	b = append(b, ' ')
	b = appendURL(b, r)
	b = append(b, ` HTTP/1.1" `...)
	b = num(b, status(r))
	b = append(b, ' ')
	b = num(b, 200+r.IntN(50_000))
	b = append(b, ` "-" "`...)
	b = append(b, often(r, agents)...)
	b = append(b, `" rt=`...)
	b = dec(b, latency(r)/1000, 4)
	b = append(b, ` rid=`...)
	b = appendRequestUUID(b, r, st)
	b = append(b, ` host=shop.example upstream=10.2.0.`...)
	b = num(b, zipf(r, 12))
	return append(b, `:8080 cache=MISS`...)
}

// writeEnvoy is the default format of Envoy in a service mesh: a uuid in each line.
func writeEnvoy(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	b = append(b, '[')
	b = ts.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	b = append(b, `] "`...)
	b = append(b, often(r, methods)...)
	b = append(b, ' ')
	b = appendURL(b, r)
	b = append(b, ` HTTP/2" `...)
	code := status(r)
	b = num(b, code)
	if code >= 500 {
		b = append(b, ` UF via_upstream - "upstream connect error or disconnect/reset before headers" 0 `...)
	} else {
		b = append(b, ` - via_upstream - "-" 0 `...)
	}
	b = num(b, r.IntN(50_000))
	b = append(b, ' ')
	took := int(latency(r))
	b = num(b, took)
	b = append(b, ' ')
	b = num(b, max(0, took-1))
	b = append(b, ` "-" "`...)
	b = append(b, often(r, agents)...)
	b = append(b, `" "`...)
	b = appendUUID(b, r, st)
	b = append(b, `" "shop.example" "10.1.`...)
	b = num(b, zipf(r, 12))
	b = append(b, `.17:8080" outbound|8080||cart.shop.svc.cluster.local 10.2.0.`...)
	b = num(b, st.host)
	b = append(b, `:43210 10.2.0.`...)
	b = num(b, st.host)
	b = append(b, `:8080 `...)
	b = appendIP(b, r)
	return append(b, `:0 outbound_.8080_._.cart.shop.svc.cluster.local default`...)
}

// writeApache is Apache's combined format with mod_unique_id's.
func writeApache(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	b = appendIP(b, r)
	b = append(b, " - "...)
	b = append(b, often(r, userNames)...)
	b = append(b, " ["...)
	b = ts.UTC().AppendFormat(b, "02/Jan/2006:15:04:05 -0700")
	b = append(b, `] "`...)
	b = append(b, often(r, methods)...)
	b = append(b, ' ')
	b = appendURL(b, r)
	b = append(b, ` HTTP/1.0" `...)
	b = num(b, status(r))
	b = append(b, ' ')
	b = num(b, r.IntN(50_000))
	b = append(b, ` "https://shop.example`...)
	b = append(b, often(r, routes)...)
	b = append(b, `" "`...)
	b = append(b, often(r, agents)...)
	b = append(b, `" `...)
	return appendUUID(b, r, st)
}
