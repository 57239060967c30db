package main

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/skaldlog/skald/distributor"
	"github.com/skaldlog/skald/distributor/ring"
	"github.com/skaldlog/skald/ingester"
	"github.com/skaldlog/skald/ingester/remote"
	"github.com/skaldlog/skald/internal/auth"
	"github.com/skaldlog/skald/internal/conf"
	"github.com/skaldlog/skald/internal/limits"
	"github.com/skaldlog/skald/internal/memlimit"
	"github.com/skaldlog/skald/internal/server"
	"github.com/skaldlog/skald/internal/tlsconf"
	"github.com/skaldlog/skald/querier"
	"github.com/skaldlog/skald/storage"
	"github.com/skaldlog/skald/storage/catalog"
	"github.com/skaldlog/skald/storage/compact"
	"github.com/skaldlog/skald/storage/object"
)

// serverConfig is everything a server can be told. Each part declares its own settings.
type serverConfig struct {
	configFile  string
	target      string
	dataDir     string
	storageURL  string
	cacheBytes  int64
	cacheMemory int64
	log         logConfig
	memory      memlimit.Config

	http        server.Config
	grpc        server.GRPCConfig
	auth        auth.Config
	cluster     tlsconf.Member
	replication int
	ring        ring.Config
	distributor distributor.Config
	replicator  distributor.ReplicatorConfig
	remote      remote.Config
	ingester    ingester.Config
	querier     querier.Config
	compact     compact.Config
	storage     storage.Config
	catalog     catalog.Config
	object      object.Options
	limits      limits.Limits
	overrides   limits.Config

	remoteServer remote.ServerConfig
	leaveTimeout time.Duration

	// What follows from the settings: the roles of this process, and whether it is one of
	// several, that find each other by gossip.
	roles     ring.Role
	clustered bool
}

func (c *serverConfig) register(fs *flag.FlagSet) {
	c.limits = limits.Defaults()
	fs.StringVar(&c.configFile, "config.file", "", "YAML `file` with settings; keys are the flags' names, and limits: holds Loki's limits")
	fs.StringVar(&c.target, "target", "all", "`roles` of this process: all, or a comma list of distributor, ingester, querier and compactor")
	fs.StringVar(&c.dataDir, "data.dir", "./skald-data", "`directory` for the write-ahead log, local segments and, without storage.url, the object store")
	fs.StringVar(&c.storageURL, "storage.url", "", "object store: file:///DIR or s3://BUCKET/PREFIX?endpoint=…&region=…; the directory objects under data.dir by default")
	fs.Int64Var(&c.cacheBytes, "cache.disk-bytes", 10<<30, "`bytes` of local disk for parts of remote segments")
	fs.Int64Var(&c.cacheMemory, "cache.memory-bytes", 64<<20, "`bytes` of memory for parts of remote segments")
	c.log.register(fs)
	c.memory.RegisterFlags(fs)
	c.http.RegisterFlags(fs)
	c.grpc.RegisterFlags(fs)
	c.auth.RegisterFlags(fs)
	c.cluster.RegisterFlags(fs)
	fs.IntVar(&c.replication, "replication.factor", 1, "ingesters that hold each entry. A push is acknowledged when more than half of them have it; so with 3, one may fail and nothing is lost or stops. The same for all instances")
	c.ring.RegisterFlags(fs)
	fs.DurationVar(&c.leaveTimeout, "ring.leave-timeout", 15*time.Second, "how long an ingester that stops may take to upload everything. One that cannot stays in the ring as LEAVING, so that queries know that entries are away until it is back")
	c.remote.RegisterFlags(fs)
	c.remoteServer.RegisterFlags(fs)
	c.distributor.RegisterFlags(fs)
	c.replicator.RegisterFlags(fs)
	c.ingester.RegisterFlags(fs)
	c.querier.RegisterFlags(fs)
	c.compact.RegisterFlags(fs)
	c.storage.RegisterFlags(fs)
	c.catalog.RegisterFlags(fs)
	c.object.RegisterFlags(fs)
	c.limits.RegisterFlags(fs)
	c.overrides.RegisterFlags(fs)
}

func (c *serverConfig) source() conf.Source {
	return conf.Source{
		EnvPrefix: envPrefix, FileFlag: "config.file",
		Blocks: map[string]func(*yaml.Node) error{"limits": func(n *yaml.Node) error { return n.Decode(&c.limits) }},
	}
}

// objectsDir is where in the data directory objects are when no storage URL is given.
const objectsDir = "objects"

// validate checks what no single part can, and fills what follows from other settings.
func (c *serverConfig) validate() error {
	var err error
	if c.roles, err = ring.ParseRoles(c.target); err != nil {
		return fmt.Errorf("-target=%s: %w", c.target, err)
	}
	if c.auth.File != "" && !c.http.AuthEnabled {
		return errors.New("-auth.credentials-file: set -auth.enabled too, since credentials open tenants")
	}
	if c.dataDir == "" {
		return errors.New("-data.dir: expected a directory")
	}
	if err := c.memory.Validate(); err != nil {
		return fmt.Errorf("-%w", err)
	}
	if err := c.grpc.Validate(); err != nil {
		return fmt.Errorf("-%w", err)
	}
	if err := c.querier.Validate(); err != nil {
		return err
	}
	if err := c.validateCluster(); err != nil {
		return err
	}
	if c.storageURL == "" {
		dir, err := filepath.Abs(filepath.Join(c.dataDir, objectsDir))
		if err != nil {
			return fmt.Errorf("-data.dir=%s: %w", c.dataDir, err)
		}
		c.storageURL = "file://" + dir
	}
	c.ingester.Dir = c.dataDir
	c.compact.Dir = filepath.Join(c.dataDir, "compact")
	if err := c.compact.CheckDelay(2*c.catalog.TTL + c.limits.QueryTimeout.Duration()); err != nil {
		return err
	}
	if least := 2 * c.catalog.TTL; c.ingester.KeepAfterUpload < least {
		return fmt.Errorf("-ingester.keep-after-upload=%s: expected at least twice -catalog.ttl (%s), or queries would miss rows just uploaded", c.ingester.KeepAfterUpload, least)
	}
	return nil
}

// logConfig says how the process logs about itself.
type logConfig struct {
	level, format string
	current       *slog.LevelVar // in force; /log_level changes it
}

func (c *logConfig) register(fs *flag.FlagSet) {
	c.current = new(slog.LevelVar)
	fs.StringVar(&c.level, "log.level", "info", "least `level` that is logged: debug, info, warn or error")
	fs.StringVar(&c.format, "log.format", "logfmt", "`format` of the log on standard error: logfmt or json")
}

func (c *logConfig) logger(std stdio) (*slog.Logger, error) {
	if err := c.set(c.level); err != nil {
		return nil, fmt.Errorf("-log.level=%w", err)
	}
	opts := &slog.HandlerOptions{Level: c.current}
	switch c.format {
	case "logfmt":
		return slog.New(slog.NewTextHandler(std.err, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(std.err, opts)), nil
	}
	return nil, fmt.Errorf("-log.format=%s: expected logfmt or json", c.format)
}
