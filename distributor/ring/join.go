package ring

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
)

// Resolver is the part of net.Resolver that finding others takes.
type Resolver interface {
	LookupHost(ctx context.Context, host string) ([]string, error)
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// joinAddress is one element of -memberlist.join.
type joinAddress struct {
	srv  bool
	host string // or the full name of an SRV record
	port string // empty: the gossip port of this instance
}

// parseJoin reads the comma list. The prefixes are those that Prometheus' relatives use.
func parseJoin(text string) ([]joinAddress, error) {
	var list []joinAddress
	for _, one := range strings.Split(text, ",") {
		if one = strings.TrimSpace(one); one == "" {
			continue
		}
		kind, rest, prefixed := strings.Cut(one, "+")
		if !prefixed {
			kind, rest = "dns", one
		}
		switch kind {
		case "dns":
			a := joinAddress{host: rest}
			if host, port, err := net.SplitHostPort(rest); err == nil {
				if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
					return nil, fmt.Errorf("-memberlist.join: %q: expected a port from 1 to 65535", one)
				}
				a.host, a.port = host, port
			} else if strings.Contains(rest, ":") && net.ParseIP(rest) == nil {
				return nil, fmt.Errorf("-memberlist.join: %q: expected host:port", one)
			}
			if a.host == "" {
				return nil, fmt.Errorf("-memberlist.join: %q: expected a host", one)
			}
			list = append(list, a)
		case "srv", "dnssrv", "dnssrvnoa":
			if rest == "" || strings.Contains(rest, ":") {
				return nil, fmt.Errorf("-memberlist.join: %q: expected the name of an SRV record, as in srv+_gossip._tcp.skald.default.svc", one)
			}
			list = append(list, joinAddress{srv: true, host: rest})
		default:
			return nil, fmt.Errorf("-memberlist.join: %q: expected host:port, dns+host:port or srv+name", one)
		}
	}
	return list, nil
}

// resolve returns every host:port behind a list, sorted, each once. What cannot be resolved
// is an error beside what could.
func resolve(ctx context.Context, r Resolver, list []joinAddress, defaultPort int) ([]string, error) {
	var found []string
	var errs []error
	hosts := func(host, port string) {
		if net.ParseIP(host) != nil {
			found = append(found, net.JoinHostPort(host, port))
			return
		}
		ips, err := r.LookupHost(ctx, host)
		if err != nil {
			errs = append(errs, err)
		}
		for _, ip := range ips {
			found = append(found, net.JoinHostPort(ip, port))
		}
	}
	for _, a := range list {
		if !a.srv {
			port := a.port
			if port == "" {
				port = strconv.Itoa(defaultPort)
			}
			hosts(a.host, port)
			continue
		}
		_, records, err := r.LookupSRV(ctx, "", "", a.host)
		if err != nil {
			errs = append(errs, err)
		}
		for _, rec := range records {
			hosts(strings.TrimSuffix(rec.Target, "."), strconv.Itoa(int(rec.Port)))
		}
	}
	slices.Sort(found)
	return slices.Compact(found), errors.Join(errs...)
}
