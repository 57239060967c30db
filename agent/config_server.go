package agent

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	promconfig "github.com/prometheus/common/config"
	"go.yaml.in/yaml/v3"
)

// Server is Promtail's server block. Only the first group of keys has an effect; the others
// are read so that existing files load.
type Server struct {
	Disable           bool      `yaml:"disable,omitempty"`
	HTTPListenAddress string    `yaml:"http_listen_address,omitempty"`
	HTTPListenPort    int       `yaml:"http_listen_port"` // 0 means any free port
	HTTPListenNetwork string    `yaml:"http_listen_network,omitempty"`
	HTTPPathPrefix    string    `yaml:"http_path_prefix,omitempty"`
	HTTPTLS           ServerTLS `yaml:"http_tls_config,omitempty"`
	HealthCheckTarget *bool     `yaml:"health_check_target,omitempty"`
	ProfilingEnabled  bool      `yaml:"profiling_enabled,omitempty"`
	LogLevel          string    `yaml:"log_level,omitempty"`
	LogFormat         string    `yaml:"log_format,omitempty"`

	ExternalURL              string        `yaml:"external_url,omitempty"`
	EnableRuntimeReload      bool          `yaml:"enable_runtime_reload,omitempty"`
	RegisterInstrumentation  *bool         `yaml:"register_instrumentation,omitempty"`
	GracefulShutdownTimeout  time.Duration `yaml:"graceful_shutdown_timeout,omitempty"`
	HTTPReadTimeout          time.Duration `yaml:"http_server_read_timeout,omitempty"`
	HTTPReadHeaderTimeout    time.Duration `yaml:"http_server_read_header_timeout,omitempty"`
	HTTPWriteTimeout         time.Duration `yaml:"http_server_write_timeout,omitempty"`
	HTTPIdleTimeout          time.Duration `yaml:"http_server_idle_timeout,omitempty"`
	HTTPConnLimit            int           `yaml:"http_listen_conn_limit,omitempty"`
	GRPCListenNetwork        string        `yaml:"grpc_listen_network,omitempty"`
	GRPCListenAddress        string        `yaml:"grpc_listen_address,omitempty"`
	GRPCListenPort           int           `yaml:"grpc_listen_port,omitempty"`
	GRPCConnLimit            int           `yaml:"grpc_listen_conn_limit,omitempty"`
	GRPCTLS                  ServerTLS     `yaml:"grpc_tls_config,omitempty"`
	GRPCMaxRecv              int           `yaml:"grpc_server_max_recv_msg_size,omitempty"`
	GRPCMaxSend              int           `yaml:"grpc_server_max_send_msg_size,omitempty"`
	GRPCMaxStreams           uint          `yaml:"grpc_server_max_concurrent_streams,omitempty"`
	GRPCMaxIdle              time.Duration `yaml:"grpc_server_max_connection_idle,omitempty"`
	GRPCMaxAge               time.Duration `yaml:"grpc_server_max_connection_age,omitempty"`
	GRPCMaxAgeGrace          time.Duration `yaml:"grpc_server_max_connection_age_grace,omitempty"`
	GRPCKeepaliveTime        time.Duration `yaml:"grpc_server_keepalive_time,omitempty"`
	GRPCKeepaliveTimeout     time.Duration `yaml:"grpc_server_keepalive_timeout,omitempty"`
	GRPCMinPing              time.Duration `yaml:"grpc_server_min_time_between_pings,omitempty"`
	GRPCPingWithoutStream    bool          `yaml:"grpc_server_ping_without_stream_allowed,omitempty"`
	TLSCipherSuites          string        `yaml:"tls_cipher_suites,omitempty"`
	TLSMinVersion            string        `yaml:"tls_min_version,omitempty"`
	LogSourceIPs             bool          `yaml:"log_source_ips_enabled,omitempty"`
	LogSourceIPsFull         bool          `yaml:"log_source_ips_full,omitempty"`
	LogSourceIPsHeader       string        `yaml:"log_source_ips_header,omitempty"`
	LogSourceIPsRegex        string        `yaml:"log_source_ips_regex,omitempty"`
	LogRequestHeaders        bool          `yaml:"log_request_headers,omitempty"`
	LogRequestAtInfo         bool          `yaml:"log_request_at_info_level_enabled,omitempty"`
	LogRequestExcludeHeaders string        `yaml:"log_request_exclude_headers_list,omitempty"`
	ProxyProtocol            bool          `yaml:"proxy_protocol_enabled,omitempty"`
}

// DefaultServer returns the server block of an empty file.
func DefaultServer() Server {
	return Server{
		HTTPListenPort: 80, LogLevel: "info", LogFormat: "logfmt",
		HTTPReadTimeout: 30 * time.Second, HTTPWriteTimeout: 30 * time.Second, HTTPIdleTimeout: 2 * time.Minute,
	}
}

// UnmarshalYAML refuses what has no meaning.
func (s *Server) UnmarshalYAML(unmarshal func(any) error) error {
	type plain Server
	if err := unmarshal((*plain)(s)); err != nil {
		return err
	}
	if p := s.HTTPListenPort; p < 0 || p > 65535 {
		return fmt.Errorf("server: http_listen_port is %d, want 0 to 65535", p)
	}
	if n := s.HTTPListenNetwork; n != "" && n != "tcp" && n != "tcp4" && n != "tcp6" {
		return fmt.Errorf("server: http_listen_network is %q, want tcp, tcp4 or tcp6", n)
	}
	return nil
}

// ServerTLS names the certificates of a listener, or holds them.
type ServerTLS struct {
	Cert         string            `yaml:"cert,omitempty"`
	Key          promconfig.Secret `yaml:"key,omitempty"`
	ClientCA     string            `yaml:"client_ca,omitempty"`
	CertFile     string            `yaml:"cert_file,omitempty"`
	KeyFile      string            `yaml:"key_file,omitempty"`
	ClientCAFile string            `yaml:"client_ca_file,omitempty"`
	// ClientAuth is one of the names of crypto/tls, such as RequireAndVerifyClientCert.
	ClientAuth string `yaml:"client_auth_type,omitempty"`
}

var _ yaml.Unmarshaler = (*Bytes)(nil)

// parseBytes reads a size; all units are powers of 1024.
func parseBytes(s string) (int64, error) {
	t := strings.ToLower(strings.TrimSpace(s))
	num := strings.TrimRight(t, "bikmg ")
	shift, ok := map[string]uint{"": 0, "b": 0, "k": 10, "kb": 10, "kib": 10, "m": 20, "mb": 20, "mib": 20, "g": 30, "gb": 30, "gib": 30}[strings.TrimSpace(t[len(num):])]
	v, err := strconv.ParseInt(strings.TrimSpace(num), 10, 64)
	if !ok || err != nil || v < 0 || v > 1<<40>>shift {
		return 0, fmt.Errorf("%q is not a size such as 262144 or 256kb", s)
	}
	return v << shift, nil
}
