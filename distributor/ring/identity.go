package ring

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// identity is what an instance keeps over a restart, as JSON in the data directory.
type identity struct {
	ID         string `json:"id"`
	Seed       uint64 `json:"seed"`
	Tokens     int    `json:"tokens"`
	Registered int64  `json:"registered"`
	Lost       int64  `json:"lost,omitempty"`
	// Left says that the last process of this instance left nothing behind on this disk.
	Left bool `json:"left"`
}

const identityFile = "ring.json"

// loadIdentity returns what saveIdentity wrote, or nil when there is nothing, or nothing
// of this ID.
func loadIdentity(dir, id string) (*identity, error) {
	if dir == "" {
		return nil, nil
	}
	path := filepath.Join(dir, identityFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading this instance's tokens: %w", err)
	}
	var found identity
	if err := json.Unmarshal(text, &found); err != nil || found.Tokens < 1 || found.Tokens > MaxTokens {
		return nil, fmt.Errorf("this instance's tokens in %s make no sense (%v); remove the file and others will be chosen", path, err)
	}
	if found.ID != id {
		return nil, nil
	}
	return &found, nil
}

// saveIdentity is atomic: a crash leaves the old file or the new one.
func saveIdentity(dir string, id identity) (err error) {
	if dir == "" {
		return nil
	}
	text, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, identityFile)
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("keeping this instance's tokens: %w", err)
	}
	_, err = f.Write(append(text, '\n'))
	if err == nil {
		err = f.Sync() // a name must not stand for a file that is not all there
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err != nil {
		return fmt.Errorf("keeping this instance's tokens: %w", err)
	}
	return nil
}

// forgetIdentity removes the file: the next process of this ID is a newcomer.
func forgetIdentity(dir string) error {
	if dir == "" {
		return nil
	}
	if err := os.Remove(filepath.Join(dir, identityFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
