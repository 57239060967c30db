package limits

import (
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/reload"
)

// Config says where the overrides file is.
type Config struct {
	// File is one path, or several separated by commas, whose later ones win key by key.
	// Empty means that all tenants have the server's limits.
	File   string
	Period time.Duration
}

// RegisterFlags declares the settings.
func (c *Config) RegisterFlags(fs *flag.FlagSet) {
	fs.StringVar(&c.File, "overrides.file", "", "YAML file with limits of single tenants, under overrides: TENANT:. Several, separated by commas, are merged; later ones win. It is read again while the server runs.")
	fs.DurationVar(&c.Period, "overrides.reload-period", 10*time.Second, "How often the overrides file is read again, hence how long a change takes to act.")
}

// Overrides is a Source whose tenants differ from the server's limits as a file says.
// A file that turns bad while running is logged and counted, and the last good one stays
// in force; at start it is an error.
type Overrides struct {
	cfg    Config
	base   *Limits
	logger *slog.Logger

	tenants atomic.Pointer[map[model.Tenant]*Limits]
	seen    [sha256.Size]byte // of the files last read; only load touches it
	reload  *reload.Loop
}

// NewOverrides reads the file for the first time. base holds the server-wide limits.
func NewOverrides(cfg Config, base Limits, reg prometheus.Registerer, logger *slog.Logger) (*Overrides, error) {
	if err := base.Validate(); err != nil {
		return nil, fmt.Errorf("limits: %w", err)
	}
	o := &Overrides{cfg: cfg, base: &base, logger: logger}
	o.tenants.Store(&map[model.Tenant]*Limits{})
	o.reload = reload.New("overrides", cfg.Period, o.load, reg, logger)
	if _, err := o.load(); err != nil {
		return nil, err
	}
	return o, nil
}

// For returns the limits of a tenant.
func (o *Overrides) For(tenant model.Tenant) *Limits {
	if l, ok := (*o.tenants.Load())[tenant]; ok {
		return l
	}
	return o.base
}

// Run reads the file again every period until ctx ends.
func (o *Overrides) Run(ctx context.Context) error { return o.reload.Run(ctx) }

// maxOverridesFile bounds one file; a megabyte holds ten thousand tenants.
const maxOverridesFile = 64 << 20

// load reads the files and, when they changed, puts their limits in force.
func (o *Overrides) load() (changed bool, err error) {
	if o.cfg.File == "" {
		return false, nil
	}
	paths := strings.Split(o.cfg.File, ",")
	texts := make([][]byte, len(paths))
	sum := sha256.New()
	for i, path := range paths {
		paths[i] = strings.TrimSpace(path)
		if st, err := os.Stat(paths[i]); err == nil && st.Size() > maxOverridesFile {
			return false, fmt.Errorf("overrides: %s has %d bytes, at most %d are read", paths[i], st.Size(), maxOverridesFile)
		}
		if texts[i], err = os.ReadFile(paths[i]); err != nil {
			return false, fmt.Errorf("overrides: %w", err)
		}
		fmt.Fprintf(sum, "%d\n%s", len(texts[i]), texts[i])
	}
	if seen := [sha256.Size]byte(sum.Sum(nil)); seen == o.seen {
		return false, nil
	} else if err := o.use(paths, texts); err != nil {
		return false, err
	} else {
		o.seen = seen
	}
	return true, nil
}

func (o *Overrides) use(paths []string, texts [][]byte) error {
	tenants := map[model.Tenant]*Limits{}
	for i, text := range texts {
		if err := o.read(text, tenants); err != nil {
			return fmt.Errorf("overrides: %s: %w", paths[i], err)
		}
	}
	for tenant, l := range tenants {
		if err := l.Validate(); err != nil {
			return fmt.Errorf("overrides: invalid override for tenant %s: %w", tenant, err)
		}
	}
	// A tenant whose limits did not change keeps its value, so that whoever caches by
	// address keeps its caches.
	for tenant, old := range *o.tenants.Load() {
		if now, ok := tenants[tenant]; ok && equal(old, now) {
			tenants[tenant] = old
		}
	}
	o.tenants.Store(&tenants)
	return nil
}

func equal(a, b *Limits) bool {
	x, errX := a.YAML()
	y, errY := b.YAML()
	return errX == nil && errY == nil && string(x) == string(y)
}

// read adds one file's tenants to those of the files before it.
func (o *Overrides) read(text []byte, tenants map[model.Tenant]*Limits) error {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return err
	}
	if len(doc.Content) == 0 || isNull(doc.Content[0]) {
		return nil
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: got %s, want a map with the key overrides", root.Line, describe(root))
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		switch key.Value {
		case "overrides":
			if err := o.readTenants(value, tenants); err != nil {
				return err
			}
		case "configs", "multi_kv_config": // Loki's switches for its own logging and key-value stores
		default:
			return fmt.Errorf("line %d: unknown key %q, want overrides, configs or multi_kv_config", key.Line, key.Value)
		}
	}
	return nil
}

func (o *Overrides) readTenants(n *yaml.Node, tenants map[model.Tenant]*Limits) error {
	if isNull(n) {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: got %s, want a map of tenants", n.Line, describe(n))
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		tenant, err := model.ParseTenant(key.Value)
		if err != nil {
			return fmt.Errorf("line %d: %w", key.Line, err)
		}
		if isNull(value) {
			o.logger.Warn("overrides of a tenant are empty and are skipped", "tenant", tenant, "line", key.Line)
			continue
		}
		l := tenants[tenant]
		if l == nil {
			copied := *o.base
			l = &copied
			tenants[tenant] = l
		}
		if err := l.apply(value); err != nil {
			return fmt.Errorf("tenant %s: %w", tenant, err)
		}
	}
	return nil
}

// Tenants returns the tenants that differ from the server's limits, with their limits.
func (o *Overrides) Tenants() map[model.Tenant]*Limits { return maps.Clone(*o.tenants.Load()) }
