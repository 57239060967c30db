package ingester

import (
	"errors"
	"flag"
	"fmt"
	"time"

	"github.com/skaldlog/skald/internal/model"
)

// Config says where the ingester keeps its files, how much memory it takes, and when
// data moves on. RegisterFlags gives the defaults; Dir has none.
type Config struct {
	// Dir holds the write-ahead log and the local segments. One process owns it.
	Dir string

	MemtableBytes int64         // all memtables together
	FreezeBytes   int64         // one memtable
	FreezeAge     time.Duration // one memtable
	PushWait      time.Duration
	StreamIdle    time.Duration

	WALSync bool
	Salvage bool

	LocalNeedles    bool
	UploadBytes     int64
	UploadAge       time.Duration
	UploadSegments  int
	UploadWorkers   int
	KeepAfterUpload time.Duration
	RowHash         bool

	// Share returns which part of a tenant's streams this ingester holds, by which its limit
	// for the cluster counts here; nil means all of them.
	Share func(tenant model.Tenant) float64
}

// RegisterFlags declares the settings with their defaults.
func (c *Config) RegisterFlags(fs *flag.FlagSet) {
	fs.Int64Var(&c.MemtableBytes, "ingester.memtable-bytes", 128<<20, "Memory for entries that are not yet in a segment, over all tenants. When it is full and writing to disk lags, pushes are refused with 503 until there is room.")
	fs.Int64Var(&c.FreezeBytes, "ingester.freeze-bytes", 32<<20, "Size at which a memtable is written out as segments. Larger makes fewer, better compressed segments; at least two must fit ingester.memtable-bytes.")
	fs.DurationVar(&c.FreezeAge, "ingester.freeze-age", time.Minute, "Age at which a memtable is written out. It bounds what a restart has to replay.")
	fs.DurationVar(&c.PushWait, "ingester.push-wait", time.Second, "How long a push waits for room in memory before it is refused with 503.")
	fs.DurationVar(&c.StreamIdle, "ingester.stream-idle", 30*time.Minute, "Time after its last entry for which a stream counts as active for the stream limits.")
	fs.BoolVar(&c.WALSync, "ingester.wal-sync", true, "Sync the write-ahead log before a push is acknowledged. Without it a crash of the machine loses the last seconds; a crash of the process loses nothing.")
	fs.BoolVar(&c.Salvage, "ingester.salvage", false, "Start although a file is damaged: keep the whole batches of a write-ahead log, leave out a segment, and keep the file as *.damaged. For one start, after such an error.")
	fs.BoolVar(&c.LocalNeedles, "ingester.local-needles", false, "Index local segments for substring searches too. Searches over the minutes before the next upload then skip most blocks, and ingestion costs about a third more CPU.")
	fs.Int64Var(&c.UploadBytes, "ingester.upload-bytes", 64<<20, "Bytes of local segments of a tenant and day that are merged into one object and uploaded.")
	fs.DurationVar(&c.UploadAge, "ingester.upload-age", 15*time.Minute, "Age at which local segments are uploaded however small they are. A lost disk loses what was not uploaded, unless it is replicated.")
	fs.IntVar(&c.UploadSegments, "ingester.upload-segments", 24, "Number of local segments of a tenant and day that are uploaded however small they are, and the most that are merged at once. A merge holds about 4 MB in memory for each.")
	fs.IntVar(&c.UploadWorkers, "ingester.upload-workers", 1, "Merges and uploads that run at once. Each takes a core, and memory as ingester.upload-segments says.")
	fs.DurationVar(&c.KeepAfterUpload, "ingester.keep-after-upload", 2*time.Minute, "How long an uploaded segment is still served from local disk. It must be more than twice the catalog's cache time, or queries may miss entries for a while.")
	fs.BoolVar(&c.RowHash, "ingester.row-hash", false, "Store a hash of each row in uploaded segments, about a fifth of their size. It makes queries over replicas cheaper until they are compacted; a single ingester has none.")
}

// DefaultConfig returns the defaults with a directory.
func DefaultConfig(dir string) Config {
	var c Config
	c.RegisterFlags(flag.NewFlagSet("", flag.ContinueOnError))
	c.Dir = dir
	return c
}

func (c *Config) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.Dir != "", "the ingester needs a data directory")
	check(c.FreezeBytes > 0, "ingester.freeze-bytes: got %d, want more than 0", c.FreezeBytes)
	check(c.MemtableBytes >= 2*c.FreezeBytes, "ingester.memtable-bytes: got %d, want at least twice ingester.freeze-bytes (%d)", c.MemtableBytes, c.FreezeBytes)
	check(c.FreezeAge > 0, "ingester.freeze-age: got %s, want more than 0", c.FreezeAge)
	check(c.PushWait >= 0, "ingester.push-wait: got %s, want 0 or more", c.PushWait)
	check(c.StreamIdle > 0, "ingester.stream-idle: got %s, want more than 0", c.StreamIdle)
	check(c.UploadBytes > 0, "ingester.upload-bytes: got %d, want more than 0", c.UploadBytes)
	check(c.UploadAge > 0, "ingester.upload-age: got %s, want more than 0", c.UploadAge)
	check(c.UploadSegments > 0, "ingester.upload-segments: got %d, want more than 0", c.UploadSegments)
	check(c.UploadWorkers > 0, "ingester.upload-workers: got %d, want more than 0", c.UploadWorkers)
	check(c.KeepAfterUpload >= 0, "ingester.keep-after-upload: got %s, want 0 or more", c.KeepAfterUpload)
	return errors.Join(errs...)
}
