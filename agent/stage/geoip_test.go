package stage

import (
	"encoding/binary"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestGeoIP(t *testing.T) {
	dir := t.TempDir()
	city, asn := filepath.Join(dir, "city.mmdb"), filepath.Join(dir, "asn.mmdb")
	names := func(s string) map[string]any { return map[string]any{"names": map[string]any{"en": s, "de": "anders"}} }
	writeMMDB(t, city, netip.MustParsePrefix("203.0.113.0/24"), map[string]any{
		"city": names("Bergen"), "country": names("Norway"),
		"continent":    map[string]any{"code": "EU", "names": map[string]any{"en": "Europe"}},
		"location":     map[string]any{"latitude": 60.39, "longitude": 5.25, "time_zone": "Europe/Oslo"},
		"postal":       map[string]any{"code": "5003"},
		"subdivisions": []any{map[string]any{"iso_code": "46", "names": map[string]any{"en": "Vestland"}}},
	})
	writeMMDB(t, asn, netip.MustParsePrefix("203.0.113.0/24"), map[string]any{
		"autonomous_system_number": uint32(64500), "autonomous_system_organization": "Example Net",
	})
	stages := func(db, kind string) string {
		return `[{regex: {expression: "^(?P<ip>[^ ]+)"}}, {geoip: {db: ` + db + `, source: ip, db_type: ` + kind + `}}]`
	}
	t0 := "2024-05-01T12:00:00Z"
	for _, c := range []struct{ name, stages, line, want string }{
		{"city", stages(city, "city"), "203.0.113.9 GET", `geoip_city_name="Bergen", geoip_continent_code="EU", geoip_continent_name="Europe", ` +
			`geoip_country_name="Norway", geoip_location_latitude="60.39", geoip_location_longitude="5.25", geoip_postal_code="5003", ` +
			`geoip_subdivision_code="46", geoip_subdivision_name="Vestland", geoip_timezone="Europe/Oslo", `},
		{"asn", stages(asn, "asn"), "203.0.113.255 GET", `geoip_autonomous_system_number="64500", geoip_autonomous_system_organization="Example Net", `},
		{"IPv4 in IPv6", stages(asn, "asn"), "::ffff:203.0.113.1 GET", `geoip_autonomous_system_number="64500", geoip_autonomous_system_organization="Example Net", `},
		{"unknown address", stages(city, "city"), "203.0.114.1 GET", ""},
		{"no address", stages(city, "city"), "nonsense GET", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := []string{t0 + ` {` + c.want + `job="j"} "` + c.line + `"`}
			if diff := cmp.Diff(want, run(t, c.stages, c.line)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// writeMMDB writes a MaxMind database in which one IPv4 network has a record: a tree with a
// node for each bit of the network, the record, and the description of both.
func writeMMDB(t *testing.T, path string, network netip.Prefix, record map[string]any) {
	t.Helper()
	const separator = 16
	nodes := network.Bits()
	var out []byte
	pointer := func(n int) { out = append(out, byte(n>>16), byte(n>>8), byte(n)) }
	ip := network.Addr().As4()
	for i := range nodes {
		next := i + 1
		if next == nodes {
			next = nodes + separator // the record at offset 0
		}
		if ip[i/8]>>(7-i%8)&1 == 0 {
			pointer(next)
			pointer(nodes)
		} else {
			pointer(nodes) // nothing there
			pointer(next)
		}
	}
	out = append(out, make([]byte, separator)...)
	out = appendMMDB(t, out, record)
	out = append(out, "\xab\xcd\xefMaxMind.com"...)
	out = appendMMDB(t, out, map[string]any{
		"node_count": uint32(nodes), "record_size": uint16(24), "ip_version": uint16(4), "database_type": "Test",
		"binary_format_major_version": uint16(2), "binary_format_minor_version": uint16(0), "build_epoch": uint64(1),
		"languages": []any{"en"}, "description": map[string]any{"en": "for a test"},
	})
	if err := os.WriteFile(path, out, 0o600); err != nil {
		t.Fatal(err)
	}
}

// appendMMDB appends a value as the format's data section has it.
func appendMMDB(t *testing.T, b []byte, v any) []byte {
	t.Helper()
	control := func(kind, size int) {
		small := min(size, 29)
		if kind > 7 {
			b = append(b, byte(small), byte(kind-7))
		} else {
			b = append(b, byte(kind<<5|small))
		}
		if small == 29 {
			b = append(b, byte(size-29)) // up to 284
		}
	}
	switch v := v.(type) {
	case string:
		control(2, len(v))
		b = append(b, v...)
	case float64:
		control(3, 8)
		b = binary.BigEndian.AppendUint64(b, math.Float64bits(v))
	case uint16:
		control(5, 2)
		b = binary.BigEndian.AppendUint16(b, v)
	case uint32:
		control(6, 4)
		b = binary.BigEndian.AppendUint32(b, v)
	case uint64:
		control(9, 8)
		b = binary.BigEndian.AppendUint64(b, v)
	case []any:
		control(11, len(v))
		for _, e := range v {
			b = appendMMDB(t, b, e)
		}
	case map[string]any:
		control(7, len(v))
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			b = appendMMDB(t, appendMMDB(t, b, k), v[k])
		}
	default:
		t.Fatalf("a database has no %T", v)
	}
	return b
}
