package segment

import (
	"math/rand/v2"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/skaldlog/skald/internal/packed"
)

// The classes of bytes are those of the definition, and the stretches are all that are long enough.
func TestLineClasses(t *testing.T) { eachWay(t, testClasses) }

func testClasses(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 11))
	hex, long := regexp.MustCompile("[0-9a-f]{12,}"), regexp.MustCompile("[0-9a-fA-F-]{32,}")
	var got lineClasses
	found := 0
	for range 1000 {
		lines := make([]byte, rng.IntN(700))
		most := 1 + rng.IntN(256)
		share := 1 + rng.IntN(60)
		for i := range lines {
			lines[i] = "0123456789abcdef-0123456789ABCDEF"[rng.IntN(33)%(16+rng.IntN(18))]
			if rng.IntN(share) == 0 {
				lines[i] = byte(rng.IntN(most))
			}
		}
		spans := func(all [][]int) (out []span) {
			for _, at := range all {
				out = append(out, span{at[0], at[1]})
			}
			return out
		}
		want := lineClasses{hex: spans(hex.FindAllIndex(lines, -1)), long: spans(long.FindAllIndex(lines, -1)), plain: true}
		for _, b := range lines {
			want.plain = want.plain && b < packed.First
		}
		found += len(want.hex) + len(want.long)
		got.find(lines)
		got.digits, got.ids = nil, nil
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(lineClasses{}, span{}), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("%q (-want +got):\n%s", lines, diff)
		}
	}
	if found < 1000 {
		t.Errorf("only %d stretches", found)
	}
}
