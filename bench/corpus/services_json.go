package corpus

import (
	"math/rand/v2"
	"time"
)

// writeZap is a Go service with zap: every request one object, with a nested one.
func writeZap(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	lvl := level(r)
	b = append(b, `{"level":"`...)
	b = append(b, lvl...)
	b = append(b, `","ts":"`...)
	b = ts.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	b = append(b, `","logger":"http","caller":"checkout/handler.go:`...)
	b = num(b, 40+zipf(r, 30)*7)
	b = append(b, `","msg":"`...)
	b = append(b, message(r, lvl)...)
	route := often(r, routes)
	b = append(b, `","method":"`...)
	b = append(b, often(r, methods)...)
	b = append(b, `","route":"`...)
	b = append(b, route...)
	b = append(b, `","status":`...)
	b = num(b, status(r))
	b = append(b, `,"duration_ms":`...)
	b = dec(b, latency(r), 4)
	b = append(b, `,"user_id":"u`...)
	b = num(b, zipf(r, 50_000))
	b = append(b, `","trace_id":"`...)
	b = appendTrace(b, r, st)
	b = append(b, `","span_id":"`...)
	b = appendHex(b, r, 16)
	b = append(b, `","order":{"currency":"EUR","items":`...)
	b = num(b, 1+zipf(r, 12))
	return append(b, `}}`...)
}

// writePino is a Node.js service with pino: numeric levels.
func writePino(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	lvl := level(r)
	b = append(b, `{"level":`...)
	b = num(b, map[string]int{"debug": 20, "info": 30, "warn": 40, "error": 50}[lvl])
	b = append(b, `,"time":`...)
	b = num(b, int(ts.UnixMilli()))
	b = append(b, `,"pid":`...)
	b = num(b, st.pid)
	b = append(b, `,"hostname":"search-`...)
	b = num(b, st.host)
	b = append(b, `","traceId":"`...)
	b = appendTrace(b, r, st)
	b = append(b, `","spanId":"`...)
	b = appendHex(b, r, 16)
	b = append(b, `","req":{"method":"`...)
	b = append(b, often(r, methods)...)
	b = append(b, `","url":"`...)
	b = appendURL(b, r)
	b = append(b, `","hostname":"search.shop.svc.cluster.local","remoteAddress":"`...)
	b = appendIP(b, r)
	b = append(b, `"},"hits":`...)
	b = num(b, zipf(r, 5000))
	b = append(b, `,"responseTime":`...)
	b = dec(b, latency(r), 4)
	b = append(b, `,"msg":"`...)
	b = append(b, message(r, lvl)...)
	return append(b, `"}`...)
}

// writeSerilog is a .NET service with Serilog's compact format.
func writeSerilog(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	b = append(b, `{"@t":"`...)
	b = ts.UTC().AppendFormat(b, "2006-01-02T15:04:05.000")
	b = append(b, `0000Z","@mt":"Payment {PaymentId} for {Amount} {Currency} was {Outcome}","PaymentId":"`...)
	b = appendUUID(b, r, st)
	b = append(b, `","Amount":`...)
	b = dec(b, float64(r.IntN(20_000))/100, 2)
	b = append(b, `,"Currency":"EUR","Outcome":"`...)
	b = append(b, often(r, []string{"authorized", "captured", "declined"})...)
	b = append(b, `","SourceContext":"Payments.Processor","@tr":"`...)
	b = appendTrace(b, r, st)
	b = append(b, `","MachineName":"payments-`...)
	b = num(b, st.host)
	return append(b, `","Application":"payments","Environment":"Production"}`...)
}

// writeZerolog is a Go service with zerolog; a session has many lines.
func writeZerolog(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	lvl := level(r)
	b = append(b, `{"level":"`...)
	b = append(b, lvl...)
	b = append(b, `","service":"auth","user":"`...)
	b = append(b, often(r, userNames)...)
	b = append(b, `","ip":"`...)
	b = appendIP(b, r)
	b = append(b, `","latency":`...)
	b = dec(b, latency(r), 4)
	b = append(b, `,"session":"`...)
	b = appendTrace(b, r, st)
	b = append(b, `","request_id":"`...)
	b = appendHex(b, r, 20)
	b = append(b, `","time":"`...)
	b = ts.UTC().AppendFormat(b, "2006-01-02T15:04:05Z")
	b = append(b, `","message":"`...)
	b = append(b, message(r, lvl)...)
	return append(b, `"}`...)
}
