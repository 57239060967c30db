package integration

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// program is the program under test, built once.
var program string

func TestMain(m *testing.M) {
	if spec := os.Getenv(greedVariable); spec != "" {
		if err := beGreedy(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	if program = os.Getenv("SKALD_PROGRAM"); program != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "skald-integration-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "skald")
	args, cgo := []string{"build", "-o", program, "../../cmd/skald"}, "CGO_ENABLED=0"
	if raceDetector {
		args, cgo = append([]string{"build", "-race"}, args[1:]...), "CGO_ENABLED=1"
	}
	build := exec.Command("go", args...)
	build.Env = append(os.Environ(), cgo)
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build ./cmd/skald: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// full reports whether the sizes are those that a release must show.
func full() bool { return os.Getenv("SKALD_FULL") == "1" }

// size chooses between the sizes of a quick, a normal and a full run.
func size(short, normal, all int) int {
	switch {
	case full():
		return all
	case testing.Short():
		return short
	}
	return normal
}

// newRand returns the test's source of chance and prints how to repeat it. What processes
// do meanwhile is not repeated, only the choices.
func newRand(t testing.TB) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SKALD_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("SKALD_SEED=%s: %v", text, err)
		}
	}
	t.Logf("SKALD_SEED=%d repeats the choices of this run", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// tempDir is a directory of the test that SKALD_KEEP=1 leaves behind.
func tempDir(t testing.TB, name string) string {
	t.Helper()
	if os.Getenv("SKALD_KEEP") != "1" {
		dir := filepath.Join(t.TempDir(), name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	dir, err := os.MkdirTemp("", "skald-"+name+"-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s is kept: %s", name, dir)
	return dir
}

// patience is how long a test waits for something that makes no progress. It is no
// promise of the system; it only ends tests that would hang on a slow machine.
const patience = 2 * time.Minute

// eventually waits until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after %s still not: %s", patience, what)
		}
	}
}
