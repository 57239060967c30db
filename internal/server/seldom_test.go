package server

import (
	"testing"
	"time"
)

func TestSeldom(t *testing.T) {
	var s Seldom
	at := time.Unix(100, 0)
	told, untold := 0, 0
	for range 1000 { // every 10 ms
		if n, ok := s.Now(at); ok {
			told++
			untold += n
		}
		at = at.Add(10 * time.Millisecond)
	}
	if told != 10 || untold != 9*99 {
		t.Errorf("%d told, which tell of %d more; want 10 and 891", told, untold)
	}
}
