// Package auth says who a caller is and what the caller may do, from a file of credentials
// that is read again while the server runs. A credential is a user with a password, a bearer
// token, or the name in a verified client certificate; it opens some tenants, for reading,
// writing, deleting, or the server's own pages.
//
// The package knows neither HTTP nor gRPC: internal/server takes credentials out of requests
// and asks here.
package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"slices"
	"strings"

	"golang.org/x/crypto/bcrypt"

	"github.com/skaldlog/skald/internal/fault"
	"github.com/skaldlog/skald/internal/gencache"
	"github.com/skaldlog/skald/internal/model"
)

// Permission is a set of things that an identity may do.
type Permission uint8

// Public is no permission at all: whoever asks is served.
const Public Permission = 0

// The permissions.
const (
	Read    Permission = 1 << iota // queries, tails, labels
	Write                          // pushes
	Delete                         // delete requests
	Metrics                        // /metrics
	Admin                          // the server's own pages: flush, ring, config, profiles; implies Metrics
)

var permissionNames = map[string]Permission{
	"read": Read, "write": Write, "delete": Delete, "metrics": Metrics, "admin": Admin | Metrics,
}

// String names a single permission, for messages.
func (p Permission) String() string {
	for _, name := range []string{"read", "write", "delete", "metrics", "admin"} {
		if p&permissionNames[name] != 0 {
			return name
		}
	}
	return "public"
}

// Identity is one credential of the file.
type Identity struct {
	Name        string
	Permissions Permission
	// Tenants are the tenants it opens, sorted; Any opens all of them.
	Tenants []model.Tenant
	Any     bool
}

// May reports whether the identity has a permission.
func (i *Identity) May(p Permission) bool { return i.Permissions&p == p }

// Resolve returns the tenants of a request: those asked for, if all are open to the
// identity, or its only one when none is asked for.
func (i *Identity) Resolve(asked []model.Tenant) ([]model.Tenant, error) {
	if len(asked) == 0 {
		if len(i.Tenants) == 1 && !i.Any {
			return i.Tenants, nil
		}
		return nil, fault.New(fault.Unauthenticated, "no org id")
	}
	for _, t := range asked {
		if _, ok := slices.BinarySearch(i.Tenants, t); !ok && !i.Any {
			return nil, fault.New(fault.Forbidden, "tenant %s is not open to %s", t, i.Name)
		}
	}
	return asked, nil
}

// table is one reading of the file.
type table struct {
	users        map[string]*user
	tokens       map[[sha256.Size]byte]*Identity
	certificates map[string]*Identity
	// checked remembers which Authorization headers were right, by hash, since a bcrypt
	// hash takes tens of milliseconds to check. It dies with the table.
	checked *gencache.Cache[[sha256.Size]byte, *Identity]
	// slots bounds the bcrypt checks that run at once, so that guessing cannot take the CPU.
	slots chan struct{}
}

type user struct {
	identity *Identity
	bcrypt   []byte            // or
	sum      [sha256.Size]byte // of the plain password
}

const (
	maxChecked   = 10_000
	bcryptAtOnce = 2
)

func newTable() *table {
	return &table{
		users: map[string]*user{}, tokens: map[[sha256.Size]byte]*Identity{}, certificates: map[string]*Identity{},
		checked: gencache.New[[sha256.Size]byte, *Identity](maxChecked),
		slots:   make(chan struct{}, bcryptAtOnce),
	}
}

var (
	errMissing = fault.New(fault.Unauthenticated, "credentials are needed: basic, bearer, or a client certificate")
	errWrong   = fault.New(fault.Unauthenticated, "the credentials are not valid")
)

// identify finds the identity of an Authorization header, or of a verified certificate
// when there is no header.
func (t *table) identify(authorization string, cert *x509.Certificate) (*Identity, error) {
	if authorization == "" {
		if cert == nil {
			return nil, errMissing
		}
		for _, name := range certificateNames(cert) {
			if i, ok := t.certificates[name]; ok {
				return i, nil
			}
		}
		return nil, fault.New(fault.Unauthenticated, "the certificate of %q is no credential here", cert.Subject.CommonName)
	}
	scheme, rest, _ := strings.Cut(authorization, " ")
	rest = strings.TrimSpace(rest)
	switch {
	case strings.EqualFold(scheme, "bearer"):
		if i, ok := t.tokens[sha256.Sum256([]byte(rest))]; ok {
			return i, nil
		}
	case strings.EqualFold(scheme, "basic"):
		if decoded, err := base64.StdEncoding.DecodeString(rest); err == nil {
			return t.password(string(decoded))
		}
	}
	return nil, errWrong
}

// password checks name:password.
func (t *table) password(pair string) (*Identity, error) {
	name, password, ok := strings.Cut(pair, ":")
	u := t.users[name]
	if !ok || u == nil {
		return nil, errWrong
	}
	if u.bcrypt == nil {
		sum := sha256.Sum256([]byte(password))
		if subtle.ConstantTimeCompare(sum[:], u.sum[:]) == 1 {
			return u.identity, nil
		}
		return nil, errWrong
	}
	key := sha256.Sum256([]byte(pair))
	if i, ok := t.checked.Get(key); ok {
		return i, nil
	}
	select {
	case t.slots <- struct{}{}:
		defer func() { <-t.slots }()
	default:
		return nil, fault.New(fault.Unavailable, "too many passwords are being checked at once")
	}
	if bcrypt.CompareHashAndPassword(u.bcrypt, []byte(password)) != nil {
		return nil, errWrong
	}
	t.checked.Put(key, u.identity, 1)
	return u.identity, nil
}

// certificateNames are the names that a certificate is known by: its DNS names, then its
// common name.
func certificateNames(cert *x509.Certificate) []string {
	return append(slices.Clone(cert.DNSNames), cert.Subject.CommonName)
}
