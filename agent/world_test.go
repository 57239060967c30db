package agent

import (
	"bytes"
	"compress/gzip"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var (
	worldSeed  = flag.Uint64("world.seed", 0, "run TestWorld with this seed only")
	worldSeeds = flag.Int("world.seeds", 0, "number of seeds for TestWorld; default 24, and 2000 with SKALD_FULL=1")
)

// TestWorld lets files, the agent and the server do random things, and compares what the
// server holds at the end with what a model says was written: every line once, whatever
// was rotated, compressed, copied, truncated, deleted, stopped or refused. What the design
// does not promise is left out of the moves: truncating what has not been read and is not
// copied, and deleting what the agent could not have opened.
func TestWorld(t *testing.T) {
	if *worldSeed != 0 {
		newWorld(t, *worldSeed).run()
		return
	}
	base, seeds := uint64(time.Now().UnixNano()), *worldSeeds
	switch {
	case seeds > 0:
	case os.Getenv("SKALD_FULL") == "1":
		seeds = 2000
	case testing.Short():
		seeds = 6
	default:
		seeds = 24
	}
	for i := range seeds {
		seed := base + uint64(i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			newWorld(t, seed).run()
		})
	}
}

type world struct {
	t     *testing.T
	rng   *rand.Rand
	dir   string
	sink  *sink
	cfg   *Config
	logs  []*worldLog
	stop  func() // nil when the agent is stopped
	agent *Agent
	want  map[string]bool
	ops   []string
	log   bytes.Buffer // what the agent said
	down  bool
}

// worldLog is the model of one path.
type worldLog struct {
	path    string
	n       int    // lines begun
	partial string // what the unfinished last line has so far
	gens    int    // rotations so far
	shift   bool   // rotated names count up: .1 becomes .2
	exists  bool
	rotated []string // newest first
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 1)), dir: t.TempDir(), sink: newSink(t), want: map[string]bool{}}
	stages := ""
	if w.rng.IntN(2) == 0 {
		stages = "[{static_labels: {with: stages}}]"
	}
	w.cfg = testConfig(t, w.sink.URL, w.dir, stages)
	w.cfg.Clients[0].Timeout = 300 * time.Millisecond
	for i := range 1 + w.rng.IntN(4) {
		w.logs = append(w.logs, &worldLog{path: filepath.Join(w.dir, fmt.Sprintf("logs/d%d/app.log", i)), shift: w.rng.IntN(2) == 0})
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("to repeat: go test ./agent -run TestWorld -world.seed=%d", seed)
			t.Log(strings.Join(w.ops, "\n"))
			t.Log(w.log.String())
		}
	})
	return w
}

func (w *world) note(format string, args ...any) {
	w.ops = append(w.ops, time.Now().Format("05.000 ")+fmt.Sprintf(format, args...))
}

// logger keeps what the agent says, for when the test fails.
func (w *world) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			a.Value = slog.StringValue(a.Value.Time().Format("05.000000"))
		}
		return a
	}}))
}

func (w *world) run() {
	w.toggle()
	for range 40 + w.rng.IntN(60) {
		w.step()
	}
	w.note("end")
	w.sink.setJudge(nil)
	w.down = false
	for _, l := range w.logs {
		w.complete(l)
	}
	if w.stop == nil {
		w.toggle()
	}
	w.settle()
	w.stop()
	w.verify()
}

// step makes one move.
func (w *world) step() {
	l := w.logs[w.rng.IntN(len(w.logs))]
	switch w.rng.IntN(24) {
	case 23:
		w.replace(l)
	case 20:
		w.copyTruncate(l)
	case 21, 22:
		w.compress(l)
	case 0, 1, 2, 3, 4, 5, 6, 7:
		w.write(l)
	case 8, 9, 10:
		w.rotate(l)
	case 11:
		w.truncate(l)
	case 12:
		w.remove(l)
	case 13, 14:
		w.toggle()
	case 15, 16:
		w.fault()
	default:
		d := time.Duration(w.rng.IntN(30)) * time.Millisecond
		w.note("sleep %v", d)
		time.Sleep(d)
	}
}

// write appends lines, and perhaps the beginning of another.
func (w *world) write(l *worldLog) {
	var b strings.Builder
	count := 1 + w.rng.IntN(50)
	for range count {
		b.WriteString(w.rest(l))
		b.WriteByte('\n')
	}
	if w.rng.IntN(3) == 0 {
		l.partial = w.line(l)
		cut := 1 + w.rng.IntN(len(l.partial)-1)
		b.WriteString(l.partial[:cut])
		l.partial = l.partial[cut:]
	}
	w.note("write %d lines to %s, to #%d, partial %v", count, filepath.Base(filepath.Dir(l.path)), l.n, l.partial != "")
	appendFile(w.t, l.path, b.String())
	l.exists = true
}

// line invents a line and expects it.
func (w *world) line(l *worldLog) string {
	l.n++
	size := w.rng.IntN(100)
	if w.rng.IntN(50) == 0 {
		size = w.rng.IntN(20000) // longer than the buffer of fastTail
	}
	s := fmt.Sprintf("%s #%d %s", filepath.Base(filepath.Dir(l.path)), l.n, strings.Repeat("x", size))
	w.want[s] = true
	return s
}

// rest returns the rest of the unfinished line, or a new one.
func (w *world) rest(l *worldLog) string {
	if s := l.partial; s != "" {
		l.partial = ""
		return s
	}
	return w.line(l)
}

// complete ends an unfinished line; a line that ends with its file is one as well, but the
// model would have to know when.
func (w *world) complete(l *worldLog) {
	if l.partial != "" {
		appendFile(w.t, l.path, w.rest(l)+"\n")
	}
}

// shifted makes room for a new rotated file and returns its name.
func (w *world) shifted(l *worldLog) string {
	l.gens++
	if !l.shift {
		return fmt.Sprintf("%s-%03d", l.path, l.gens)
	}
	for k := len(l.rotated) - 1; k >= 0; k-- {
		name := fmt.Sprintf("%s.%d", l.path, k+2)
		if strings.HasSuffix(l.rotated[k], ".gz") {
			name += ".gz"
		}
		if err := os.Rename(l.rotated[k], name); err != nil {
			w.t.Fatal(err)
		}
		l.rotated[k] = name
	}
	return l.path + ".1"
}

func (w *world) rotate(l *worldLog) {
	if !l.exists {
		return
	}
	w.complete(l)
	name := w.shifted(l)
	if err := os.Rename(l.path, name); err != nil {
		w.t.Fatal(err)
	}
	l.rotated = append([]string{name}, l.rotated...)
	l.exists = false
	late := w.rng.IntN(3) == 0 && w.stop != nil
	w.note("rotate %s to %s, to #%d, writer late %v", filepath.Base(filepath.Dir(l.path)), filepath.Base(name), l.n, late)
	if late { // the writer has not noticed yet
		appendFile(w.t, name, w.line(l)+"\n")
	}
	if w.rng.IntN(2) == 0 {
		w.write(l)
	}
}

// copyTruncate copies the file and begins it anew in place.
func (w *world) copyTruncate(l *worldLog) {
	if !l.exists {
		return
	}
	w.complete(l)
	b, err := os.ReadFile(l.path)
	if err != nil {
		w.t.Fatal(err)
	}
	if len(b) == 0 {
		return
	}
	name := w.shifted(l)
	w.note("copy %s to %s, to #%d, and truncate", filepath.Base(filepath.Dir(l.path)), filepath.Base(name), l.n)
	for len(b) > 0 { // in pieces, as cp does
		n := min(len(b), 1+w.rng.IntN(len(b)))
		appendFile(w.t, name, string(b[:n]))
		b = b[n:]
		if w.rng.IntN(4) == 0 {
			time.Sleep(5 * time.Millisecond)
		}
	}
	l.rotated = append([]string{name}, l.rotated...)
	if err := os.Truncate(l.path, 0); err != nil {
		w.t.Fatal(err)
	}
	if w.rng.IntN(2) == 0 {
		w.write(l)
	}
}

// compress replaces a rotated file by a compressed one.
func (w *world) compress(l *worldLog) {
	for i, name := range l.rotated {
		if strings.HasSuffix(name, ".gz") || w.rng.IntN(2) == 0 {
			continue
		}
		w.note("compress %s of %s", filepath.Base(name), filepath.Base(filepath.Dir(l.path)))
		compressFile(w.t, name)
		l.rotated[i] = name + ".gz"
		return
	}
}

// compressFile does what gzip does, in two steps that can be seen from outside.
func compressFile(tb testing.TB, name string) {
	tb.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		tb.Fatal(err)
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(b); err != nil {
		tb.Fatal(err)
	}
	if err := z.Close(); err != nil {
		tb.Fatal(err)
	}
	half := packed.Len() / 2
	appendFile(tb, name+".gz", packed.String()[:half])
	time.Sleep(time.Millisecond)
	appendFile(tb, name+".gz", packed.String()[half:])
	if err := os.Remove(name); err != nil {
		tb.Fatal(err)
	}
}

// truncate begins a file anew in place, once everything has been read.
func (w *world) truncate(l *worldLog) {
	if !l.exists || w.stop == nil || w.down {
		return
	}
	w.complete(l)
	w.settle()
	w.note("truncate %s", l.path)
	if err := os.Truncate(l.path, 0); err != nil {
		w.t.Fatal(err)
	}
	if w.rng.IntN(2) == 0 {
		w.write(l)
	}
}

// replace writes a file beside the log's and gives it the log's name, once everything has been
// read. It may be read before that.
func (w *world) replace(l *worldLog) {
	if !l.exists || w.stop == nil || w.down {
		return
	}
	w.complete(l)
	w.settle()
	fresh := *l
	fresh.path += "-new"
	w.write(&fresh)
	w.complete(&fresh)
	l.n = fresh.n
	if w.rng.IntN(2) == 0 {
		time.Sleep(time.Duration(w.rng.IntN(30)) * time.Millisecond)
	}
	w.note("replace %s, to #%d", filepath.Base(filepath.Dir(l.path)), l.n)
	if err := os.Rename(fresh.path, l.path); err != nil {
		w.t.Fatal(err)
	}
}

// remove deletes a file that the agent has open, read or not.
func (w *world) remove(l *worldLog) {
	if !l.exists || w.stop == nil {
		return
	}
	w.complete(l)
	w.note("delete %s", l.path)
	if w.down {
		time.Sleep(50 * time.Millisecond)
		waitOpened(w.t, w.agent, l.path)
	} else {
		w.settle()
	}
	if err := os.Remove(l.path); err != nil {
		w.t.Fatal(err)
	}
	l.exists = false
	if w.down {
		// Deleted and unread: it must be read before the agent stops.
		w.note("server up again")
		w.sink.setJudge(nil)
		w.down = false
		w.settle()
	}
}

func (w *world) toggle() {
	if w.stop != nil {
		w.note("agent stops")
		w.stop()
		w.stop = nil
		return
	}
	w.note("agent starts")
	w.agent, w.stop = start(w.t, w.cfg, Options{StopTimeout: 50 * time.Millisecond, Budget: 64 << 10, Logger: w.logger()})
	waitRunning(w.t, w.agent)
}

// fault makes the server behave badly, or well again.
func (w *world) fault() {
	w.down = false
	switch w.rng.IntN(5) {
	case 0:
		w.note("server well")
		w.sink.setJudge(nil)
	case 1, 2:
		status := []int{429, 500, 503, 401, 404}[w.rng.IntN(5)]
		w.note("server answers %d", status)
		w.down = true
		w.sink.setJudge(func([]string) (int, time.Duration) { return status, 0 })
	case 3:
		w.note("server hangs")
		w.down = true
		w.sink.setJudge(func([]string) (int, time.Duration) { return 500, time.Second })
	default:
		w.note("server fails at times, after storing or before")
		var n int
		r := rand.New(rand.NewPCG(w.rng.Uint64(), 2))
		w.sink.setJudge(func([]string) (int, time.Duration) {
			w.sink.mu.Lock()
			defer w.sink.mu.Unlock()
			switch n++; r.IntN(4) {
			case 0:
				return 503, 0
			case 1:
				return -500, 0
			}
			return 0, time.Duration(r.IntN(10)) * time.Millisecond
		})
	}
}

// settle waits until everything written is stored.
func (w *world) settle() {
	w.t.Helper()
	deadline := time.Now().Add(settleWithin)
	for time.Now().Before(deadline) {
		if len(w.missing()) == 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	missing := w.missing()
	w.t.Fatalf("%d of %d lines never arrived, among them %.100q", len(missing), len(w.want), missing[0])
}

// missing lists lines that were finished and are not stored.
func (w *world) missing() []string {
	open := map[string]bool{}
	for _, l := range w.logs {
		if l.partial != "" {
			open[fmt.Sprintf("%s #%d ", filepath.Base(filepath.Dir(l.path)), l.n)] = true
		}
	}
	got := w.sink.lines()
	var out []string
	for s := range w.want {
		if got[s] == 0 && !open[s[:strings.LastIndexByte(s, ' ')+1]] {
			out = append(out, s)
		}
	}
	return out
}

// verify checks that each line is there once, that nothing else is, and that the lines of
// a log are in order.
func (w *world) verify() {
	for line, n := range w.sink.lines() {
		switch {
		case !w.want[line]:
			w.t.Fatalf("a line that nobody wrote: %.100q", line)
		case n > 1:
			w.t.Fatalf("stored %d times: %.100q, at %v", n, line, w.sink.times(line))
		}
	}
}

// settleWithin is how long the agent may take for what was written.
const settleWithin = 60 * time.Second
