package ingester

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/skaldlog/skald/ingester/wal"
	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/storage/catalog"
	"github.com/skaldlog/skald/storage/object"
)

// The directory is the state: an extension is a state, a rename is a transition, and
// `ls -R` tells what recovery will do.
//
//	LOCK                              held while a process owns the directory
//	wal/<seq>.active                  batches of the memtable that takes writes
//	wal/<seq>.sealed                  batches of a memtable that is being written out
//	wal/<seq>.damaged                 kept for the operator after -ingester.salvage
//	segments/<tenant>/<day>/
//	  <seq>-<ulid>.seg.tmp            a memtable being written; removed by recovery
//	  <seq>-<ulid>.seg                a memtable's rows of that tenant and UTC day
//	  <object>.merging                several .seg being merged; removed by recovery
//	  <object>.uploading              on its way to the object store; what it was merged from is void
//	  <object>.uploaded               in the object store, kept until every querier knows
//
// seq numbers generations (16 hex digits): wal/<seq> holds what <seq>-*.seg hold, so
// after a crash between the two, replay leaves out the tenant-days that have their file.
// object is the last element of the object's key without its ".seg", so the key is
// decided, and durable, before the upload begins.
const (
	extActive    = ".active"
	extSealed    = ".sealed"
	extDamaged   = ".damaged"
	extLocal     = ".seg"
	extTemp      = ".tmp"
	extMerging   = ".merging"
	extUploading = ".uploading"
	extUploaded  = ".uploaded"
)

// disk is what the ingester does to the file system, apart from reading. Tests put
// faults in between.
type disk interface {
	// Create makes a file, which must not exist, opened for appending.
	Create(path string) (wal.File, error)
	Rename(from, to string) error
	Remove(path string) error
	MkdirAll(path string) error
	// SyncDir makes creations, renames and removals in a directory durable.
	SyncDir(path string) error
}

type osDisk struct{}

func (osDisk) Create(path string) (wal.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
}
func (osDisk) Rename(from, to string) error { return os.Rename(from, to) }
func (osDisk) Remove(path string) error     { return os.Remove(path) }

func (osDisk) SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// MkdirAll makes a directory and its parents, durably: a segment in a directory that a
// power cut takes away is no segment.
func (o osDisk) MkdirAll(path string) error {
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		return nil
	}
	parent := filepath.Dir(path)
	if err := o.MkdirAll(parent); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return o.SyncDir(parent)
}

func (i *Ingester) walPath(seq uint64, ext string) string {
	return filepath.Join(i.cfg.Dir, "wal", fmt.Sprintf("%016x%s", seq, ext))
}

func (i *Ingester) segmentDir(tenant model.Tenant, day string) string {
	return filepath.Join(i.cfg.Dir, "segments", string(tenant), day)
}

func (i *Ingester) localPath(tenant model.Tenant, day string, seq uint64, id string) string {
	return filepath.Join(i.segmentDir(tenant, day), fmt.Sprintf("%016x-%s%s", seq, id, extLocal))
}

// objectPath returns where the file of an object stands in the state of the extension.
func (i *Ingester) objectPath(key object.Key, ext string) string {
	return filepath.Join(i.cfg.Dir, "segments", filepath.FromSlash(strings.TrimSuffix(string(key), extLocal))+ext)
}

// parseWAL reads the name of a write-ahead log file.
func parseWAL(name string) (seq uint64, ext string, ok bool) {
	ext = filepath.Ext(name)
	if ext != extActive && ext != extSealed && ext != extDamaged {
		return 0, "", false
	}
	seq, ok = parseSeq(strings.TrimSuffix(name, ext))
	return seq, ext, ok
}

// parseLocal reads the name of a .seg file.
func parseLocal(name string) (seq uint64, id string, ok bool) {
	stem, isSeg := strings.CutSuffix(name, extLocal)
	number, id, hasID := strings.Cut(stem, "-")
	if !isSeg || !hasID {
		return 0, "", false
	}
	if _, err := ulid.ParseStrict(id); err != nil {
		return 0, "", false
	}
	seq, ok = parseSeq(number)
	return seq, id, ok
}

func parseSeq(s string) (uint64, bool) {
	if len(s) != 16 {
		return 0, false
	}
	seq, err := strconv.ParseUint(s, 16, 64)
	return seq, err == nil
}

// parseObject reads the path of a file on its way to the object store.
func parseObject(tenant model.Tenant, day, name string) (ref catalog.Ref, ok bool) {
	ext := filepath.Ext(name)
	if ext != extUploading && ext != extUploaded {
		return ref, false
	}
	ref, err := catalog.ParseKey(object.Key(string(tenant) + "/" + day + "/" + strings.TrimSuffix(name, ext) + extLocal))
	return ref, err == nil
}
