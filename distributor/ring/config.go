package ring

import (
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"
)

// Config says how a process finds the others and how it presents itself.
type Config struct {
	Bind, Advertise string // host:port
	Join            string // comma list
	RejoinInterval  time.Duration
	ClusterLabel    string
	SecretKeyFile   string

	InstanceID       string
	Zone             string
	Tokens           int
	HeartbeatPeriod  time.Duration
	HeartbeatTimeout time.Duration
	AutoForget       time.Duration

	// Dir is where the tokens are kept; empty keeps them in memory.
	Dir string
	// Transport carries the gossip; nil listens on Bind.
	Transport memberlist.Transport
	// Resolver finds the addresses of Join; nil asks DNS.
	Resolver Resolver
	// BeforeChange, if set, runs before a new view is handed out.
	BeforeChange func(before, after *View)
}

// DefaultBind is the gossip port that Loki uses too.
const DefaultBind = ":7946"

// RegisterFlags declares the settings with their defaults.
func (c *Config) RegisterFlags(fs *flag.FlagSet) {
	fs.StringVar(&c.Bind, "memberlist.bind", DefaultBind, "`address` for gossip between instances, host:port, TCP and UDP; not used by a process that is alone")
	fs.StringVar(&c.Advertise, "memberlist.advertise", "", "`address` by which others reach this instance's gossip, host:port; its host is also told to others for gRPC and HTTP. The private address of this machine by default")
	fs.StringVar(&c.Join, "memberlist.join", "", "comma list of other instances: host:port (every address of the name counts), dns+host:port, or srv+name for a DNS SRV record; `addresses` that include this instance are fine")
	fs.DurationVar(&c.RejoinInterval, "memberlist.rejoin-interval", 15*time.Second, "how often the addresses are looked up again, and those that are not connected joined, for ever")
	fs.StringVar(&c.ClusterLabel, "memberlist.cluster-label", "", "`name` of the cluster; gossip with another one is refused, so that two clusters never merge by mistake")
	fs.StringVar(&c.SecretKeyFile, "memberlist.secret-key-file", "", "`file` with keys of 16, 24 or 32 bytes in base64, one a line, that encrypt gossip: the first encrypts, all decrypt. To rotate, add the new key last everywhere, then move it first, then remove the old one")
	fs.StringVar(&c.InstanceID, "ring.instance-id", "", "`name` of this instance, unlike any other's, and the same after a restart; the host name by default")
	fs.StringVar(&c.Zone, "ring.zone", "", "`zone` of this instance. Replicas go to distinct zones")
	fs.IntVar(&c.Tokens, "ring.tokens", DefaultTokens, "tokens of an ingester on the ring. It takes effect when an instance joins for the first time")
	fs.DurationVar(&c.HeartbeatPeriod, "ring.heartbeat-period", 5*time.Second, "how often an instance says that it lives")
	fs.DurationVar(&c.HeartbeatTimeout, "ring.heartbeat-timeout", 30*time.Second, "silence after which an instance is unhealthy: nothing is written to it or asked of it. Failed probes tell sooner")
	fs.DurationVar(&c.AutoForget, "ring.auto-forget", time.Hour, "silence after which an instance is forgotten, as if it had left with nothing behind; 0 never forgets. Nobody is forgotten while less than half of the ring is healthy, for then it may be this instance that is cut off")
}

// Prepare checks the settings and fills in those that follow from others.
func (c *Config) Prepare() error {
	if c.InstanceID == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("-ring.instance-id is not set, and the host has no name: %w", err)
		}
		c.InstanceID = host
	}
	for flag, text := range map[string]string{"-ring.instance-id": c.InstanceID, "-ring.zone": c.Zone, "-memberlist.cluster-label": c.ClusterLabel} {
		if len(text) > maxName {
			return fmt.Errorf("%s: got %d bytes, want at most %d", flag, len(text), maxName)
		}
	}
	if _, _, err := hostPort("-memberlist.bind", c.Bind); err != nil {
		return err
	}
	if c.Advertise != "" {
		host, _, err := hostPort("-memberlist.advertise", c.Advertise)
		if err != nil {
			return err
		}
		if host == "" {
			return fmt.Errorf("-memberlist.advertise=%s: expected host:port", c.Advertise)
		}
	}
	if _, err := parseJoin(c.Join); err != nil {
		return err
	}
	switch {
	case c.Tokens < 1 || c.Tokens > MaxTokens:
		return fmt.Errorf("-ring.tokens=%d: expected 1 to %d", c.Tokens, MaxTokens)
	case c.HeartbeatPeriod <= 0:
		return fmt.Errorf("-ring.heartbeat-period=%s: expected more than 0", c.HeartbeatPeriod)
	case c.HeartbeatTimeout < 2*c.HeartbeatPeriod:
		return fmt.Errorf("-ring.heartbeat-timeout=%s: expected at least two heartbeat periods (%s)", c.HeartbeatTimeout, 2*c.HeartbeatPeriod)
	case c.AutoForget != 0 && c.AutoForget <= c.HeartbeatTimeout:
		return fmt.Errorf("-ring.auto-forget=%s: expected 0, or more than -ring.heartbeat-timeout (%s)", c.AutoForget, c.HeartbeatTimeout)
	case c.RejoinInterval <= 0:
		return fmt.Errorf("-memberlist.rejoin-interval=%s: expected more than 0", c.RejoinInterval)
	}
	_, err := c.keys()
	return err
}

func hostPort(flag, text string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(text)
	if err == nil {
		port, err = strconv.Atoi(p)
	}
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("%s=%s: expected host:port or :port", flag, text)
	}
	return host, port, nil
}

// keys reads the keys of SecretKeyFile, the one that encrypts first.
func (c *Config) keys() (keys [][]byte, err error) {
	if c.SecretKeyFile == "" {
		return nil, nil
	}
	text, err := os.ReadFile(c.SecretKeyFile)
	if err != nil {
		return nil, fmt.Errorf("-memberlist.secret-key-file: %w", err)
	}
	for i, line := range strings.Split(string(text), "\n") {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(line)
		if err == nil {
			err = memberlist.ValidateKey(key)
		}
		if err != nil {
			// The line may be a secret: it is not shown.
			return nil, fmt.Errorf("-memberlist.secret-key-file=%s: line %d: expected 16, 24 or 32 bytes in base64 (head -c 32 /dev/urandom | base64)", c.SecretKeyFile, i+1)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("-memberlist.secret-key-file=%s: expected at least one key", c.SecretKeyFile)
	}
	return keys, nil
}

// memberlistConfig turns the settings into those of the library.
func (c *Config) memberlistConfig() (*memberlist.Config, error) {
	mc := memberlist.DefaultLANConfig()
	mc.Label = c.ClusterLabel
	mc.Transport = c.Transport
	host, port, err := hostPort("-memberlist.bind", c.Bind)
	if err != nil {
		return nil, err
	}
	if host == "" {
		host = "0.0.0.0"
	}
	mc.BindAddr, mc.BindPort, mc.AdvertisePort = host, port, port
	if c.Advertise != "" {
		host, port, err := hostPort("-memberlist.advertise", c.Advertise)
		if err != nil {
			return nil, err
		}
		ip := net.ParseIP(host)
		if ip == nil {
			ips, err := net.LookupIP(host)
			if err != nil {
				return nil, fmt.Errorf("-memberlist.advertise=%s: %w", c.Advertise, err)
			}
			ip = ips[0]
		}
		mc.AdvertiseAddr, mc.AdvertisePort = ip.String(), port
	}
	keys, err := c.keys()
	if err != nil {
		return nil, err
	}
	if len(keys) > 0 {
		if mc.Keyring, err = memberlist.NewKeyring(keys, keys[0]); err != nil {
			return nil, fmt.Errorf("-memberlist.secret-key-file: %w", err)
		}
	}
	if mc.GossipVerifyIncoming = len(keys) > 0; c.RejoinInterval < mc.PushPullInterval {
		mc.PushPullInterval = c.RejoinInterval
	}
	return mc, nil
}

var errNoAddress = errors.New("no address that others could reach; set -memberlist.advertise=HOST:PORT")
