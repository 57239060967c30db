package integration

import (
	"math/rand/v2"
	"testing"
)

// TestCRIFilesEndToEnd: many containers' files through agent and server. Half of the lines
// are there when the agent starts; the rest are written while it reads.
func TestCRIFilesEndToEnd(t *testing.T) {
	const files = 200
	each := size(100, 500, 5000)
	rng := newRand(t)
	f := newFleet(t, files, each)
	grow(t, f, rng, each/2)
	s := startServer(t, roomy...)
	a := startAgent(t, s, f.dir)
	for part := range 10 {
		grow(t, f, rng, each/2*(part+1)/10-each/2*part/10)
	}
	s.settled(countAll, f.end(), files*each)
	f.verify(t, s)
	a.stop()
	s.stop()
	s.start()
	f.verify(t, s)
}

// grow appends so many lines to each file, in an order of its own each time.
func grow(t testing.TB, f *fleet, rng *rand.Rand, lines int) {
	t.Helper()
	for _, i := range rng.Perm(len(f.files)) {
		if err := f.files[i].write(rng, lines); err != nil {
			t.Fatal(err)
		}
	}
}
