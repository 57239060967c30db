package agent

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/skaldlog/skald/agent/positions"
)

// TestFaults does to the agent, its files, its disk and its server what happens to them in
// the field, one fault a row, and prints what became of the lines: `go test ./agent -run
// TestFaults -v`. Lost must be 0 in each row, and so must lines that the server shows twice;
// repeats are what was sent again and recognised by the store.
func TestFaults(t *testing.T) {
	table := make([]string, len(faults))
	t.Run("rows", func(t *testing.T) {
		for i, f := range faults {
			t.Run(strings.NewReplacer(" ", "_", ",", "", ":", "").Replace(f.name), func(t *testing.T) {
				if testing.Short() && strings.HasPrefix(f.name, "kill -9: snapshot") {
					t.Skip("short")
				}
				t.Parallel()
				table[i] = f.prove(t)
			})
		}
	})
	t.Logf("%-58s %7s %5s %6s %8s", "fault", "lines", "lost", "twice", "repeats")
	for _, row := range table {
		if row != "" {
			t.Log(row)
		}
	}
}

type faultRow struct {
	name string
	run  func(r *faultRun)
}

// prove runs the row, demands that nothing is lost or stored twice, and returns its figures.
func (f faultRow) prove(t *testing.T) string {
	t.Helper()
	r := newFaultRun(t)
	if f.run(r); t.Skipped() {
		return ""
	}
	r.finish()
	lost, twice := r.count()
	_, repeats := r.sink.counts()
	if lost > 0 || twice > 0 {
		t.Errorf("%d lines lost, %d stored twice", lost, twice)
	}
	return fmt.Sprintf("%-58s %7d %5d %6d %8d", f.name, len(r.want), lost, twice, repeats)
}

var faults = append([]faultRow{
	{"200 kills -9 at random", (*faultRun).randomKills},
	{"server refuses connections, 3 rotations", (*faultRun).refused},
	{"server hangs, 3 rotations", outage(func([]string) (int, time.Duration) { return 500, time.Minute })},
	{"server answers 500, 3 rotations", outage(func([]string) (int, time.Duration) { return 500, 0 })},
	{"server answers 429, 3 rotations", outage(func([]string) (int, time.Duration) { return 429, 0 })},
	{"server is slow, 3 rotations", outage(func([]string) (int, time.Duration) { return 0, 30 * time.Millisecond })},
	{"server stores and answers 503, 3 rotations", outage(func([]string) (int, time.Duration) { return -503, 0 })},
	{"stopped over 1 rotation", stopped(1, false)},
	{"stopped over 2 rotations", stopped(2, false)},
	{"stopped over 5 rotations", stopped(5, false)},
	{"stopped over 5 rotations, older ones compressed", stopped(5, true)},
	{"rotated and compressed while behind", (*faultRun).compressedBehind},
	{"born and rotated before it was seen", (*faultRun).bornAndRotated},
	{"copytruncate while behind", (*faultRun).copytruncate},
	{"copytruncate, copies match the pattern", (*faultRun).copiesMatch},
	{"truncated, and longer than before at once", (*faultRun).regrown},
	{"deleted while unread", (*faultRun).deletedUnread},
	{"directory deleted while unread", (*faultRun).directoryDeleted},
	{"inode used again, same first bytes", (*faultRun).inodeReused},
	{"1000 files with the same first 4 KiB", (*faultRun).sameHeads},
	{"links swapped as in a ConfigMap", (*faultRun).linksSwapped},
	{"file replaced by rename", (*faultRun).replaced},
	{"quiet file rotated, writer late", (*faultRun).writerLate},
	{"positions file empty", damaged(func([]byte) []byte { return nil })},
	{"positions file cut in half", damaged(func(b []byte) []byte { return b[:len(b)/2] })},
	{"positions file of a later version", damaged(func(b []byte) []byte { return []byte(strings.Replace(string(b), "positions 1", "positions 9", 1)) })},
	{"disk of the positions full", (*faultRun).diskFull},
	{"lines of 1 MiB", (*faultRun).longLines},
	{"CRI partial lines over kill and rotation", (*faultRun).partials},
	{"one of two servers away", (*faultRun).twoServers},
	{"ESTALE and EMFILE for a while, rotations", (*faultRun).fileTrouble},
	{"clock jumps by hours and years, rotations", (*faultRun).clockJumps},
	{"no inotify, rotations", (*faultRun).noInotify},
	{"UTF-16 over a restart", (*faultRun).utf16},
}, killsAt()...)

// faultRun is the world of one row.
type faultRun struct {
	*testing.T
	sink *sink
	dir  string
	path string
	cfg  *Config
	opts Options
	want map[string]bool

	agent *Agent
	stop  func()
	n     int // lines so far
	gens  int // rotations so far
}

func newFaultRun(t *testing.T) *faultRun {
	r := &faultRun{T: t, sink: newSink(t), dir: t.TempDir(), want: map[string]bool{}}
	r.path = filepath.Join(r.dir, "logs/app.log")
	r.cfg = testConfig(t, r.sink.URL, r.dir, "")
	r.opts = Options{StopTimeout: 50 * time.Millisecond, Budget: 64 << 10}
	return r
}

// text makes n new lines and expects them.
func (r *faultRun) text(n int) string {
	var b strings.Builder
	for range n {
		r.n++
		line := fmt.Sprintf("line %d %s", r.n, strings.Repeat("x", r.n%100))
		r.want[line] = true
		b.WriteString(line + "\n")
	}
	return b.String()
}

func (r *faultRun) write(n int) { appendFile(r.T, r.path, r.text(n)) }

func (r *faultRun) rotate() string {
	r.gens++
	name := fmt.Sprintf("%s.%d", r.path, r.gens)
	r.must(os.Rename(r.path, name))
	return name
}

func (r *faultRun) must(err error) {
	if err != nil {
		r.Helper()
		r.Fatal(err)
	}
}

func (r *faultRun) start() {
	if r.stop == nil {
		r.agent, r.stop = start(r.T, r.cfg, r.opts)
		waitRunning(r.T, r.agent)
	}
}

func (r *faultRun) end() {
	if r.stop != nil {
		r.stop()
		r.stop = nil
	}
}

// settle waits until the server has everything, as long as more arrives.
func (r *faultRun) settle() {
	r.Helper()
	best, since := len(r.want)+1, time.Now()
	for time.Since(since) < 30*time.Second {
		lost, _ := r.count()
		if lost == 0 {
			return
		}
		if lost < best {
			best, since = lost, time.Now()
		}
		time.Sleep(5 * time.Millisecond)
	}
	r.Errorf("%d of %d lines did not arrive", best, len(r.want))
}

func (r *faultRun) finish() {
	r.sink.setJudge(nil)
	r.start()
	r.settle()
	r.end()
}

func (r *faultRun) count() (lost, twice int) {
	got := r.sink.lines()
	for line := range r.want {
		if got[line] == 0 {
			lost++
		}
	}
	for _, n := range got {
		if n > 1 {
			twice++
		}
	}
	return lost, twice
}

// child writes the configuration for launch.
func (r *faultRun) child(stages string) {
	r.must(os.WriteFile(filepath.Join(r.dir, "agent.yaml"), []byte(fmt.Sprintf(`
server: {disable: true}
positions: {filename: %[1]s/state/positions.yaml, sync_period: 1s}
clients: [{url: URL/loki/api/v1/push, batchwait: 10ms, batchsize: 5000, backoff_config: {min_period: 5ms, max_period: 20ms}}]
scrape_configs:
  - job_name: test
    static_configs: [{labels: {job: test, __path__: "%[1]s/logs/**/*.log"}}]
    pipeline_stages: %[2]s
`, r.dir, stages)), 0o600))
}

// runFor runs an agent in a process of its own and kills it, if it does not kill itself at a
// step before.
func (r *faultRun) runFor(d time.Duration, step string) (reached bool) {
	cmd := launch(r.T, r.sink.URL, r.dir, step)
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it is killed
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-time.After(d):
		_ = cmd.Process.Kill() // perhaps it has killed itself
		<-done
		return false
	}
}

// runTo runs an agent that kills itself at a step.
func (r *faultRun) runTo(step string) {
	r.Helper()
	if !r.runFor(time.Minute, step) {
		r.Errorf("the agent never came to the step %q", step)
	}
}

// runUntilKnown kills an agent when its state on the disk names the file at the path.
func (r *faultRun) runUntilKnown() {
	r.Helper()
	cmd := launch(r.T, r.sink.URL, r.dir, "")
	eventually(r.T, "the positions name the file", func() bool {
		store, err := positions.Open(filepath.Join(r.dir, "state/positions.yaml"), positions.Options{ReadOnly: true})
		return err == nil && slices.ContainsFunc(store.Records(""), func(rec positions.Record) bool { return rec.Path == r.path })
	})
	_ = cmd.Process.Kill() // nothing else can end it
	_ = cmd.Wait()
}

// runUntilSeen kills an agent when it has sent something: what is renamed before an agent has
// ever run is not its business.
func (r *faultRun) runUntilSeen() {
	cmd := launch(r.T, r.sink.URL, r.dir, "")
	eventually(r.T, "the first lines", func() bool { return len(r.sink.lines()) > 0 })
	_ = cmd.Process.Kill() // nothing else can end it
	_ = cmd.Wait()
}

func (r *faultRun) randomKills() {
	kills := 10
	if os.Getenv("SKALD_FULL") == "1" {
		kills = 200
	}
	r.child("[]")
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	r.write(10)
	r.runUntilSeen()
	for range kills {
		r.write(rng.IntN(200))
		if rng.IntN(3) == 0 {
			_ = os.Rename(r.path, fmt.Sprintf("%s.%d", r.path, r.n))
		}
		r.runFor(time.Duration(rng.IntN(300))*time.Millisecond, "")
	}
}

// killsAt are the places between reading and the next snapshot.
func killsAt() (out []faultRow) {
	for _, step := range []string{
		"read", "committed", "before push", "acknowledged", "released", "journal unwritten", "journal written",
		"journal begun", "snapshot half written", "snapshot synced", "snapshot linked", "snapshot renamed",
	} {
		out = append(out, faultRow{"kill -9: " + step, func(r *faultRun) {
			r.child("[]")
			r.write(100)
			r.runUntilSeen()
			r.write(100)
			r.runTo(step)
			r.write(100)
			r.rotate()
			r.write(100)
			r.runTo(step)
		}})
	}
	return out
}

func outage(judge func([]string) (int, time.Duration)) func(*faultRun) {
	return func(r *faultRun) {
		r.cfg.Clients[0].Timeout = 300 * time.Millisecond
		r.start()
		r.write(50)
		r.settle()
		r.sink.setJudge(judge)
		for range 3 {
			r.write(1000)
			time.Sleep(30 * time.Millisecond)
			r.rotate()
		}
		r.write(50)
		time.Sleep(50 * time.Millisecond)
	}
}

func (r *faultRun) refused() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	r.must(err)
	addr := l.Addr().String()
	r.must(l.Close())
	r.cfg = testConfig(r.T, "http://"+addr, r.dir, "")
	r.start()
	for range 3 {
		r.write(1000)
		time.Sleep(30 * time.Millisecond)
		r.rotate()
	}
	r.write(10)
	l, err = net.Listen("tcp", addr)
	if err != nil {
		r.Skip("the port was taken meanwhile")
	}
	srv := &httptest.Server{Listener: l, Config: r.sink.Config}
	srv.Start()
	r.Cleanup(srv.Close)
}

func stopped(rotations int, compress bool) func(*faultRun) {
	return func(r *faultRun) {
		r.write(100)
		r.start()
		r.settle()
		r.end()
		for i := range rotations {
			r.write(100)
			name := r.rotate()
			if compress && i < rotations-1 {
				compressFile(r.T, name)
			}
		}
		r.write(100)
	}
}

func (r *faultRun) compressedBehind() {
	r.write(100)
	r.start()
	r.settle()
	r.sink.setJudge(func([]string) (int, time.Duration) { return 503, 0 })
	for range 3 {
		r.write(2000)
		time.Sleep(20 * time.Millisecond)
		compressFile(r.T, r.rotate())
	}
	r.end() // so that no descriptor helps
}

func (r *faultRun) bornAndRotated() {
	appendFile(r.T, filepath.Join(r.dir, "logs/other.log"), r.text(1))
	r.start()
	r.settle()
	for i := range 50 {
		r.path = filepath.Join(r.dir, fmt.Sprintf("logs/pod-%d/0.log", i))
		r.write(10)
		r.must(os.Rename(r.path, r.path+".20260101-000001"))
		if i%2 == 0 {
			r.write(10)
		}
	}
}

func (r *faultRun) copytruncate() {
	r.write(100)
	r.start()
	r.settle()
	r.sink.setJudge(func([]string) (int, time.Duration) { return 503, 0 })
	for i := range 3 {
		r.write(1000)
		r.copyTruncate(fmt.Sprintf("%s.%d", r.path, i))
		time.Sleep(20 * time.Millisecond)
	}
	r.write(10)
}

func (r *faultRun) copyTruncate(to string) {
	b, err := os.ReadFile(r.path)
	r.must(err)
	r.must(os.WriteFile(to, b, 0o644))
	r.must(os.Truncate(r.path, 0))
}

func (r *faultRun) copiesMatch() {
	r.cfg = configFor(r.T, r.sink.URL, r.dir, "logs/app.log*")
	r.start()
	for i := range 4 {
		r.write(200)
		if i%2 == 0 {
			r.settle()
		}
		for k := i; k > 0; k-- {
			r.must(os.Rename(fmt.Sprintf("%s.%d", r.path, k), fmt.Sprintf("%s.%d", r.path, k+1)))
		}
		r.copyTruncate(r.path + ".1")
		r.write(5)
		r.settle()
	}
}

// configFor is testConfig with another pattern.
func configFor(t *testing.T, url, dir, pattern string) *Config {
	t.Helper()
	cfg := testConfig(t, url, dir, "")
	cfg.ScrapeConfigs[0].Static[0].Labels["__path__"] = filepath.Join(dir, pattern)
	return cfg
}

func (r *faultRun) regrown() {
	r.start()
	for range 5 {
		r.write(20)
		r.settle()
		r.must(os.Truncate(r.path, 0))
		r.write(200) // longer than before, before anybody looks
		r.settle()
	}
}

func (r *faultRun) deletedUnread() {
	r.write(10)
	r.start()
	r.settle()
	r.sink.setJudge(func([]string) (int, time.Duration) { return 503, 0 })
	read := func() int64 { return r.agent.engine().lanes[0].tailer.Stats.LinesRead.Load() }
	before := read()
	r.write(5000)
	eventually(r.T, "reading goes on", func() bool { return read() > before }) // so the file is open
	r.must(os.Remove(r.path))
	r.write(100)
	waitOpened(r.T, r.agent, r.path)
}

func (r *faultRun) directoryDeleted() {
	r.path = filepath.Join(r.dir, "logs/pod/0.log")
	r.deletedUnread()
	r.must(os.RemoveAll(filepath.Dir(r.path)))
}

func (r *faultRun) inodeReused() {
	const banner = "the same first line of more than sixty-four bytes, which every file of this program has\n"
	r.must(os.MkdirAll(filepath.Dir(r.path), 0o755))
	r.start()
	for range 20 {
		r.must(os.WriteFile(r.path+"-new", []byte(banner+r.text(3)), 0o644))
		r.must(os.Rename(r.path+"-new", r.path))
		r.settle()
		r.must(os.Remove(r.path))
	}
	r.sink.forget(strings.TrimSpace(banner))
}

func (r *faultRun) sameHeads() {
	banner := strings.Repeat(strings.Repeat("=", 63)+"\n", 64)
	r.start()
	for i := range 1000 {
		r.path = filepath.Join(r.dir, fmt.Sprintf("logs/%d.log", i))
		appendFile(r.T, r.path, banner+r.text(3))
	}
	r.settle()
	r.sink.forget(strings.Repeat("=", 63))
}

func (r *faultRun) linksSwapped() {
	dir := filepath.Join(r.dir, "logs/volume")
	r.path = filepath.Join(dir, "app.log")
	r.must(os.MkdirAll(dir, 0o755))
	for i := range 5 {
		data := fmt.Sprintf("..%d", i)
		r.must(os.Mkdir(filepath.Join(dir, data), 0o755))
		appendFile(r.T, filepath.Join(dir, data, "app.log"), r.text(100))
		r.must(os.Symlink(data, filepath.Join(dir, "..data_tmp")))
		r.must(os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
		if i == 0 {
			r.must(os.Symlink("..data/app.log", r.path))
			r.cfg = configFor(r.T, r.sink.URL, r.dir, "logs/volume/*.log")
			r.start()
		}
		r.settle()
		r.write(10)
	}
}

func (r *faultRun) replaced() {
	r.start()
	for range 10 {
		old := maps.Clone(r.want)
		appendFile(r.T, r.path+"-new", r.text(50)) // which may be read before it gets its name
		eventually(r.T, "the file is read before it goes", func() bool {
			got := r.sink.lines()
			for line := range old {
				if got[line] == 0 {
					return false
				}
			}
			return true
		})
		r.must(os.Rename(r.path+"-new", r.path))
	}
}

// writerLate goes on writing to a file that was renamed after it had been quiet for long.
func (r *faultRun) writerLate() {
	r.opts.Tail = fastTail
	r.opts.Tail.Grace = 2 * time.Second
	r.start()
	r.write(50)
	r.settle()
	time.Sleep(r.opts.Tail.Grace + fastTail.Quiet)
	name := r.rotate()
	r.write(50)
	r.settle() // the new file is read
	time.Sleep(10 * fastTail.Interval)
	appendFile(r.T, name, r.text(10))
}

func damaged(f func([]byte) []byte) func(*faultRun) {
	return func(r *faultRun) {
		for range 2 {
			r.write(100)
			r.start()
			r.settle()
			r.end()
		}
		file := filepath.Join(r.dir, "state/positions.skald")
		b, err := os.ReadFile(file)
		r.must(err)
		r.must(os.WriteFile(file, f(b), 0o600))
		r.write(10)
	}
}

// small mounts a small file system for the positions.
func (r *faultRun) small() string {
	state := filepath.Join(r.dir, "state")
	r.must(os.MkdirAll(state, 0o755))
	if err := syscall.Mount("tmpfs", state, "tmpfs", 0, "size=64k"); err != nil {
		r.Skip("mounting a small disk needs root: ", err)
	}
	r.Cleanup(func() { _ = syscall.Unmount(state, syscall.MNT_DETACH) })
	return state
}

func (r *faultRun) diskFull() {
	state := r.small()
	r.write(100)
	r.start()
	r.settle()
	_ = os.WriteFile(filepath.Join(state, "filler"), make([]byte, 1<<20), 0o600) // as much as fits
	for range 3 {
		r.write(1000)
		r.settle()
		r.rotate()
	}
	r.must(os.Remove(filepath.Join(state, "filler")))
	time.Sleep(1500 * time.Millisecond) // the next snapshot
	r.end()
	r.write(100)
}

func (r *faultRun) longLines() {
	r.cfg.Clients[0].BatchSize = 1 << 20
	r.start()
	for i := range 5 {
		line := fmt.Sprintf("%d %s", i, strings.Repeat("y", 1<<20-10))
		r.want[line] = true
		appendFile(r.T, r.path, line[:300_000])
		if i == 2 {
			r.end()
			r.start()
		}
		appendFile(r.T, r.path, line[300_000:]+"\n")
	}
}

func (r *faultRun) partials() {
	r.child("[{cri: {}}]")
	r.cfg = testConfig(r.T, r.sink.URL, r.dir, "[{cri: {}}]")
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	put := func(stream, flag, text string) {
		at = at.Add(time.Millisecond)
		appendFile(r.T, r.path, at.Format(time.RFC3339Nano)+" "+stream+" "+flag+" "+text+"\n")
	}
	r.want["first"] = true
	put("stdout", "F", "first")
	r.runUntilSeen()
	for i := range 6 {
		whole := func(stream string) string { return fmt.Sprintf("%d %s a b c", i, stream) }
		r.want[whole("stdout")], r.want[whole("stderr")] = true, true
		put("stdout", "P", fmt.Sprintf("%d stdout a ", i))
		put("stderr", "P", fmt.Sprintf("%d stderr a ", i))
		if i == 0 {
			r.runUntilKnown()
		}
		r.runFor(150*time.Millisecond, "")
		if i%2 == 0 {
			r.rotate()
		}
		put("stderr", "P", "b ")
		put("stdout", "P", "b ")
		r.runFor(150*time.Millisecond, "")
		put("stdout", "F", "c")
		put("stderr", "F", "c")
	}
}

func (r *faultRun) twoServers() {
	dead := newSink(r.T)
	dead.setJudge(func([]string) (int, time.Duration) { return 500, time.Minute })
	r.cfg.Clients = append(r.cfg.Clients, testConfig(r.T, dead.URL, r.dir, "").Clients[0])
	r.start()
	for range 3 {
		r.write(2000)
		r.settle() // although the other has nothing
		r.rotate()
	}
	dead.setJudge(nil)
	r.write(1)
	eventually(r.T, "the other server has all", func() bool { return len(dead.lines()) == r.n })
}

// fileTrouble makes opening and reading files fail with errors that pass, while files are
// read, rotated and found again.
func (r *faultRun) fileTrouble() {
	var trouble, asked atomic.Int64
	r.opts.Tail = fastTail
	r.opts.Tail.Fault = func(op, _ string) error {
		if trouble.Load() == 0 {
			return nil
		}
		asked.Add(1)
		if op == "read" {
			return syscall.ESTALE
		}
		return syscall.Errno(trouble.Load())
	}
	noticed := func() {
		before := asked.Load()
		eventually(r.T, "the agent meets the trouble", func() bool { return asked.Load() >= before+3 })
	}
	for i, err := range []syscall.Errno{syscall.ESTALE, syscall.EMFILE, syscall.ESTALE} {
		r.start()
		r.write(50)
		r.settle()
		trouble.Store(int64(err))
		r.write(50)
		noticed()
		r.rotate()
		r.write(50)
		r.rotate()
		r.write(50)
		noticed()
		if i > 0 {
			r.end()
			r.write(50)
			r.rotate()
			r.write(50)
			r.start()
			noticed()
		}
		trouble.Store(0)
		r.settle()
		if n := r.agent.engine().lanes[0].tailer.Stats.Lost.Load(); n > 0 {
			r.Errorf("%d files were given up that were there all the time", n)
		}
	}
}

func (r *faultRun) clockJumps() {
	var clock wallClock
	r.opts.Now = clock.now
	r.start()
	for i, jump := range jumps {
		clock.set(jump)
		r.write(50)
		if i%2 == 0 {
			r.end()
			r.start()
		}
		r.settle()
		r.write(50)
		r.rotate()
		r.write(50)
	}
}

func (r *faultRun) noInotify() {
	r.opts.Tail = fastTail
	r.opts.Tail.NoWatch = true
	r.start()
	for range 5 {
		r.write(100)
		time.Sleep(20 * time.Millisecond)
		r.rotate()
	}
	r.write(1)
}

func (r *faultRun) utf16() {
	r.cfg.ScrapeConfigs[0].Encoding = "utf-16"
	put := func(s string) {
		b := make([]byte, 0, 2*len(s))
		for _, c := range s {
			b = append(b, byte(c), 0)
		}
		appendFile(r.T, r.path, string(b))
	}
	appendFile(r.T, r.path, "\xff\xfe")
	r.start()
	for range 3 {
		text := r.text(300)
		put(text[:len(text)/2])
		r.end()
		r.start()
		put(text[len(text)/2:])
		r.settle()
	}
}
