package tail

import (
	"path/filepath"
	"strings"
)

// unreadable are the endings of files that are neither text nor known compressions of it.
var unreadable = []string{".xz", ".lz4", ".zip", ".7z", ".tmp", ".swp", "~"}

// packedName reports whether a name is one of a compressed file.
func packedName(path string) bool { return magics[filepath.Ext(path)] != "" }

// rotatedName reports whether a file called name can be what a rotation made of one called
// base: base.1, base-20060102, base.20060102-150405, stem-2006-01-02.ext, and any of these
// with .gz, .bz2 or .zst.
func rotatedName(base, name string) bool {
	for _, e := range unreadable {
		if strings.HasSuffix(name, e) {
			return false
		}
	}
	if packedName(name) {
		name = strings.TrimSuffix(name, filepath.Ext(name))
		if name == base {
			return true
		}
	}
	if rest, ok := strings.CutPrefix(name, base); ok {
		return rest != "" && strings.ContainsRune(".-_", rune(rest[0]))
	}
	ext := filepath.Ext(base)
	stem := strings.TrimSuffix(base, ext)
	if ext == "" || stem == "" || !strings.HasSuffix(name, ext) {
		return false
	}
	rest, ok := strings.CutPrefix(strings.TrimSuffix(name, ext), stem)
	return ok && len(rest) > 1 && strings.ContainsRune(".-_", rune(rest[0])) && rest[1] >= '0' && rest[1] <= '9'
}

// unrotated calls f with each path that a file may have had before it was rotated, until f
// returns true: the reverse of rotatedName.
func unrotated(path string, f func(base string) bool) {
	dir, name := filepath.Split(path)
	if packedName(name) {
		name = strings.TrimSuffix(name, filepath.Ext(name))
		if f(dir + name) {
			return
		}
	}
	ext := filepath.Ext(name)
	for i := len(name) - 1; i > 0; i-- {
		if !strings.ContainsRune(".-_", rune(name[i])) {
			continue
		}
		if base := name[:i]; rotatedName(base, name) && f(dir+base) {
			return
		}
		if ext != "" && i < len(name)-len(ext) {
			if base := name[:i] + ext; rotatedName(base, name) && f(dir+base) {
				return
			}
		}
	}
}
