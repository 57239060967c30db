package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"google.golang.org/grpc/credentials"

	"github.com/skaldlog/skald/distributor"
	"github.com/skaldlog/skald/distributor/ring"
	"github.com/skaldlog/skald/distributor/ring/gossiptls"
	"github.com/skaldlog/skald/ingester/remote"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/querier"
)

// validateCluster checks the settings by which a process is one of several.
func (c *serverConfig) validateCluster() error {
	c.replicator.Factor = c.replication
	if err := c.replicator.Validate(); err != nil {
		return fmt.Errorf("-%w", err)
	}
	// A compactor alone needs nobody; every other part of a whole does.
	alone := c.ring.Join == "" && c.ring.Bind == ring.DefaultBind && c.replication == 1
	c.clustered = !(alone && (c.roles == ring.All || c.roles == ring.Compactor))
	if !c.clustered {
		return nil
	}
	if c.ring.Join == "" && !c.roles.Has(ring.Ingester) {
		return fmt.Errorf("-target=%s: expected -memberlist.join=HOST:PORT,…, since this process has to find others", c.target)
	}
	if c.storageURL == "" {
		return errors.New("-storage.url: expected an object store that all instances share, such as s3://BUCKET?endpoint=…; file:///DIR will do for several on one machine")
	}
	if c.auth.File != "" && c.grpc.TLS.ClientCA == "" {
		return errors.New("-auth.credentials-file: expected -grpc.tls.client-ca-file too, or whoever reaches the gRPC port could make the members' own calls and so reach every tenant")
	}
	if err := c.ring.Prepare(); err != nil {
		return err
	}
	var err error
	if c.replicator.Compression, err = remote.ParseCompression(c.remote.Compression); err != nil {
		return fmt.Errorf("-ingester.client.compression: %w", err)
	}
	if c.leaveTimeout <= 0 {
		return fmt.Errorf("-ring.leave-timeout=%s: expected more than 0", c.leaveTimeout)
	}
	if c.replication > 1 {
		c.ingester.RowHash = true // copies are recognised without reading lines
	}
	return nil
}

// ringOf is what a node needs of the ring: Members, or Alone.
type ringOf interface {
	ring.Source
	Changed() <-chan struct{}
}

// openRing opens the gossip port, or makes the ring of a process that is alone.
func (n *node) openRing() error {
	self := ring.Instance{ID: n.cfg.ring.InstanceID, Roles: n.cfg.roles, HTTP: n.http.Addr().String(), Zone: n.cfg.ring.Zone}
	if n.grpc != nil {
		self.Addr = n.grpc.Addr().String()
	}
	if !n.cfg.clustered {
		if self.ID == "" {
			self.ID = hostname()
		}
		self.Registered = n.started.UnixNano()
		n.ring = ring.NewAlone(self)
		return nil
	}
	if n.grpc == nil {
		return errors.New("-grpc.listen: an instance of a ring is reached over gRPC, so its port must be free")
	}
	cfg := n.cfg.ring
	cfg.BeforeChange = n.ringChanges
	if n.cfg.roles.Has(ring.Ingester) {
		cfg.Dir = n.cfg.dataDir
	}
	secure, err := n.cfg.cluster.Config()
	if err != nil {
		return usageError{err}
	}
	if secure != nil {
		server, err := n.cfg.cluster.ListenConfig()
		if err != nil {
			return usageError{err}
		}
		if cfg.Transport, err = gossiptls.New(gossiptls.Config{Listen: cfg.Bind, Server: server, Client: secure, Logger: n.logger}); err != nil {
			return err
		}
	}
	members, err := ring.New(cfg, self, n.registry, n.logger)
	if err != nil {
		return err
	}
	n.members, n.ring = members, members
	return nil
}

// openPool makes the pool of connections to ingesters in other processes.
func (n *node) openPool() (err error) {
	var creds credentials.TransportCredentials
	secure, err := n.cfg.cluster.Config()
	if err != nil {
		return usageError{err}
	}
	if secure != nil {
		creds = credentials.NewTLS(secure)
	}
	n.pool, err = remote.NewPool(n.cfg.remote, creds, n.registry)
	return err
}

// openReplicator makes the Pusher in front of the ring's ingesters.
func (n *node) openReplicator() (err error) {
	cluster := distributor.Cluster{
		View:   n.ring.View,
		Remote: func(addr string) distributor.RemotePusher { return n.pool.Client(addr) },
		Self:   n.members.Self().ID,
	}
	if n.ingester != nil {
		cluster.Local = n.ingester
	}
	n.replicator, err = distributor.NewReplicator(n.cfg.replicator, cluster, n.overrides, n.registry, n.logger)
	return err
}

// openIngesters makes the one source that all of the ring's ingesters are to a querier.
func (n *node) openIngesters() *querier.Ingesters {
	self := n.members.Self().ID
	dial := func(r querier.Replica) querier.Holder {
		if r.ID == self && n.ingester != nil {
			return n.ingester
		}
		return n.pool.Client(r.Addr)
	}
	return querier.NewIngesters(n.cfg.querier, n.cfg.replication, wholeRing{n}, dial, n.registry, n.logger)
}

// wholeRing tells a querier whom to ask: all ingesters, also for a tenant that is confined
// to some of them, because rows stay where they were when the confinement changes.
type wholeRing struct{ *node }

// Ingesters returns those that may hold rows of a tenant.
func (r wholeRing) Ingesters(model.Tenant) []querier.Replica {
	view := r.ring.View()
	list := view.Instances(ring.Ingester)
	replicas := make([]querier.Replica, len(list))
	for i, in := range list {
		replicas[i] = querier.Replica{ID: in.ID, Addr: in.Addr, Zone: in.Zone, Healthy: view.HealthyRead(in), Lossy: r.ring.View().Lossy(in)}
	}
	return replicas
}

// queriers tells a querier who may help with a query.
type queriers struct{ *node }

// Queriers ranks the healthy queriers for a piece of work.
func (q queriers) Queriers(key string) []querier.Peer {
	self := q.members.Self().ID
	ranked := q.ring.View().Rank(ring.Querier, key, nil)
	peers := make([]querier.Peer, len(ranked))
	for i, in := range ranked {
		peers[i] = querier.Peer{ID: in.ID, Addr: in.Addr, Self: in.ID == self}
	}
	return peers
}

// followRing closes connections to ingesters and queriers that have left.
func (n *node) followRing(ctx context.Context) error {
	for {
		changed := n.ring.Changed()
		wanted := map[string]bool{}
		view := n.ring.View()
		for _, in := range append(view.Instances(ring.Ingester), view.Instances(ring.Querier)...) {
			wanted[in.Addr] = true
		}
		n.pool.Keep(func(addr string) bool { return wanted[addr] })
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// ringChanges runs before a new view is acted upon.
func (n *node) ringChanges(before, after *ring.View) {
	if anyGone(before, after) {
		n.catalog.InvalidateAll()
	}
	for _, in := range after.Instances(ring.Ingester) {
		was := before.Get(in.ID)
		if !after.HealthyRead(in) || was != nil && was.Process == in.Process && before.HealthyRead(was) {
			continue
		}
		// It is there again: calls need not wait until somebody tries.
		if n.pool != nil {
			n.pool.Returned(in.Addr)
		}
		if n.replicator != nil {
			n.replicator.Returned(in.ID)
		}
	}
}

// anyGone reports whether an ingester of one view is no longer asked in the next, or was
// restarted, so that what only it could answer has to come from the object store now.
func anyGone(before, after *ring.View) bool {
	for _, in := range before.Instances(ring.Ingester) {
		if next := after.Get(in.ID); next == nil || next.Process != in.Process {
			return true
		}
	}
	return false
}

// ownsDay reports whether this process compacts a tenant's day.
func (n *node) ownsDay(tenant model.Tenant, day string) bool {
	owner := n.ring.View().Owner(ring.Compactor, string(tenant)+"/"+day)
	return owner != nil && (n.members == nil || owner.ID == n.members.Self().ID)
}

// streamShare is the part of a tenant's streams that one ingester holds: as many copies
// as there are, over the tenant's ingesters.
func (n *node) streamShare(tenant model.Tenant) float64 {
	view := n.ring.View()
	if size := n.overrides.For(tenant).IngestionTenantShardSize; size > 0 {
		view = view.Subring(tenant, max(size, n.cfg.replication))
	}
	return min(1, float64(n.cfg.replication)/float64(max(1, view.Count(ring.Ingester))))
}

// distributors is the number of instances that share the tenants' global rates.
func (n *node) distributors() int { return max(1, n.ring.View().Count(ring.Distributor)) }

// expectations says at the start what a cluster needs that no single process can check.
func (n *node) expectations(logger *slog.Logger) {
	logger.Info("this instance is one of a ring", "instance", n.members.Self().ID, "roles", n.cfg.roles, "gossip", n.members.GossipAddr(),
		"join", n.cfg.ring.Join, "replication", n.cfg.replication, "storage", n.cfg.storageURL)
	if isFile(n.cfg.storageURL) {
		logger.Warn("the object store is a directory: every instance must see the same one, so this is for several instances on one machine")
	}
	if n.cfg.replication == 2 {
		logger.Warn("with -replication.factor=2 both copies must be written, so no ingester may fail; 3 is the least that survives one")
	}
}
