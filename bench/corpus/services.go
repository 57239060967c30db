package corpus

import (
	"math"
	"math/rand/v2"
	"strconv"
	"time"
)

// service is one kind of program: where it runs and how it writes a line. write appends a
// line for the time ts; if st.trace is set and the format has a place for a trace or
// request id, it puts it there and clears st.trace.
type service struct {
	app, namespace string
	meanLine       float64 // bytes, to turn a wanted volume into a number of lines
	metadata       bool    // entries carry trace_id as structured metadata
	write          func(b []byte, r *rand.Rand, st *state, ts time.Time) []byte
}

// state is what a stream's lines have in common.
type state struct {
	pid    int
	host   int
	seq    int
	stack  int // frames of a stack trace still to write
	thread int
	trace  string
}

func newState(r *rand.Rand) state {
	return state{pid: 100 + r.IntN(30000), host: r.IntN(250), thread: r.IntN(64)}
}

var services = []service{
	{"checkout", "shop", 330, false, writeZap},
	{"gateway", "edge", 290, false, writeNginx},
	{"mesh", "edge", 420, false, writeEnvoy},
	{"cart", "shop", 170, false, writeLogfmt},
	{"kubelet", "kube-system", 165, false, writeKlog},
	{"billing", "finance", 150, false, writeJava},
	{"postgres", "data", 150, false, writePostgres},
	{"bastion", "ops", 95, false, writeSSHD},
	{"search", "shop", 260, true, writePino},
	{"worker", "jobs", 190, false, writePython},
	{"redis", "data", 75, false, writeRedis},
	{"payments", "finance", 300, false, writeSerilog},
	{"ingress", "edge", 210, false, writeApache},
	{"kafka", "data", 160, false, writeKafka},
	{"frontend", "shop", 140, false, writeRails},
	{"scheduler", "kube-system", 180, false, writeLogfmtInfra},
	{"mailer", "jobs", 160, false, writePostfix},
	{"auth", "ops", 240, true, writeZerolog},
}

var (
	levels    = []string{"debug", "info", "info", "info", "info", "info", "info", "warn", "error"}
	methods   = []string{"GET", "GET", "GET", "GET", "POST", "PUT", "DELETE"}
	routes    = []string{"/api/v1/orders", "/api/v1/products", "/api/v1/cart", "/healthz", "/api/v2/search", "/static/app.js", "/login", "/api/v1/users", "/metrics", "/graphql"}
	agents    = []string{"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36", "curl/8.5.0", "kube-probe/1.30", "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15", "okhttp/4.12.0"}
	messages  = []string{"request completed", "cache miss", "order placed", "payment authorized", "retrying upstream call", "connection reset by peer", "context deadline exceeded", "inventory reserved", "session expired", "configuration reloaded"}
	classes   = []string{"com.acme.billing.InvoiceService", "com.acme.billing.LedgerWriter", "org.hibernate.engine.jdbc.spi.SqlExceptionHelper", "com.acme.common.RetryTemplate", "com.zaxxer.hikari.pool.HikariPool"}
	tables    = []string{"orders", "line_items", "users", "inventory", "audit_log", "sessions"}
	userNames = []string{"root", "admin", "deploy", "ubuntu", "git", "oracle", "test", "backup"}
)

// zipf picks an index below n, small ones far more often.
func zipf(r *rand.Rand, n int) int {
	return min(n-1, int(math.Pow(float64(n), r.Float64()))-1)
}

func pick(r *rand.Rand, from []string) string { return from[r.IntN(len(from))] }

func status(r *rand.Rand) int {
	switch x := r.IntN(1000); {
	case x < 900:
		return 200
	case x < 940:
		return 304
	case x < 975:
		return 404
	case x < 985:
		return 401
	case x < 995:
		return 500
	}
	return 503
}

func hex(r *rand.Rand, digits int) string {
	return string(appendHex(make([]byte, 0, digits), r, digits))
}

func appendHex(b []byte, r *rand.Rand, digits int) []byte {
	const alphabet = "0123456789abcdef"
	for digits > 0 {
		for x, n := r.Uint64(), min(16, digits); n > 0; n-- {
			b = append(b, alphabet[x&15])
			x >>= 4
			digits--
		}
	}
	return b
}

func appendUUID(b []byte, r *rand.Rand) []byte {
	for i, n := range [...]int{8, 4, 4, 4, 12} {
		if i > 0 {
			b = append(b, '-')
		}
		b = appendHex(b, r, n)
	}
	return b
}

// appendTrace writes the planted id if there is one, else a random one.
func appendTrace(b []byte, r *rand.Rand, st *state) []byte {
	if st.trace != "" {
		b = append(b, st.trace...)
		st.trace = ""
		return b
	}
	return appendHex(b, r, 32)
}

func appendIP(b []byte, r *rand.Rand) []byte {
	n := zipf(r, 1<<16)
	b = append(b, "10."...)
	b = strconv.AppendInt(b, int64(n%7), 10)
	b = append(b, '.')
	b = strconv.AppendInt(b, int64(n>>8), 10)
	b = append(b, '.')
	return strconv.AppendInt(b, int64(n&255), 10)
}

func appendURL(b []byte, r *rand.Rand) []byte {
	b = append(b, routes[zipf(r, len(routes))]...)
	if r.IntN(3) > 0 {
		b = append(b, '/')
		b = num(b, zipf(r, 100_000))
	}
	return b
}

func num(b []byte, n int) []byte { return strconv.AppendInt(b, int64(n), 10) }

func dec(b []byte, f float64, digits int) []byte { return strconv.AppendFloat(b, f, 'f', digits, 64) }

// latency is log-normal around 20, in milliseconds.
func latency(r *rand.Rand) float64 { return math.Exp(3 + r.NormFloat64()) }

func writeZap(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	b = append(b, `{"level":"`...)
	b = append(b, pick(r, levels)...)
	b = append(b, `","ts":`...)
	b = dec(b, float64(ts.UnixMilli())/1000, 3)
	b = append(b, `,"caller":"checkout/handler.go:`...)
	b = num(b, 40+zipf(r, 300))
	b = append(b, `","msg":"`...)
	b = append(b, pick(r, messages)...)
	b = append(b, `","method":"`...)
	b = append(b, pick(r, methods)...)
	b = append(b, `","path":"`...)
	b = appendURL(b, r)
	b = append(b, `","status":`...)
	b = num(b, status(r))
	b = append(b, `,"duration_ms":`...)
	b = dec(b, latency(r), 3)
	b = append(b, `,"user_id":"u`...)
	b = num(b, zipf(r, 50_000))
	b = append(b, `","trace_id":"`...)
	b = appendTrace(b, r, st)
	b = append(b, `","order":{"id":"order-`...)
	b = num(b, 10_000+r.IntN(90_000))
	b = append(b, `","items":`...)
	b = num(b, 1+zipf(r, 12))
	return append(b, `}}`...)
}

func writeNginx(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	b = appendIP(b, r)
	b = append(b, " - - ["...)
	b = ts.UTC().AppendFormat(b, "02/Jan/2006:15:04:05 -0700")
	b = append(b, `] "`...)
	b = append(b, pick(r, methods)...)
	b = append(b, ' ')
	b = appendURL(b, r)
	b = append(b, ` HTTP/1.1" `...)
	b = num(b, status(r))
	b = append(b, ' ')
	b = num(b, 200+zipf(r, 60_000))
	b = append(b, ` "-" "`...)
	b = append(b, agents[zipf(r, len(agents))]...)
	b = append(b, `" rt=`...)
	b = dec(b, latency(r)/1000, 3)
	b = append(b, ` rid=`...)
	return appendTrace(b, r, st)
}

func writeEnvoy(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	b = append(b, '[')
	b = ts.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	b = append(b, `] "`...)
	b = append(b, pick(r, methods)...)
	b = append(b, ' ')
	b = appendURL(b, r)
	b = append(b, ` HTTP/2" `...)
	b = num(b, status(r))
	b = append(b, ` - via_upstream - "-" 0 `...)
	b = num(b, zipf(r, 30_000))
	b = append(b, ' ')
	b = num(b, int(latency(r)))
	b = append(b, ' ')
	b = num(b, int(latency(r)))
	b = append(b, ` "-" "`...)
	b = append(b, agents[zipf(r, len(agents))]...)
	b = append(b, `" "`...)
	b = appendUUID(b, r)
	b = append(b, `" "shop.example" "`...)
	b = appendIP(b, r)
	b = append(b, `:8080" outbound|8080||cart.shop.svc.cluster.local `...)
	b = appendIP(b, r)
	b = append(b, `:43210 trace=`...)
	return appendTrace(b, r, st)
}

func writeLogfmt(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	b = append(b, "ts="...)
	b = ts.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, " level="...)
	b = append(b, pick(r, levels)...)
	b = append(b, ` component=`...)
	b = append(b, tables[zipf(r, len(tables))]...)
	b = append(b, ` msg="`...)
	b = append(b, pick(r, messages)...)
	b = append(b, `" user=u`...)
	b = num(b, zipf(r, 50_000))
	b = append(b, " took="...)
	b = dec(b, latency(r), 2)
	b = append(b, "ms trace_id="...)
	return appendTrace(b, r, st)
}

func writeKlog(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	b = append(b, "IIIIIWE"[r.IntN(7)])
	b = ts.UTC().AppendFormat(b, "0102 15:04:05.000000")
	b = append(b, ' ')
	b = num(b, st.pid)
	b = append(b, " kubelet_volumes.go:"...)
	b = num(b, 100+zipf(r, 80))
	b = append(b, `] "Cleaned up orphaned pod volumes dir" podUID="`...)
	b = appendUUID(b, r)
	b = append(b, `" path="/var/lib/kubelet/pods/`...)
	b = num(b, zipf(r, 4000))
	return append(b, `/volumes"`...)
}

func writeJava(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	if st.stack > 0 {
		st.stack--
		b = append(b, "\tat "...)
		b = append(b, classes[zipf(r, len(classes))]...)
		b = append(b, ".invoke("...)
		b = append(b, "Service.java:"...)
		b = num(b, 20+zipf(r, 400))
		return append(b, ')')
	}
	level := "INFO "
	if r.IntN(60) == 0 {
		level = "ERROR"
		st.stack = 5 + r.IntN(20)
	}
	b = ts.UTC().AppendFormat(b, "2006-01-02 15:04:05.000")
	b = append(b, ' ')
	b = append(b, level...)
	b = append(b, " ["...)
	b = append(b, "http-nio-8080-exec-"...)
	b = num(b, zipf(r, 64))
	b = append(b, "] "...)
	b = append(b, classes[zipf(r, len(classes))]...)
	b = append(b, " - "...)
	if level == "ERROR" {
		return append(b, "java.sql.SQLTransientConnectionException: HikariPool-1 - Connection is not available, request timed out after 30000ms."...)
	}
	b = append(b, "Invoice "...)
	b = num(b, 1_000_000+r.IntN(900_000))
	b = append(b, " settled for account "...)
	b = num(b, zipf(r, 20_000))
	b = append(b, " in "...)
	b = num(b, int(latency(r)))
	return append(b, " ms"...)
}

func writePostgres(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	b = ts.UTC().AppendFormat(b, "2006-01-02 15:04:05.000 UTC")
	b = append(b, " ["...)
	b = num(b, st.pid+zipf(r, 200))
	b = append(b, "] shop@shop LOG:  duration: "...)
	b = dec(b, latency(r), 3)
	b = append(b, " ms  statement: SELECT * FROM "...)
	b = append(b, tables[zipf(r, len(tables))]...)
	b = append(b, " WHERE id = "...)
	b = num(b, r.IntN(10_000_000))
	return append(b, " LIMIT 1"...)
}

func writeSSHD(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	b = ts.UTC().AppendFormat(b, time.Stamp)
	b = append(b, " bastion-"...)
	b = num(b, st.host)
	b = append(b, " sshd["...)
	b = num(b, 1000+r.IntN(30_000))
	b = append(b, "]: Failed password for invalid user "...)
	b = append(b, pick(r, userNames)...)
	b = append(b, " from "...)
	b = appendIP(b, r)
	b = append(b, " port "...)
	b = num(b, 1024+r.IntN(60_000))
	return append(b, " ssh2"...)
}

func writePino(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	b = append(b, `{"level":`...)
	b = num(b, 10*(2+zipf(r, 4)))
	b = append(b, `,"time":`...)
	b = num(b, int(ts.UnixMilli()))
	b = append(b, `,"pid":`...)
	b = num(b, st.pid)
	b = append(b, `,"hostname":"search-`...)
	b = num(b, st.host)
	b = append(b, `","reqId":"`...)
	b = appendTrace(b, r, st)
	b = append(b, `","req":{"method":"`...)
	b = append(b, pick(r, methods)...)
	b = append(b, `","url":"`...)
	b = appendURL(b, r)
	b = append(b, `"},"hits":`...)
	b = num(b, zipf(r, 5000))
	b = append(b, `,"responseTime":`...)
	b = dec(b, latency(r), 4)
	b = append(b, `,"msg":"`...)
	b = append(b, pick(r, messages)...)
	return append(b, `"}`...)
}

func writePython(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	b = append(b, '[')
	b = ts.UTC().AppendFormat(b, "2006-01-02 15:04:05,000")
	b = append(b, ": INFO/ForkPoolWorker-"...)
	b = num(b, 1+zipf(r, 16))
	b = append(b, "] Task jobs.tasks.sync_"...)
	b = append(b, tables[zipf(r, len(tables))]...)
	b = append(b, '[')
	b = appendUUID(b, r)
	b = append(b, "] succeeded in "...)
	b = dec(b, latency(r)/1000, 12)
	return append(b, "s: None"...)
}

func writeRedis(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	b = num(b, st.pid)
	b = append(b, ":M "...)
	b = ts.UTC().AppendFormat(b, "02 Jan 2006 15:04:05.000")
	b = append(b, " * "...)
	b = num(b, zipf(r, 10_000))
	return append(b, " changes in 60 seconds. Saving..."...)
}

func writeSerilog(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	b = append(b, `{"@t":"`...)
	b = ts.UTC().AppendFormat(b, "2006-01-02T15:04:05.0000000Z")
	b = append(b, `","@mt":"Payment {PaymentId} for {Amount} {Currency} was {Outcome}","PaymentId":"`...)
	b = appendUUID(b, r)
	b = append(b, `","Amount":`...)
	b = dec(b, latency(r)*3, 2)
	b = append(b, `,"Currency":"EUR","Outcome":"`...)
	b = append(b, []string{"authorized", "authorized", "captured", "declined"}[r.IntN(4)]...)
	b = append(b, `","SourceContext":"Payments.Processor","@tr":"`...)
	b = appendTrace(b, r, st)
	return append(b, `"}`...)
}

func writeApache(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	b = appendIP(b, r)
	b = append(b, " - "...)
	b = append(b, userNames[zipf(r, len(userNames))]...)
	b = append(b, " ["...)
	b = ts.UTC().AppendFormat(b, "02/Jan/2006:15:04:05 -0700")
	b = append(b, `] "`...)
	b = append(b, pick(r, methods)...)
	b = append(b, ' ')
	b = appendURL(b, r)
	b = append(b, ` HTTP/1.0" `...)
	b = num(b, status(r))
	b = append(b, ' ')
	b = num(b, zipf(r, 100_000))
	b = append(b, ` "https://shop.example`...)
	b = appendURL(b, r)
	b = append(b, `" "`...)
	b = append(b, agents[zipf(r, len(agents))]...)
	return append(b, '"')
}

func writeKafka(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	b = append(b, '[')
	b = ts.UTC().AppendFormat(b, "2006-01-02 15:04:05,000")
	b = append(b, "] INFO [ReplicaFetcher replicaId="...)
	b = num(b, 1+st.host%5)
	b = append(b, ", leaderId="...)
	b = num(b, 1+r.IntN(5))
	b = append(b, "] Truncating partition "...)
	b = append(b, tables[zipf(r, len(tables))]...)
	b = append(b, '-')
	b = num(b, zipf(r, 48))
	b = append(b, " to local high watermark "...)
	b = num(b, 5_000_000+r.IntN(1_000_000))
	return append(b, " (kafka.server.ReplicaFetcherThread)"...)
}

func writeRails(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	b = append(b, "I, ["...)
	b = ts.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000")
	b = append(b, " #"...)
	b = num(b, st.pid)
	b = append(b, "]  INFO -- : ["...)
	b = appendTrace(b, r, st)
	b = append(b, "] Completed "...)
	b = num(b, status(r))
	b = append(b, " OK in "...)
	b = num(b, int(latency(r)))
	b = append(b, "ms (Views: "...)
	b = dec(b, latency(r)/4, 1)
	return append(b, "ms)"...)
}

func writeLogfmtInfra(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	b = append(b, `time="`...)
	b = ts.UTC().AppendFormat(b, time.RFC3339)
	b = append(b, `" level=`...)
	b = append(b, pick(r, levels)...)
	b = append(b, ` msg="`...)
	b = append(b, pick(r, messages)...)
	b = append(b, `" node=node-`...)
	b = num(b, zipf(r, 300))
	b = append(b, ` queue=`...)
	b = append(b, tables[zipf(r, len(tables))]...)
	b = append(b, ` depth=`...)
	b = num(b, zipf(r, 2000))
	b = append(b, ` error=""`...)
	return b
}

func writePostfix(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	b = ts.UTC().AppendFormat(b, time.Stamp)
	b = append(b, " mail-"...)
	b = num(b, st.host)
	b = append(b, " postfix/smtp["...)
	b = num(b, 1000+r.IntN(30_000))
	b = append(b, "]: "...)
	b = appendHex(b, r, 10)
	b = append(b, ": to=<user"...)
	b = num(b, zipf(r, 100_000))
	b = append(b, "@example.com>, relay=mx.example.com["...)
	b = appendIP(b, r)
	b = append(b, "]:25, delay="...)
	b = dec(b, latency(r)/20, 2)
	return append(b, ", status=sent (250 2.0.0 OK)"...)
}

func writeZerolog(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	b = append(b, `{"level":"`...)
	b = append(b, pick(r, levels)...)
	b = append(b, `","service":"auth","user":"`...)
	b = append(b, pick(r, userNames)...)
	b = append(b, `","ip":"`...)
	b = appendIP(b, r)
	b = append(b, `","latency":`...)
	b = dec(b, latency(r), 6)
	b = append(b, `,"session":"`...)
	b = appendTrace(b, r, st)
	b = append(b, `","time":"`...)
	b = ts.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","message":"`...)
	b = append(b, pick(r, messages)...)
	return append(b, `"}`...)
}
