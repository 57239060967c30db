package stage

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/oschwald/maxminddb-golang/v2"
	"go.yaml.in/yaml/v3"
)

// geoCity is what of a city database becomes labels.
type geoCity struct {
	City struct {
		Names map[string]string `maxminddb:"names"`
	} `maxminddb:"city"`
	Country struct {
		Names map[string]string `maxminddb:"names"`
	} `maxminddb:"country"`
	Continent struct {
		Code  string            `maxminddb:"code"`
		Names map[string]string `maxminddb:"names"`
	} `maxminddb:"continent"`
	Location struct {
		Latitude  *float64 `maxminddb:"latitude"`
		Longitude *float64 `maxminddb:"longitude"`
		TimeZone  string   `maxminddb:"time_zone"`
	} `maxminddb:"location"`
	Postal struct {
		Code string `maxminddb:"code"`
	} `maxminddb:"postal"`
	Subdivisions []struct {
		ISOCode string            `maxminddb:"iso_code"`
		Names   map[string]string `maxminddb:"names"`
	} `maxminddb:"subdivisions"`
}

type geoASN struct {
	Number       uint64 `maxminddb:"autonomous_system_number"`
	Organization string `maxminddb:"autonomous_system_organization"`
}

// buildGeoIP makes labels of what a MaxMind database knows about an address.
func buildGeoIP(node *yaml.Node, env *Env) (definition, error) {
	var c struct {
		DB     string  `yaml:"db"`
		Source *string `yaml:"source"`
		DBType string  `yaml:"db_type"`
	}
	if err := decode(node, &c, env); err != nil {
		return nil, err
	}
	switch {
	case c.DB == "":
		return nil, errors.New("db is required: the path of an .mmdb file")
	case c.Source == nil || *c.Source == "":
		return nil, errors.New("source is required: the extracted value that holds an IP address")
	case c.DBType != "city" && c.DBType != "asn":
		return nil, fmt.Errorf("db_type is %q, want city or asn", c.DBType)
	}
	db, err := maxminddb.Open(c.DB)
	if err != nil {
		return nil, fmt.Errorf("db: %w", err)
	}
	look := cityLabels
	if c.DBType == "asn" {
		look = asnLabels
	}
	return simple(func(e *Entry) bool {
		v, ok := e.source(c.Source)
		if !ok {
			return true
		}
		ip, err := netip.ParseAddr(v)
		if err != nil {
			return true
		}
		if r := db.Lookup(ip.Unmap()); r.Found() {
			look(r, func(name, value string) {
				if value != "" {
					e.Labels = e.Labels.with(name, value)
				}
			})
		}
		return true
	}), nil
}

func cityLabels(r maxminddb.Result, set func(name, value string)) {
	var g geoCity
	if r.Decode(&g) != nil {
		return // a record of another shape has nothing to tell
	}
	set("geoip_city_name", g.City.Names["en"])
	set("geoip_country_name", g.Country.Names["en"])
	set("geoip_continent_name", g.Continent.Names["en"])
	set("geoip_continent_code", g.Continent.Code)
	set("geoip_postal_code", g.Postal.Code)
	set("geoip_timezone", g.Location.TimeZone)
	if l := g.Location; l.Latitude != nil && l.Longitude != nil {
		set("geoip_location_latitude", strconv.FormatFloat(*l.Latitude, 'f', -1, 64))
		set("geoip_location_longitude", strconv.FormatFloat(*l.Longitude, 'f', -1, 64))
	}
	if len(g.Subdivisions) > 0 {
		set("geoip_subdivision_name", g.Subdivisions[0].Names["en"])
		set("geoip_subdivision_code", g.Subdivisions[0].ISOCode)
	}
}

func asnLabels(r maxminddb.Result, set func(name, value string)) {
	var g geoASN
	if r.Decode(&g) != nil {
		return // as above
	}
	if g.Number != 0 {
		set("geoip_autonomous_system_number", strconv.FormatUint(g.Number, 10))
	}
	set("geoip_autonomous_system_organization", g.Organization)
}
