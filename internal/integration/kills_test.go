package integration

import (
	"math/rand/v2"
	"testing"
	"time"
)

// TestKillsLoseNothing: kill -9 ten times each of server and agent, at any moment, while
// files grow and are rotated, while memtables are written out and segments uploaded: every
// line is there, and none is there twice.
func TestKillsLoseNothing(t *testing.T) {
	const files, kills = 200, 10
	each := size(100, 500, 5000)
	rng := newRand(t)
	f := newFleet(t, files, each)
	s := startServer(t, append([]string{
		// Everything that happens in an hour happens in these seconds.
		"-ingester.freeze-age=500ms", "-ingester.upload-age=1s", "-catalog.ttl=500ms", "-ingester.keep-after-upload=2s",
	}, roomy...)...)
	a := startAgent(t, s, f.dir)
	// An agent that never saw a container's file cannot tell its rotated ones from those that
	// are none of its business, so each container is seen once before the trouble starts.
	grow(t, f, rng, each/20)
	s.settled(countAll, f.end(), files*(each/20))
	each -= each / 20

	victims := rng.Perm(2 * kills)
	for round, victim := range victims {
		// The files go on growing while a process dies and comes back.
		from, to := each*round/len(victims), each*(round+1)/len(victims)
		grown := make(chan error, 1)
		writer := rand.New(rand.NewPCG(rng.Uint64(), 2))
		rotateEach := rng.IntN(2) == 0
		go func() { grown <- growAndRotate(f, writer, to-from, rotateEach) }()
		time.Sleep(time.Duration(rng.IntN(600)) * time.Millisecond)
		if victim < kills {
			s.kill()
			time.Sleep(time.Duration(rng.IntN(200)) * time.Millisecond)
			s.start()
		} else {
			a.kill()
			time.Sleep(time.Duration(rng.IntN(200)) * time.Millisecond)
			a.start(t)
		}
		if err := <-grown; err != nil {
			t.Fatal(err)
		}
		if !s.alive() || !a.alive() {
			t.Fatalf("round %d: server alive: %v, agent alive: %v, nobody killed it", round, s.alive(), a.alive())
		}
	}
	s.settled(countAll, f.end(), f.total())
	f.verify(t, s)

	// What is in memory, in segments and in the store stays right when all of it has moved.
	a.stop()
	s.flush()
	f.verifyCounts(t, s)
	s.kill()
	s.start()
	f.verify(t, s)
	s.stop()
	if t.Failed() {
		t.Logf("the files of one container:\n%s", f.files[0].listing())
	}
}

// growAndRotate appends to every file in small pieces. At most once in the meantime each
// file is rotated: all of them in one go, or each at a moment of its own.
func growAndRotate(f *fleet, rng *rand.Rand, lines int, rotateEach bool) error {
	half := lines / 2
	for _, i := range rng.Perm(len(f.files)) {
		file := f.files[i]
		if err := file.write(rng, half); err != nil {
			return err
		}
		if rotateEach && file.lines > 0 {
			if err := file.rotate(); err != nil {
				return err
			}
		}
		time.Sleep(time.Millisecond)
	}
	for _, i := range rng.Perm(len(f.files)) {
		file := f.files[i]
		if !rotateEach && file.lines > 0 {
			if err := file.rotate(); err != nil {
				return err
			}
		}
		if err := file.write(rng, lines-half); err != nil {
			return err
		}
	}
	return nil
}
