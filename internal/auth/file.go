package auth

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"
	"golang.org/x/crypto/bcrypt"

	"github.com/skaldlog/skald/internal/model"
	"github.com/skaldlog/skald/internal/reload"
)

// Config says where the credentials are.
type Config struct {
	File   string
	Period time.Duration
}

// RegisterFlags declares the settings.
func (c *Config) RegisterFlags(fs *flag.FlagSet) {
	fs.StringVar(&c.File, "auth.credentials-file", "", "YAML `file` with credentials (docs/security.md). With it every request needs one, and X-Scope-OrgID chooses among the tenants that the credential opens. It is read again while the server runs; needs auth.enabled")
	fs.DurationVar(&c.Period, "auth.reload-period", 10*time.Second, "how often the credentials file and the files it names are read again, hence how long a change takes to act")
}

// Credentials is the file in force. A file that turns bad while running is logged and
// counted, and the last good one stays; at start it is an error.
type Credentials struct {
	file   string
	table  atomic.Pointer[table]
	seen   [sha256.Size]byte // of all that was read last; only load touches it
	reload *reload.Loop
}

// Open reads the file for the first time.
func Open(cfg Config, reg prometheus.Registerer, logger *slog.Logger) (*Credentials, error) {
	c := &Credentials{file: cfg.File}
	c.reload = reload.New("credentials", cfg.Period, c.load, reg, logger)
	if _, err := c.load(); err != nil {
		return nil, err
	}
	return c, nil
}

// Run reads the file again from time to time until ctx ends.
func (c *Credentials) Run(ctx context.Context) error { return c.reload.Run(ctx) }

// Identify returns who sends an Authorization header, or owns a verified certificate. Its
// errors are faults: Unauthenticated, or Unavailable under a flood of passwords.
func (c *Credentials) Identify(authorization string, cert *x509.Certificate) (*Identity, error) {
	return c.table.Load().identify(authorization, cert)
}

// credential is an entry of the file.
type credential struct {
	Name         string   `yaml:"name"`
	Username     string   `yaml:"username"`
	Password     string   `yaml:"password"`
	PasswordFile string   `yaml:"password_file"`
	PasswordHash string   `yaml:"password_hash"`
	Token        string   `yaml:"token"`
	TokenFile    string   `yaml:"token_file"`
	TokenSHA256  string   `yaml:"token_sha256"`
	Certificate  string   `yaml:"certificate"`
	Tenants      []string `yaml:"tenants"`
	Permissions  []string `yaml:"permissions"`
}

// load reads everything, and puts it in force when it is new and right.
func (c *Credentials) load() (changed bool, err error) {
	read := sha256.New()
	text, err := readFile(c.file, read)
	if err != nil {
		return false, fmt.Errorf("credentials: %w", err)
	}
	t, err := parse(text, func(name string) (string, error) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(c.file), name)
		}
		secret, err := readFile(name, read)
		return strings.TrimRight(string(secret), "\r\n"), err
	})
	if err != nil {
		return false, fmt.Errorf("credentials file %s: %w", c.file, err)
	}
	sum := [sha256.Size]byte(read.Sum(nil))
	if sum == c.seen {
		return false, nil
	}
	c.seen = sum
	c.table.Store(t)
	return true, nil
}

// maxFile bounds what is read of a file that is named by mistake.
const maxFile = 16 << 20

func readFile(name string, also io.Writer) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, maxFile)
	}
	_, _ = also.Write(text) // a hash takes everything
	return text, nil
}

// parse checks the whole file. Errors name the line, and never a secret.
func parse(text []byte, secret func(file string) (string, error)) (*table, error) {
	var doc struct {
		Credentials []yaml.Node `yaml:"credentials"`
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	t := newTable()
	names := map[string]int{}
	for _, node := range doc.Credentials {
		var cred credential
		if err := decodeKnown(&node, &cred); err != nil {
			return nil, err
		}
		if line, ok := names[cred.Name]; ok && cred.Name != "" {
			return nil, fmt.Errorf("line %d: the name %q is taken in line %d", node.Line, cred.Name, line)
		}
		names[cred.Name] = node.Line
		if err := t.add(&cred, secret); err != nil {
			return nil, fmt.Errorf("line %d: %w", node.Line, err)
		}
	}
	return t, nil
}

var credentialFields = []string{
	"name", "username", "password", "password_file", "password_hash", "token", "token_file", "token_sha256", "certificate", "tenants", "permissions",
}

// decodeKnown refuses fields that do not exist: a misspelt one would leave a door open.
func decodeKnown(node *yaml.Node, cred *credential) error {
	if node.Kind == yaml.MappingNode {
		for i := 0; i < len(node.Content); i += 2 {
			if key := node.Content[i]; !slices.Contains(credentialFields, key.Value) {
				return fmt.Errorf("line %d: field %q is not known; expected one of %s", key.Line, key.Value, strings.Join(credentialFields, ", "))
			}
		}
	}
	return node.Decode(cred)
}

func (t *table) add(cred *credential, secret func(string) (string, error)) error {
	id := &Identity{Name: cred.Name}
	if id.Name == "" {
		return errors.New("name is missing")
	}
	for _, tenant := range cred.Tenants {
		if tenant == "*" {
			id.Any = true
			continue
		}
		parsed, err := model.ParseTenant(tenant)
		if err != nil {
			return fmt.Errorf("tenants: %w", err)
		}
		id.Tenants = append(id.Tenants, parsed)
	}
	slices.Sort(id.Tenants)
	id.Tenants = slices.Compact(id.Tenants)
	for _, name := range cred.Permissions {
		p, ok := permissionNames[name]
		if !ok {
			return fmt.Errorf("permissions: %q is not known; expected read, write, delete, metrics or admin", name)
		}
		id.Permissions |= p
	}
	if id.Permissions == 0 {
		return errors.New("permissions is missing; expected some of read, write, delete, metrics, admin")
	}
	if id.May(Read) || id.May(Write) || id.May(Delete) {
		if len(id.Tenants) == 0 && !id.Any {
			return errors.New(`tenants is missing; expected tenant ids, or "*" for all`)
		}
	}
	return t.addSecret(cred, id, secret)
}

// addSecret takes exactly one way to prove the identity.
func (t *table) addSecret(cred *credential, id *Identity, secret func(string) (string, error)) error {
	ways := 0
	for _, given := range []string{cred.Password, cred.PasswordFile, cred.PasswordHash, cred.Token, cred.TokenFile, cred.TokenSHA256, cred.Certificate} {
		if given != "" {
			ways++
		}
	}
	if ways != 1 {
		return fmt.Errorf("%d secrets are given; expected one of password, password_file, password_hash, token, token_file, token_sha256, certificate", ways)
	}
	var err error
	if cred.PasswordFile != "" {
		if cred.Password, err = secret(cred.PasswordFile); err != nil {
			return fmt.Errorf("password_file: %w", err)
		}
	}
	if cred.TokenFile != "" {
		if cred.Token, err = secret(cred.TokenFile); err != nil {
			return fmt.Errorf("token_file: %w", err)
		}
	}
	needsUser := cred.Password != "" || cred.PasswordHash != ""
	if needsUser != (cred.Username != "") {
		return errors.New("username and a password belong together")
	}
	switch {
	case needsUser:
		return t.addUser(cred, id)
	case cred.Certificate != "":
		if other, ok := t.certificates[cred.Certificate]; ok {
			return fmt.Errorf("certificate %q is %s's already", cred.Certificate, other.Name)
		}
		t.certificates[cred.Certificate] = id
		return nil
	}
	return t.addToken(cred, id)
}

func (t *table) addUser(cred *credential, id *Identity) error {
	if _, ok := t.users[cred.Username]; ok {
		return fmt.Errorf("username %q stands twice", cred.Username)
	}
	if strings.Contains(cred.Username, ":") {
		return fmt.Errorf("username %q: a colon cannot be sent in basic authentication", cred.Username)
	}
	u := &user{identity: id, sum: sha256.Sum256([]byte(cred.Password))}
	if cred.PasswordHash != "" {
		u.bcrypt = []byte(cred.PasswordHash)
		if _, err := bcrypt.Cost(u.bcrypt); err != nil {
			return errors.New("password_hash is not a bcrypt hash; htpasswd -nB NAME prints one")
		}
	}
	t.users[cred.Username] = u
	return nil
}

// minToken is the shortest token accepted, since a token is looked up by an unsalted hash
// and must not be guessable.
const minToken = 16

func (t *table) addToken(cred *credential, id *Identity) error {
	sum := sha256.Sum256([]byte(cred.Token))
	if cred.TokenSHA256 != "" {
		raw, err := hex.DecodeString(cred.TokenSHA256)
		if err != nil || len(raw) != sha256.Size {
			return errors.New("token_sha256: expected 64 hexadecimal digits, as sha256sum prints")
		}
		sum = [sha256.Size]byte(raw)
	} else if len(cred.Token) < minToken {
		return fmt.Errorf("the token has %d bytes; expected at least %d", len(cred.Token), minToken)
	}
	if other, ok := t.tokens[sum]; ok {
		return fmt.Errorf("the token is %s's already", other.Name)
	}
	t.tokens[sum] = id
	return nil
}
