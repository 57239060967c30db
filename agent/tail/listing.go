package tail

import (
	"os"
	"slices"
	"strings"
	"sync"
)

// maxListings bounds the directories whose names are remembered.
const maxListings = 64

// listings remember the names in directories, so that ten thousand logs of one directory do
// not read it ten thousand times. A directory's time of change tells whether its names are
// still right, once it lies so far back that a later change must show.
type listings struct {
	mu struct {
		sync.Mutex
		dirs map[string]listing
	}
}

type listing struct {
	changed, read int64
	names         []string // sorted
}

// withPrefix returns the names in a directory that begin with prefix.
func (c *listings) withPrefix(dir, prefix string, now int64) ([]string, error) {
	names, err := c.names(dir, now)
	if err != nil {
		return nil, err
	}
	from, _ := slices.BinarySearch(names, prefix)
	to := from
	for to < len(names) && strings.HasPrefix(names[to], prefix) {
		to++
	}
	return names[from:to], nil
}

func (c *listings) names(dir string, now int64) ([]string, error) {
	fi, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	changed := fi.ModTime().UnixNano()
	c.mu.Lock()
	old, ok := c.mu.dirs[dir]
	c.mu.Unlock()
	if ok && old.changed == changed && old.read > changed+2*int64(clockTick) {
		return old.names, nil
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(list)) // ReadDir sorts
	for i, e := range list {
		names[i] = e.Name()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.dirs == nil || len(c.mu.dirs) >= maxListings {
		c.mu.dirs = map[string]listing{}
	}
	c.mu.dirs[dir] = listing{changed: changed, read: now, names: names}
	return names, nil
}
