package packed

import "testing"

// What of a needle must stand in packed lines, whatever is taken out of them.
func TestCore(t *testing.T) {
	f := func(needle, want string) {
		t.Helper()
		if from, to := Core([]byte(needle), false); needle[from:to] != want {
			t.Errorf("%q: got %q, want %q", needle, needle[from:to], want)
		}
	}
	// Words stand, though their letters be digits: ids do not touch letters.
	f("error", "error")
	f("succeeded", "succeeded")
	f("connection reset by peer", "connection reset by peer")
	f("feed the", "feed the"[4:]) // the end of an id
	f("feed", "")
	f(" decade ", " decade ") // too short for one
	f(`"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736"`, `"trace_id":"`)
	f("4bf92f3577b34da6a3ce929d0e0e4736", "")
	f("u=4bf92f35-77b3", "u=")
	f("0x4bf92f", "x")         // a timestamp can end in 0
	f("status=500", "status=") // could be the beginning of a year
	f(" 500 ", " 500 ")
	f(`" 503 1`, `" 503 `)
	f("[14/Mar/2026", "[")
	f("Mar", "")
	f("March", "March")
	f("T12:", "")
	f("I0304", "I")
	f("é\xf9\xf8ab\xff", "é")
	if from, to := Core([]byte("4t12:34:56 x"), true); from != 10 || to != 12 {
		t.Errorf("folded: %d to %d", from, to)
	}
}
