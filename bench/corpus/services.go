package corpus

import (
	"math/rand/v2"
	"time"
)

// service is one kind of program: where it runs and how it writes a line. write appends a
// line for the time ts; if st.planted is set and the format has a place for an id or a free
// text, it puts it there and clears st.planted.
type service struct {
	app, namespace string
	metadata       bool // entries of traced requests carry trace_id as structured metadata
	write          func(b []byte, r *rand.Rand, st *state, ts time.Time) []byte
}

var services = []service{
	{"checkout", "shop", false, writeZap},
	{"gateway", "edge", false, writeNginx},
	{"mesh", "edge", false, writeEnvoy},
	{"cart", "shop", false, writeLogfmt},
	{"kubelet", "kube-system", false, writeKlog},
	{"billing", "finance", false, writeJava},
	{"postgres", "data", false, writePostgres},
	{"bastion", "ops", false, writeSSHD},
	{"search", "shop", true, writePino},
	{"worker", "jobs", false, writePython},
	{"redis", "data", false, writeRedis},
	{"payments", "finance", false, writeSerilog},
	{"ingress", "edge", false, writeApache},
	{"kafka", "data", false, writeKafka},
	{"frontend", "shop", false, writeRails},
	{"scheduler", "kube-system", false, writeLogfmtInfra},
	{"mailer", "jobs", false, writePostfix},
	{"auth", "ops", true, writeZerolog},
}
