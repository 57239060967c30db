package pipeline

import (
	"fmt"
	"net/netip"
	"strings"
)

// ipMatcher is a set of addresses: one, a network, or a range.
type ipMatcher struct {
	addr     netip.Addr
	prefix   netip.Prefix
	from, to netip.Addr
}

// newIPMatcher parses "address", "address/bits" or "from-to".
func newIPMatcher(pattern string) (*ipMatcher, error) {
	if a, err := netip.ParseAddr(pattern); err == nil {
		return &ipMatcher{addr: a}, nil
	}
	if p, err := netip.ParsePrefix(pattern); err == nil {
		return &ipMatcher{prefix: p}, nil
	}
	if from, to, ok := strings.Cut(pattern, "-"); ok {
		f, err1 := netip.ParseAddr(from)
		t, err2 := netip.ParseAddr(to)
		if err1 == nil && err2 == nil && f.Zone() == "" && t.Zone() == "" && f.BitLen() == t.BitLen() && !t.Less(f) {
			return &ipMatcher{from: f, to: t}, nil
		}
	}
	return nil, fmt.Errorf("ip: invalid pattern: %q", pattern)
}

func (m *ipMatcher) has(a netip.Addr) bool {
	switch {
	case m.addr.IsValid():
		return m.addr == a
	case m.prefix.IsValid():
		return m.prefix.Contains(a)
	}
	return a.Zone() == "" && a.BitLen() == m.from.BitLen() && !a.Less(m.from) && !m.to.Less(a)
}

// ipTest looks for an address in a text.
type ipTest struct{ m *ipMatcher }

// Character classes of the scan for addresses.
const (
	ipDigit = 1 << iota // 0-9
	ipV4                // may occur in an IPv4 address
	ipV6                // may occur in an IPv6 address
	ipHex
)

var ipClass = func() (t [256]uint8) {
	for c := range 256 {
		switch {
		case c >= '0' && c <= '9':
			t[c] = ipDigit | ipV4 | ipV6 | ipHex
		case c >= 'a' && c <= 'f', c >= 'A' && c <= 'F':
			t[c] = ipV6 | ipHex
		case c == '.':
			t[c] = ipV4 | ipV6
		case c == ':':
			t[c] = ipV6
		}
	}
	return t
}()

// match looks at each run of characters that starts like an address. After a run that is
// none, the search goes on behind it and the character that ended it.
func (t *ipTest) match(s []byte) bool {
	for i := 0; i < len(s); i++ {
		if ipClass[s[i]]&ipV6 == 0 {
			continue
		}
		var class uint8
		switch {
		case looksV4(s[i:]):
			class = ipV4
		case looksV6(s[i:]):
			class = ipV6
		default:
			continue
		}
		end := i
		for end < len(s) && ipClass[s[end]]&class != 0 {
			end++
		}
		if class == ipV4 {
			if a, ok := parseV4(s[i:end]); ok && t.m.has(a) {
				return true
			}
		} else if mayBeV6(s[i:end]) {
			if a, err := netip.ParseAddr(view(s[i:end])); err == nil && t.m.has(a) {
				return true
			}
		}
		i = end
	}
	return false
}

// maxV6 is the length of the longest spelling of an address.
const maxV6 = 45

// mayBeV6 reports whether a run has the right number of colons. Times such as 10:15:30 do
// not.
func mayBeV6(s []byte) bool {
	colons := 0
	for i, c := range s {
		if c != ':' {
			continue
		}
		if i > 0 && s[i-1] == ':' {
			return len(s) <= maxV6
		}
		colons++
	}
	return (colons == 7 || colons == 6) && len(s) <= maxV6
}

// parseV4 parses four numbers from 0 to 255 without leading zeros. Most of what looks like
// an address is a number with a point in it, and should cost nothing.
func parseV4(s []byte) (netip.Addr, bool) {
	var b [4]byte
	part, n, digits := 0, 0, 0
	for _, c := range s {
		if c == '.' {
			if digits == 0 || part == 3 {
				return netip.Addr{}, false
			}
			b[part] = byte(n)
			part, n, digits = part+1, 0, 0
			continue
		}
		if digits > 0 && n == 0 {
			return netip.Addr{}, false
		}
		n = n*10 + int(c-'0')
		if digits++; n > 255 {
			return netip.Addr{}, false
		}
	}
	if part != 3 || digits == 0 {
		return netip.Addr{}, false
	}
	b[3] = byte(n)
	return netip.AddrFrom4(b), true
}

// looksV4 wants a digit, and a dot among the next three characters.
func looksV4(s []byte) bool {
	return len(s) > 3 && ipClass[s[0]]&ipDigit != 0 && (s[1] == '.' || s[2] == '.' || s[3] == '.')
}

// looksV6 wants up to four hexadecimal digits and a colon, or two colons and a digit.
func looksV6(s []byte) bool {
	if len(s) < 5 {
		return false
	}
	if s[0] == ':' {
		return s[1] == ':' && ipClass[s[2]]&ipHex != 0
	}
	for i := 0; i < 5; i++ {
		if s[i] == ':' {
			return i > 0
		}
		if ipClass[s[i]]&ipHex == 0 {
			return false
		}
	}
	return false
}
