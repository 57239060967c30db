package agent

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
)

// enabled reports whether the listener speaks TLS.
func (t *ServerTLS) enabled() bool { return t.Cert != "" || t.CertFile != "" }

var clientAuth = map[string]tls.ClientAuthType{
	"": tls.NoClientCert, "NoClientCert": tls.NoClientCert, "RequestClientCert": tls.RequestClientCert,
	"RequireAnyClientCert": tls.RequireAnyClientCert, "VerifyClientCertIfGiven": tls.VerifyClientCertIfGiven,
	"RequireAndVerifyClientCert": tls.RequireAndVerifyClientCert,
}

var tlsVersions = map[string]uint16{
	"": tls.VersionTLS12, "VersionTLS12": tls.VersionTLS12, "VersionTLS13": tls.VersionTLS13,
	"VersionTLS10": tls.VersionTLS10, "VersionTLS11": tls.VersionTLS11,
}

// serverTLS builds what a server block asks for, nil when it asks for no TLS.
func serverTLS(s *Server) (*tls.Config, error) {
	t := &s.HTTPTLS
	if !t.enabled() {
		if *t != (ServerTLS{}) {
			return nil, errors.New("http_tls_config: cert_file and key_file are required")
		}
		return nil, nil //nolint:nilnil // no TLS is an answer
	}
	cert, err := either("cert", t.Cert, t.CertFile)
	if err != nil {
		return nil, err
	}
	key, err := either("key", string(t.Key), t.KeyFile)
	if err != nil {
		return nil, err
	}
	cfg, err := listenerTLS(cert, key)
	if err != nil {
		return nil, fmt.Errorf("http_tls_config: %w", err)
	}
	var ok bool
	if cfg.ClientAuth, ok = clientAuth[t.ClientAuth]; !ok {
		return nil, fmt.Errorf("http_tls_config: client_auth_type is %q, want for example RequireAndVerifyClientCert", t.ClientAuth)
	}
	if cfg.MinVersion, ok = tlsVersions[s.TLSMinVersion]; !ok {
		return nil, fmt.Errorf("tls_min_version is %q, want VersionTLS12 or VersionTLS13", s.TLSMinVersion)
	}
	if cfg.CipherSuites, err = cipherSuites(s.TLSCipherSuites); err != nil {
		return nil, err
	}
	if t.ClientCA != "" || t.ClientCAFile != "" {
		ca, err := either("client_ca", t.ClientCA, t.ClientCAFile)
		if err != nil {
			return nil, err
		}
		if cfg.ClientCAs, err = certPool(ca); err != nil {
			return nil, fmt.Errorf("http_tls_config: client_ca: %w", err)
		}
		if t.ClientAuth == "" {
			cfg.ClientAuth = tls.RequireAndVerifyClientCert
		}
	}
	return cfg, nil
}

// syslogTLS builds a syslog listener's TLS, nil when there is none. A CA makes clients need
// a certificate of it.
func syslogTLS(t SyslogTLS) (*tls.Config, error) {
	if t == (SyslogTLS{}) {
		return nil, nil //nolint:nilnil // no TLS is an answer
	}
	cert, err := either("cert", "", t.CertFile)
	if err != nil {
		return nil, err
	}
	key, err := either("key", "", t.KeyFile)
	if err != nil {
		return nil, err
	}
	cfg, err := listenerTLS(cert, key)
	if err != nil {
		return nil, fmt.Errorf("tls_config: %w", err)
	}
	if t.CAFile != "" {
		ca, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("tls_config: ca_file: %w", err)
		}
		if cfg.ClientCAs, err = certPool(ca); err != nil {
			return nil, fmt.Errorf("tls_config: ca_file %s: %w", t.CAFile, err)
		}
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return cfg, nil
}

// either returns a text that is given, or that a file holds.
func either(what, text, file string) ([]byte, error) {
	switch {
	case text != "" && file != "":
		return nil, fmt.Errorf("TLS: %s and %s_file exclude each other", what, what)
	case text != "":
		return []byte(text), nil
	case file == "":
		return nil, fmt.Errorf("TLS: %s_file is required", what)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("TLS: %s_file: %w", what, err)
	}
	return b, nil
}

func listenerTLS(cert, key []byte) (*tls.Config, error) {
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

func certPool(pem []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in PEM form")
	}
	return pool, nil
}

// cipherSuites reads a list of names, separated by commas.
func cipherSuites(list string) ([]uint16, error) {
	if list == "" {
		return nil, nil
	}
	var out []uint16
names:
	for _, name := range strings.Split(list, ",") {
		name = strings.TrimSpace(name)
		for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
			if s.Name == name {
				out = append(out, s.ID)
				continue names
			}
		}
		return nil, fmt.Errorf("tls_cipher_suites: %q is not known", name)
	}
	return out, nil
}
