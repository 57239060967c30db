package corpus

import (
	"math/rand/v2"
	"time"
)

// writeLogfmt is a Go service with go-kit's or slog's text format.
func writeLogfmt(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	lvl := level(r)
	b = append(b, "ts="...)
	b = ts.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	b = append(b, " level="...)
	b = append(b, lvl...)
	b = append(b, ` component=`...)
	b = append(b, often(r, tables)...)
	b = append(b, ` caller=store.go:`...)
	b = num(b, 30+zipf(r, 30)*11)
	b = append(b, ` msg="`...)
	b = append(b, message(r, lvl)...)
	b = append(b, `" user=u`...)
	b = num(b, zipf(r, 50_000))
	b = append(b, " region=eu-central-1 took="...)
	b = dec(b, latency(r), 3)
	b = append(b, "ms trace_id="...)
	return appendTrace(b, r, st)
}

// writeLogfmtInfra is logrus' text format.
func writeLogfmtInfra(b []byte, r *rand.Rand, _ *state, ts time.Time) []byte {
	lvl := level(r)
	b = append(b, `time="`...)
	b = ts.UTC().AppendFormat(b, time.RFC3339)
	b = append(b, `" level=`...)
	b = append(b, lvl...)
	b = append(b, ` msg="`...)
	b = append(b, message(r, lvl)...)
	b = append(b, `" node=node-`...)
	b = num(b, r.IntN(300))
	b = append(b, ` queue=`...)
	b = append(b, often(r, tables)...)
	b = append(b, ` depth=`...)
	b = num(b, r.IntN(2000))
	b = append(b, ` profile=default-scheduler pod=web-`...)
	return appendHex(b, r, 10)
}

// writeKlog is a Kubernetes component; its pods are few.
func writeKlog(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	b = append(b, "IIIIIIIIIIIIIIIWE"[r.IntN(17)])
	b = ts.UTC().AppendFormat(b, "0102 15:04:05.000000")
	b = append(b, "    "...)
	b = num(b, st.pid)
	b = append(b, " kubelet_volumes.go:"...)
	b = num(b, 100+zipf(r, 8)*9)
	b = append(b, `] "Cleaned up orphaned pod volumes dir" podUID="6f0c9f1e-4a7d-4c39-9a52-`...)
	pod := zipf(r, 512)
	b = pad(b, pod*7919+st.host*131, 12)
	b = append(b, `" path="/var/lib/kubelet/pods/6f0c9f1e-4a7d-4c39-9a52-`...)
	b = pad(b, pod*7919+st.host*131, 12)
	b = append(b, `/volumes" operation="`...)
	b = appendHex(b, r, 16)
	return append(b, '"')
}

// writeJava is log4j's pattern with the trace id that Spring puts into it; one line in two hundred begins a stack trace.
func writeJava(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	if st.stack > 0 {
		st.stack--
		b = append(b, "\tat "...)
		b = append(b, frames[st.stackFrame%len(frames)]...)
		st.stackFrame++
		return b
	}
	failed := r.IntN(200) == 0
	b = ts.UTC().AppendFormat(b, "2006-01-02 15:04:05.000")
	if failed {
		st.stack, st.stackFrame = 5+r.IntN(20), 0
		b = append(b, " ERROR [http-nio-8080-exec-"...)
	} else {
		b = append(b, " INFO  [http-nio-8080-exec-"...)
	}
	b = num(b, zipf(r, 64))
	b = append(b, "] [billing,"...)
	b = appendTrace(b, r, st)
	b = append(b, "] "...)
	b = append(b, often(r, classes)...)
	b = append(b, " - "...)
	if failed {
		return append(b, "java.sql.SQLTransientConnectionException: HikariPool-1 - Connection is not available, request timed out after 30000ms."...)
	}
	st.seq += 1 + zipf(r, 16)
	b = append(b, "Invoice "...)
	b = num(b, 1_000_000+st.seq)
	b = append(b, " settled for account "...)
	b = num(b, zipf(r, 20_000))
	b = append(b, " in "...)
	b = num(b, int(latency(r)))
	return append(b, " ms"...)
}

func writePostgres(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	b = ts.UTC().AppendFormat(b, "2006-01-02 15:04:05.000 UTC")
	b = append(b, " ["...)
	b = num(b, st.pid+zipf(r, 32))
	b = append(b, "] shop@shop "...)
	b = appendHex(b, r, 8)
	b = append(b, " LOG:  duration: "...)
	b = dec(b, latency(r), 3)
	b = append(b, " ms  statement: SELECT id, state, created_at, updated_at FROM "...)
	b = append(b, often(r, tables)...)
	b = append(b, " WHERE id = "...)
	b = num(b, r.IntN(5_000_000))
	return append(b, " AND deleted_at IS NULL LIMIT 1"...)
}

func writeSSHD(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	b = ts.UTC().AppendFormat(b, time.Stamp)
	b = append(b, " bastion-"...)
	b = num(b, st.host)
	b = append(b, " sshd["...)
	st.seq += zipf(r, 4)
	b = num(b, 1000+st.seq%30_000)
	b = append(b, "]: "...)
	switch zipf(r, 4) {
	case 0, 1:
		b = append(b, "Failed password for invalid user "...)
		b = append(b, often(r, userNames)...)
		b = append(b, " from "...)
		b = appendIP(b, r)
		b = append(b, " port "...)
		b = num(b, 1024+r.IntN(60_000))
		b = append(b, " ssh2: ED25519 SHA256:"...)
		return appendHex(b, r, 16)
	case 2:
		b = append(b, "pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost="...)
		return appendIP(b, r)
	}
	b = append(b, "Received disconnect from "...)
	b = appendIP(b, r)
	return append(b, ": 11: Bye Bye [preauth]"...)
}

// writePython is a Celery worker: a task is received and, as a rule, succeeds.
func writePython(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	b = append(b, '[')
	b = ts.UTC().AppendFormat(b, "2006-01-02 15:04:05,000")
	id := st.request(r)
	outcome := zipf(r, 4)
	if outcome < 2 {
		b = append(b, ": INFO/MainProcess] Task jobs.tasks.sync_"...)
	} else {
		b = append(b, ": INFO/ForkPoolWorker-"...)
		b = num(b, 1+zipf(r, 16))
		b = append(b, "] Task jobs.tasks.sync_"...)
	}
	b = append(b, often(r, tables)...)
	b = append(b, '[')
	b = dashed(b, id)
	switch {
	case outcome < 2:
		b = append(b, "] received by worker-"...)
		b = num(b, st.host)
		b = append(b, " from queue celery, correlation_id="...)
		return appendHex(b, r, 16)
	case r.IntN(5000) == 0:
		return append(b, "] raised unexpected: ConnectionError('broker went away')"...)
	}
	b = append(b, "] succeeded in "...)
	b = dec(b, latency(r)/1000, 9)
	return append(b, "s: {'state': 'SUCCESS', 'retries': 0, 'rows': None}"...)
}

func writeRedis(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	b = num(b, st.pid)
	b = append(b, ":M "...)
	b = ts.UTC().AppendFormat(b, "02 Jan 2006 15:04:05.000")
	if r.Uint32()&1 == 0 {
		b = append(b, " * "...)
		b = num(b, r.IntN(10_000))
		return append(b, " changes in 60 seconds, saving in the background to /data/dump.rdb with child of this process"...)
	}
	b = append(b, " * Background saving terminated with success, copy-on-write "...)
	b = num(b, r.IntN(4096))
	b = append(b, " MB, replication offset "...)
	return num(b, r.IntN(1<<40))
}

func writeKafka(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	b = append(b, '[')
	b = ts.UTC().AppendFormat(b, "2006-01-02 15:04:05,000")
	b = append(b, "] INFO [ReplicaFetcher replicaId="...)
	b = num(b, 1+st.host%5)
	b = append(b, ", leaderId="...)
	b = num(b, 1+r.IntN(5))
	b = append(b, ", fetcherId=0] Truncating partition "...)
	b = append(b, often(r, tables)...)
	b = append(b, '-')
	b = num(b, r.IntN(48))
	b = append(b, " with TruncationState(offset="...)
	st.seq += zipf(r, 512)
	b = num(b, 5_000_000+st.seq)
	b = append(b, ", session="...)
	b = appendHex(b, r, 12)
	return append(b, ", completed=true) due to local high watermark (kafka.server.ReplicaFetcherThread)"...)
}

// writeRails is Ruby's logger; the lines of a request carry its id.
func writeRails(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	b = append(b, "I, ["...)
	b = ts.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000")
	b = append(b, " #"...)
	b = num(b, st.pid)
	b = append(b, "]  INFO -- : ["...)
	b = appendRequestUUID(b, r, st)
	b = append(b, "] "...)
	switch zipf(r, 4) {
	case 0, 1:
		b = append(b, "Started GET \""...)
		b = appendURL(b, r)
		b = append(b, "\" for "...)
		return appendIP(b, r)
	case 2:
		b = append(b, "Processing by ProductsController#show as HTML with parameters: {\"id\"=>\""...)
		b = num(b, r.IntN(100_000))
		return append(b, "\", \"locale\"=>\"en\", \"currency\"=>\"EUR\"}"...)
	}
	b = append(b, "Completed "...)
	b = num(b, status(r))
	b = append(b, " in "...)
	b = num(b, int(latency(r)))
	b = append(b, "ms (Views: "...)
	b = dec(b, latency(r)/4, 1)
	return append(b, "ms)"...)
}

func writePostfix(b []byte, r *rand.Rand, st *state, ts time.Time) []byte {
	b = ts.UTC().AppendFormat(b, time.Stamp)
	b = append(b, " mail-"...)
	b = num(b, st.host)
	b = append(b, " postfix/smtp["...)
	b = num(b, 1000+st.pid+zipf(r, 64))
	b = append(b, "]: "...)
	b = appendHex(b, r, 10)
	b = append(b, ": to=<user"...)
	b = num(b, zipf(r, 100_000))
	b = append(b, "@example.com>, relay=mx"...)
	b = num(b, zipf(r, 8))
	b = append(b, ".example.com[192.0.2.25]:25, delay="...)
	b = dec(b, latency(r)/20, 1)
	return append(b, ", delays=0.01/0/0.1/0.4, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued)"...)
}
