package memlimit

import (
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/skaldlog/skald/internal/fault"
)

func TestCgroupLimit(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"version 2": {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1073741824\n"}, 1 << 30},
		"a parent's": {map[string]string{
			"proc/self/cgroup":                  "0::/pods/one\n",
			"sys/fs/cgroup/memory.max":          "max\n",
			"sys/fs/cgroup/pods/memory.max":     "1000\n",
			"sys/fs/cgroup/pods/one/memory.max": "2000\n",
		}, 1000},
		"version 1": {map[string]string{
			"proc/self/cgroup":                             "5:cpu,cpuacct:/x\n4:memory:/x\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes":   "9223372036854771712\n",
			"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "4096\n",
		}, 4096},
		"no limit": {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, 0},
		"nonsense": {map[string]string{"proc/self/cgroup": "x\n0::\n::\n", "sys/fs/cgroup/memory.max": "-1"}, 0},
		"nothing":  {nil, 0},
	} {
		files := fstest.MapFS{}
		for path, text := range c.files {
			files[path] = &fstest.MapFile{Data: []byte(text)}
		}
		if got, ok := cgroupLimit(files); got != c.want || ok != (c.want > 0) {
			t.Errorf("%s: %d, %v; want %d", name, got, ok, c.want)
		}
	}
}

func TestGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var live, total int64
		g := &Guard{limit: 1000, shed: 0.8, read: func() (int64, int64) { return live, total }}
		for _, c := range []struct {
			live, total int64
			short       bool
		}{{100, 900, false}, {700, 1000, false}, {900, 1000, true}, {500, 1200, true}, {500, 1000, false}} {
			live, total = c.live, c.total
			time.Sleep(sampled)
			if err := g.Check(); (err != nil) != c.short || err != nil && fault.Of(err) != fault.Unavailable {
				t.Errorf("%d alive, %d in all of 1000: %v", live, total, err)
			}
		}
		live = 2000
		if err := g.Check(); err != nil {
			t.Error("a reading should count for a while")
		}
	})
	if err := (*Guard)(nil).Check(); err != nil {
		t.Error(err)
	}
	if live, total := readRuntime(); live < 0 || total <= 0 {
		t.Errorf("the runtime says %d, %d", live, total)
	}
}

func TestFitting(t *testing.T) {
	for memory, want := range map[int64]int64{
		10 << 30: 9 << 30, 384 << 20: 320 << 20, 100 << 20: 50 << 20,
	} {
		if got := fitting(memory, 0.9); got != want {
			t.Errorf("in %d bytes the limit is %d, want %d", memory, got, want)
		}
	}
}
