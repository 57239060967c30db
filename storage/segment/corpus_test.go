package segment

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

// corpus writes log lines as seven kinds of service do, with Zipf-distributed users and
// urls, random trace ids, and clocks of nanosecond, microsecond and millisecond precision.
type corpus struct {
	rng   *rand.Rand
	users *rand.Zipf
	urls  *rand.Zipf
	ts    int64
}

var corpusStart = time.Date(2026, 3, 14, 0, 0, 0, 0, time.UTC).UnixNano()

// corpusEntries returns about size bytes of lines over that many streams and 24 hours,
// in the order of a segment. The same arguments give the same entries.
func corpusEntries(size, streams int) []entry {
	rng := rand.New(rand.NewPCG(uint64(size), uint64(streams)))
	c := &corpus{rng: rng, users: rand.NewZipf(rng, 1.2, 4, 20000), urls: rand.NewZipf(rng, 1.3, 2, 400)}
	shares := make([]float64, streams)
	sum := 0.0
	for i := range shares {
		shares[i] = 1 / math.Pow(float64(i+3), 0.8)
		sum += shares[i]
	}
	var out []entry
	for i, share := range shares {
		kind := i % len(corpusKinds)
		stream := labels.FromStrings("app", fmt.Sprintf("%s-%d", corpusKinds[kind].name, i/len(corpusKinds)%6), "env", []string{"prod", "staging"}[i%3%2],
			"namespace", fmt.Sprintf("team-%d", i%9), "pod", fmt.Sprintf("%s-%x-%05x", corpusKinds[kind].name, i*7919, rng.Uint32()>>12))
		left := int(share / sum * float64(size))
		rows := max(1, left/corpusKinds[kind].length)
		c.ts = corpusStart
		step := float64(24*time.Hour) / float64(rows)
		for left > 0 {
			c.ts += int64(rng.ExpFloat64() * step)
			e := entry{stream: stream, ts: c.ts / corpusKinds[kind].clock * corpusKinds[kind].clock}
			e.line, e.metadata = corpusKinds[kind].line(c)
			left -= len(e.line)
			out = append(out, e)
		}
	}
	return sorted(out)
}

var corpusKinds = []struct {
	name   string
	clock  int64
	length int // on average
	line   func(*corpus) (string, labels.Labels)
}{
	{"api", 1, 330, (*corpus).zap},
	{"worker", 1, 190, (*corpus).logfmt},
	{"nginx", 1e6, 230, (*corpus).nginx},
	{"kubelet", 1e3, 170, (*corpus).klog},
	{"billing", 1e6, 260, (*corpus).java},
	{"postgres", 1e6, 170, (*corpus).postgres},
	{"sshd", 1, 90, (*corpus).sshd},
}

func (c *corpus) pick(of ...string) string { return of[c.rng.IntN(len(of))] }
func (c *corpus) time(layout string) string {
	return time.Unix(0, c.ts).UTC().Format(layout)
}
func (c *corpus) hex(n int) string {
	return fmt.Sprintf("%016x%016x", c.rng.Uint64(), c.rng.Uint64())[:n]
}
func (c *corpus) level() string {
	return c.pick("info", "info", "info", "info", "info", "info", "debug", "debug", "warn", "error")
}
func (c *corpus) latency() float64 { return math.Exp(c.rng.NormFloat64()*1.1 + 2.5) }
func (c *corpus) url() string {
	n := c.urls.Uint64()
	return fmt.Sprintf("/api/v%d/%s/%d", 1+n%2, []string{"users", "orders", "carts", "items", "search", "sessions"}[n%6], n*37)
}
func (c *corpus) status() int {
	return []int{200, 200, 200, 200, 200, 201, 204, 304, 404, 500, 503}[c.rng.IntN(11)]
}

func (c *corpus) zap() (string, labels.Labels) {
	level, trace := c.level(), c.hex(32)
	return fmt.Sprintf(`{"level":%q,"ts":%q,"logger":"http","caller":"server/handler.go:%d","msg":%q,"method":%q,"path":%q,"status":%d,"duration_ms":%.3f,"user_id":"u-%d","trace_id":%q,"span_id":%q}`,
			level, c.time(time.RFC3339Nano), 40+c.rng.IntN(12)*17, c.pick("request completed", "request completed", "request completed", "cache miss", "retrying upstream"),
			c.pick("GET", "GET", "GET", "POST", "PUT"), c.url(), c.status(), c.latency(), c.users.Uint64(), trace, c.hex(16)),
		labels.FromStrings("detected_level", level)
}

func (c *corpus) logfmt() (string, labels.Labels) {
	level := c.level()
	return fmt.Sprintf(`ts=%s caller=%s:%d level=%s component=%s msg=%q job=order-%08d took=%.2fms attempts=%d`,
			c.time("2006-01-02T15:04:05.000Z"), c.pick("queue.go", "worker.go", "store.go"), 30+c.rng.IntN(9)*23, level, c.pick("scheduler", "executor", "gc", "lease"),
			c.pick("job finished", "job finished", "job started", "lease renewed", "deadline exceeded while waiting for lock"), c.rng.IntN(1e8), c.latency(), 1+c.rng.IntN(3)),
		labels.FromStrings("detected_level", level, "trace_id", c.hex(32))
}

func (c *corpus) nginx() (string, labels.Labels) {
	n := c.users.Uint64()
	return fmt.Sprintf(`%d.%d.%d.%d - - [%s] "%s %s HTTP/1.1" %d %d "https://shop.example.com%s" "%s" %.3f`,
		10+n%200, n%251, n*7%253, n*13%255, c.time("02/Jan/2006:15:04:05 -0700"), c.pick("GET", "GET", "GET", "POST"), c.url(), c.status(), int(c.latency()*800), c.url(),
		[]string{"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0", "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15",
			"curl/8.5.0", "kube-probe/1.30"}[n%4], c.latency()/1000), labels.EmptyLabels()
}

func (c *corpus) klog() (string, labels.Labels) {
	return fmt.Sprintf(`%s%s %7d %s:%d] %q pod="team-%d/%s-%s" containerID="%s" podStartE2EDuration="%.6fs"`,
		c.pick("I", "I", "I", "W", "E"), c.time("0102 15:04:05.000000"), 1000+c.rng.IntN(40), c.pick("kubelet.go", "pod_workers.go", "reconciler.go"), 100+c.rng.IntN(20)*31,
		c.pick("SyncLoop (PLEG): event for pod", "Observed pod startup duration", "Error syncing pod, skipping"), c.rng.IntN(9), c.pick("api", "worker", "nginx"), c.hex(10), c.hex(12), c.latency()), labels.EmptyLabels()
}

func (c *corpus) java() (string, labels.Labels) {
	head := fmt.Sprintf("%s %-5s [%s-exec-%d] c.e.billing.%s : ", c.time("2006-01-02 15:04:05.000"), c.pick("INFO", "INFO", "INFO", "DEBUG", "WARN"), "http-nio-8080", c.rng.IntN(40),
		c.pick("InvoiceService", "PaymentGateway", "LedgerRepository"))
	if c.rng.IntN(12) == 0 {
		return head + fmt.Sprintf("Payment %s failed\njava.net.SocketTimeoutException: Read timed out\n\tat java.base/sun.nio.ch.NioSocketImpl.timedRead(NioSocketImpl.java:288)\n\tat java.base/sun.nio.ch.NioSocketImpl.implRead(NioSocketImpl.java:%d)\n\tat com.example.billing.PaymentGateway.charge(PaymentGateway.java:%d)\n\tat com.example.billing.InvoiceService.settle(InvoiceService.java:%d)",
			c.uuid(), 300+c.rng.IntN(4), 80+c.rng.IntN(9), 200+c.rng.IntN(9)), labels.FromStrings("detected_level", "error")
	}
	return head + fmt.Sprintf("Invoice %s for customer %d settled: amount=%d.%02d EUR in %d ms", c.uuid(), c.users.Uint64(), c.rng.IntN(900), c.rng.IntN(100), int(c.latency())),
		labels.FromStrings("detected_level", "info")
}

func (c *corpus) uuid() string {
	h := c.hex(32)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

func (c *corpus) postgres() (string, labels.Labels) {
	return fmt.Sprintf(`%s UTC [%d] app@shop LOG:  duration: %.3f ms  execute <unnamed>: SELECT id, total FROM %s WHERE customer_id = %d AND created_at > now() - interval '%d days'`,
		c.time("2006-01-02 15:04:05.000"), 2000+c.rng.IntN(60), c.latency(), c.pick("orders", "carts", "invoices"), c.users.Uint64(), 1+c.rng.IntN(30)), labels.EmptyLabels()
}

func (c *corpus) sshd() (string, labels.Labels) {
	return fmt.Sprintf("sshd[%d]: %s for %s from %d.%d.%d.%d port %d ssh2", c.rng.IntN(65536), c.pick("Failed password", "Failed password", "Accepted publickey"),
		c.pick("root", "admin", "invalid user test", "deploy"), 1+c.rng.IntN(223), c.rng.IntN(256), c.rng.IntN(256), c.rng.IntN(256), 1024+c.rng.IntN(64000)), labels.EmptyLabels()
}
