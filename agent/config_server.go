package agent

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Server is Promtail's server block. Only the first group of keys has an effect; the others
// are read so that existing files load.
type Server struct {
	Disable           bool      `yaml:"disable"`
	HTTPListenAddress string    `yaml:"http_listen_address"`
	HTTPListenPort    int       `yaml:"http_listen_port"` // 0 means any free port
	HTTPListenNetwork string    `yaml:"http_listen_network"`
	HTTPPathPrefix    string    `yaml:"http_path_prefix"`
	HTTPTLS           ServerTLS `yaml:"http_tls_config"`
	HealthCheckTarget *bool     `yaml:"health_check_target"`
	ProfilingEnabled  bool      `yaml:"profiling_enabled"`
	LogLevel          string    `yaml:"log_level"`
	LogFormat         string    `yaml:"log_format"`

	ExternalURL              string        `yaml:"external_url"`
	EnableRuntimeReload      bool          `yaml:"enable_runtime_reload"`
	RegisterInstrumentation  *bool         `yaml:"register_instrumentation"`
	GracefulShutdownTimeout  time.Duration `yaml:"graceful_shutdown_timeout"`
	HTTPReadTimeout          time.Duration `yaml:"http_server_read_timeout"`
	HTTPReadHeaderTimeout    time.Duration `yaml:"http_server_read_header_timeout"`
	HTTPWriteTimeout         time.Duration `yaml:"http_server_write_timeout"`
	HTTPIdleTimeout          time.Duration `yaml:"http_server_idle_timeout"`
	HTTPConnLimit            int           `yaml:"http_listen_conn_limit"`
	GRPCListenNetwork        string        `yaml:"grpc_listen_network"`
	GRPCListenAddress        string        `yaml:"grpc_listen_address"`
	GRPCListenPort           int           `yaml:"grpc_listen_port"`
	GRPCConnLimit            int           `yaml:"grpc_listen_conn_limit"`
	GRPCTLS                  ServerTLS     `yaml:"grpc_tls_config"`
	GRPCMaxRecv              int           `yaml:"grpc_server_max_recv_msg_size"`
	GRPCMaxSend              int           `yaml:"grpc_server_max_send_msg_size"`
	GRPCMaxStreams           uint          `yaml:"grpc_server_max_concurrent_streams"`
	GRPCMaxIdle              time.Duration `yaml:"grpc_server_max_connection_idle"`
	GRPCMaxAge               time.Duration `yaml:"grpc_server_max_connection_age"`
	GRPCMaxAgeGrace          time.Duration `yaml:"grpc_server_max_connection_age_grace"`
	GRPCKeepaliveTime        time.Duration `yaml:"grpc_server_keepalive_time"`
	GRPCKeepaliveTimeout     time.Duration `yaml:"grpc_server_keepalive_timeout"`
	GRPCMinPing              time.Duration `yaml:"grpc_server_min_time_between_pings"`
	GRPCPingWithoutStream    bool          `yaml:"grpc_server_ping_without_stream_allowed"`
	TLSCipherSuites          string        `yaml:"tls_cipher_suites"`
	TLSMinVersion            string        `yaml:"tls_min_version"`
	LogSourceIPs             bool          `yaml:"log_source_ips_enabled"`
	LogSourceIPsFull         bool          `yaml:"log_source_ips_full"`
	LogSourceIPsHeader       string        `yaml:"log_source_ips_header"`
	LogSourceIPsRegex        string        `yaml:"log_source_ips_regex"`
	LogRequestHeaders        bool          `yaml:"log_request_headers"`
	LogRequestAtInfo         bool          `yaml:"log_request_at_info_level_enabled"`
	LogRequestExcludeHeaders string        `yaml:"log_request_exclude_headers_list"`
	ProxyProtocol            bool          `yaml:"proxy_protocol_enabled"`
}

// ServerTLS names the certificates of a listener.
type ServerTLS struct {
	Cert         string `yaml:"cert"`
	Key          string `yaml:"key"`
	ClientCA     string `yaml:"client_ca"`
	CertFile     string `yaml:"cert_file"`
	KeyFile      string `yaml:"key_file"`
	ClientCAFile string `yaml:"client_ca_file"`
	ClientAuth   string `yaml:"client_auth_type"`
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
