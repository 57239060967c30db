package corpus

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"strconv"

	"github.com/prometheus/prometheus/model/labels"
)

// state is what the lines of a stream have in common.
type state struct {
	pid     int
	host    int
	seq     int
	planted string // a text that the line must hold; cleared when it was written

	stack      int // frames of a stack trace still to write
	stackFrame int

	requests [4][32]byte // ids of the requests under way
	sampled  bool        // the last line's request is traced
	current  int         // index of the last line's request
	metadata [4]labels.Labels
}

func newState(r *rand.Rand) state {
	st := state{pid: 100 + r.IntN(30000), host: r.IntN(250)}
	for i := range st.requests {
		appendHex(st.requests[i][:0], r, 32)
	}
	return st
}

// linesPerRequest is how many lines of a stream carry the same id, on average.
const linesPerRequest = 2

// request moves to the request of the next line and returns its id, 32 hex digits.
func (st *state) request(r *rand.Rand) *[32]byte {
	x := r.Uint32()
	st.current = int(x & 3)
	id := &st.requests[st.current]
	if (x>>2)%linesPerRequest == 0 {
		appendHex(id[:0], r, 32)
		st.metadata[st.current] = labels.EmptyLabels()
	}
	st.sampled = id[0] < '4' // one request in four
	return id
}

// traceMetadata is the structured metadata of an entry of the current request.
func (st *state) traceMetadata() labels.Labels {
	if st.metadata[st.current].IsEmpty() {
		st.metadata[st.current] = labels.FromStrings("trace_id", string(st.requests[st.current][:]))
	}
	return st.metadata[st.current]
}

// appendTrace writes the planted text if there is one, else the id of a request.
func appendTrace(b []byte, r *rand.Rand, st *state) []byte {
	id := st.request(r)
	if st.planted != "" {
		return st.takePlanted(b)
	}
	return append(b, id[:]...)
}

// appendUUID writes the planted text if there is one, else an id that no other line has.
func appendUUID(b []byte, r *rand.Rand, st *state) []byte {
	if st.planted != "" {
		return st.takePlanted(b)
	}
	var id [32]byte
	appendHex(id[:0], r, len(id))
	return dashed(b, &id)
}

// appendRequestUUID is appendTrace in the form of a uuid.
func appendRequestUUID(b []byte, r *rand.Rand, st *state) []byte {
	id := st.request(r)
	if st.planted != "" {
		return st.takePlanted(b)
	}
	return dashed(b, id)
}

func (st *state) takePlanted(b []byte) []byte {
	b = append(b, st.planted...)
	st.planted = ""
	return b
}

func dashed(b []byte, id *[32]byte) []byte {
	from := 0
	for i, n := range [...]int{8, 4, 4, 4, 12} {
		if i > 0 {
			b = append(b, '-')
		}
		b = append(b, id[from:from+n]...)
		from += n
	}
	return b
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

// zipf picks a number below n, x with a chance of about 1/x: a power of two at random, then
// evenly up to the next one.
func zipf(r *rand.Rand, n int) int {
	x := r.Uint64()
	e := (x >> 32) * uint64(bits.Len(uint(n))) >> 32
	return min(n-1, int(1<<e|x&(1<<e-1))-1)
}

// often picks the first ones far more often.
func often(r *rand.Rand, from []string) string { return from[zipf(r, len(from))] }

func status(r *rand.Rand) int {
	switch x := r.IntN(1000); {
	case x < 920:
		return 200
	case x < 950:
		return 304
	case x < 980:
		return 404
	case x < 990:
		return 401
	case x < 997:
		return 500
	}
	return 503
}

// level is info nine times of ten, and error twice in a hundred.
func level(r *rand.Rand) string {
	switch x := r.IntN(100); {
	case x < 90:
		return "info"
	case x < 94:
		return "debug"
	case x < 98:
		return "warn"
	}
	return "error"
}

// message goes with its level.
func message(r *rand.Rand, level string) string {
	switch level {
	case "error":
		return often(r, errorMessages)
	case "warn":
		return often(r, warnMessages)
	}
	return often(r, infoMessages)
}

var (
	methods = []string{"GET", "POST", "PUT", "DELETE"}
	routes  = []string{
		"/api/v1/products", "/api/v1/cart", "/healthz", "/api/v1/orders", "/api/v2/search", "/static/app.js", "/login", "/metrics",
		"/api/v1/users", "/graphql", "/api/v1/orders/history", "/api/v1/payments", "/static/style.css", "/logout", "/api/v1/stock",
	}
	agents = []string{
		"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
		"kube-probe/1.30", "okhttp/4.12.0",
		"Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:127.0) Gecko/20100101 Firefox/127.0", "Go-http-client/2.0", "curl/8.5.0",
	}
	infoMessages = []string{
		"request completed", "cache hit", "order placed", "payment authorized", "inventory reserved", "session started",
		"cache miss, reading from the database", "configuration reloaded", "coupon applied", "cart merged after login", "price list refreshed", "feature flags fetched",
	}
	warnMessages  = []string{"slow query", "retrying upstream call", "Connection reset by peer", "deprecated field in request", "rate limit close to its bound"}
	errorMessages = []string{
		"context deadline exceeded", "upstream request timeout", "connection reset by peer", "error while reading from upstream: unexpected EOF",
		"deadlock detected, transaction rolled back", "no healthy upstream",
	}
	classes = []string{
		"com.acme.billing.InvoiceService", "com.acme.billing.LedgerWriter", "com.acme.common.RetryTemplate",
		"org.hibernate.engine.jdbc.spi.SqlExceptionHelper", "com.zaxxer.hikari.pool.HikariPool",
	}
	frames = []string{
		"com.zaxxer.hikari.pool.HikariPool.createTimeoutException(HikariPool.java:696)", "com.zaxxer.hikari.pool.HikariPool.getConnection(HikariPool.java:197)",
		"com.acme.billing.LedgerWriter.post(LedgerWriter.java:88)", "com.acme.billing.InvoiceService.settle(InvoiceService.java:141)",
		"org.springframework.aop.framework.CglibAopProxy$CglibMethodInvocation.proceed(CglibAopProxy.java:765)",
		"org.springframework.transaction.interceptor.TransactionInterceptor.invoke(TransactionInterceptor.java:119)",
		"java.base/java.util.concurrent.ThreadPoolExecutor.runWorker(ThreadPoolExecutor.java:1136)", "java.base/java.lang.Thread.run(Thread.java:840)",
	}
	tables    = []string{"orders", "line_items", "users", "inventory", "audit_log", "sessions"}
	userNames = []string{"root", "admin", "deploy", "ubuntu", "git", "oracle", "test", "backup"}
)

// appendIP writes one of 32768 clients.
func appendIP(b []byte, r *rand.Rand) []byte {
	n := zipf(r, 1<<15)
	b = append(b, "10."...)
	b = num(b, n%7)
	b = append(b, '.')
	b = num(b, n>>7&255)
	b = append(b, '.')
	return num(b, n*101&255)
}

func appendURL(b []byte, r *rand.Rand) []byte {
	b = append(b, often(r, routes)...)
	if r.Uint32()&3 != 0 {
		b = append(b, '/')
		b = num(b, r.IntN(100_000))
	}
	return b
}

func num(b []byte, n int) []byte { return strconv.AppendInt(b, int64(n), 10) }

// pad writes n with at least that many digits.
func pad(b []byte, n, digits int) []byte {
	for limit := int(math.Pow10(digits - 1)); n < limit && limit > 1; limit /= 10 {
		b = append(b, '0')
	}
	return num(b, n)
}

func dec(b []byte, f float64, digits int) []byte { return strconv.AppendFloat(b, f, 'f', digits, 64) }

// latency is log-normal around 20, in milliseconds.
func latency(r *rand.Rand) float64 { return math.Exp(3 + r.NormFloat64()) }
