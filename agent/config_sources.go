package agent

import (
	"errors"
	"fmt"
	"time"

	pmodel "github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/file"
	"github.com/prometheus/prometheus/discovery/kubernetes"
	"github.com/prometheus/prometheus/discovery/moby"
	"github.com/prometheus/prometheus/model/relabel"
	"go.yaml.in/yaml/v3"
	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/ianaindex"

	"github.com/skaldlog/skald/agent/tail"
)

// ScrapeConfig is one job. It has one kind of source: files, when any of the first three
// lists is there, or else the first of the blocks that is.
type ScrapeConfig struct {
	JobName        string            `yaml:"job_name"`
	PipelineStages []yaml.Node       `yaml:"pipeline_stages,omitempty"`
	Relabel        []*relabel.Config `yaml:"relabel_configs,omitempty"`
	// Encoding is the character set of the files, by its IANA name; UTF-8 when empty.
	Encoding      string         `yaml:"encoding,omitempty"`
	Decompression *Decompression `yaml:"decompression,omitempty"`

	Static     []StaticGroup          `yaml:"static_configs,omitempty"`
	File       []*file.SDConfig       `yaml:"file_sd_configs,omitempty"`
	Kubernetes []*kubernetes.SDConfig `yaml:"kubernetes_sd_configs,omitempty"`

	Journal *Journal               `yaml:"journal,omitempty"`
	Syslog  *Syslog                `yaml:"syslog,omitempty"`
	Push    *PushAPI               `yaml:"loki_push_api,omitempty"`
	Docker  []*moby.DockerSDConfig `yaml:"docker_sd_configs,omitempty"`
}

// StaticGroup is a group of targets. For files, the labels matter: __path__ is the pattern.
type StaticGroup struct {
	Targets []string          `yaml:"targets,omitempty"`
	Labels  map[string]string `yaml:"labels,omitempty"`
}

// Journal makes a job read the systemd journal.
type Journal struct {
	// MaxAge bounds how old entries are that are read for the first time. Default 7h.
	MaxAge time.Duration `yaml:"max_age,omitempty"`
	// JSON makes the line an object of all fields instead of MESSAGE.
	JSON   bool              `yaml:"json,omitempty"`
	Labels map[string]string `yaml:"labels,omitempty"`
	// Path is a directory of journal files; the system's when empty.
	Path string `yaml:"path,omitempty"`
	// Matches are FIELD=value, separated by blanks.
	Matches string `yaml:"matches,omitempty"`
}

// UnmarshalYAML gives the defaults.
func (j *Journal) UnmarshalYAML(unmarshal func(any) error) error {
	type plain Journal
	*j = Journal{MaxAge: 7 * time.Hour}
	return unmarshal((*plain)(j))
}

// Syslog makes a job listen for syslog messages.
type Syslog struct {
	ListenAddress        string            `yaml:"listen_address"`
	ListenProtocol       string            `yaml:"listen_protocol,omitempty"`
	IdleTimeout          time.Duration     `yaml:"idle_timeout,omitempty"`
	LabelStructuredData  bool              `yaml:"label_structured_data,omitempty"`
	Labels               map[string]string `yaml:"labels,omitempty"`
	UseIncomingTimestamp bool              `yaml:"use_incoming_timestamp,omitempty"`
	UseRFC5424Message    bool              `yaml:"use_rfc5424_message,omitempty"`
	Format               string            `yaml:"syslog_format,omitempty"`
	MaxMessageLength     int               `yaml:"max_message_length,omitempty"`
	TLS                  SyslogTLS         `yaml:"tls_config,omitempty"`
}

// SyslogTLS names the certificates of a listener; a CA makes clients need one of it.
type SyslogTLS struct {
	CertFile string `yaml:"cert_file,omitempty"`
	KeyFile  string `yaml:"key_file,omitempty"`
	CAFile   string `yaml:"ca_file,omitempty"`
}

// UnmarshalYAML gives the defaults and checks the choices.
func (s *Syslog) UnmarshalYAML(unmarshal func(any) error) error {
	type plain Syslog
	*s = Syslog{ListenProtocol: "tcp", IdleTimeout: 2 * time.Minute, Format: "rfc5424", MaxMessageLength: 8192}
	if err := unmarshal((*plain)(s)); err != nil {
		return err
	}
	switch {
	case s.ListenAddress == "":
		return errors.New("syslog: listen_address is required")
	case s.ListenProtocol != "tcp" && s.ListenProtocol != "udp":
		return fmt.Errorf("syslog: listen_protocol is %q, want tcp or udp", s.ListenProtocol)
	case s.Format != "rfc5424" && s.Format != "rfc3164":
		return fmt.Errorf("syslog: syslog_format is %q, want rfc5424 or rfc3164", s.Format)
	case s.MaxMessageLength <= 0 || s.MaxMessageLength > maxSyslogMessage:
		return fmt.Errorf("syslog: max_message_length is %d, want 1 to %d", s.MaxMessageLength, maxSyslogMessage)
	case s.ListenProtocol == "udp" && s.TLS != (SyslogTLS{}):
		return errors.New("syslog: tls_config needs listen_protocol tcp")
	}
	return nil
}

// maxSyslogMessage bounds max_message_length, in bytes: each connection has such a buffer.
const maxSyslogMessage = 16 << 20

// PushAPI makes a job a server that other agents push to.
type PushAPI struct {
	Server               Server            `yaml:"server"`
	Labels               map[string]string `yaml:"labels,omitempty"`
	UseIncomingTimestamp bool              `yaml:"use_incoming_timestamp,omitempty"`
	// MaxSendMsgSize bounds the body of a request, in bytes. Default 100 MiB.
	MaxSendMsgSize Bytes `yaml:"max_send_msg_size,omitempty"`
}

// UnmarshalYAML gives the defaults.
func (p *PushAPI) UnmarshalYAML(unmarshal func(any) error) error {
	type plain PushAPI
	*p = PushAPI{Server: DefaultServer(), MaxSendMsgSize: 100 << 20}
	return unmarshal((*plain)(p))
}

// Decompression says that the files of a job are compressed.
type Decompression struct {
	Enabled      bool          `yaml:"enabled"`
	InitialDelay time.Duration `yaml:"initial_delay,omitempty"`
	Format       string        `yaml:"format"` // gz, z or bz2
}

// charset finds the encoding; nil stands for bytes as they are.
func (j *ScrapeConfig) charset() (encoding.Encoding, error) {
	if j.Encoding == "" {
		return nil, nil //nolint:nilnil // no conversion is an answer
	}
	e, err := ianaindex.IANA.Encoding(j.Encoding)
	if err != nil || e == nil {
		return nil, fmt.Errorf("encoding %q is not the IANA name of a character set that is known here", j.Encoding)
	}
	return e, nil
}

// files reports whether the job follows files.
func (j *ScrapeConfig) files() bool {
	return len(j.Static)+len(j.File)+len(j.Kubernetes) > 0
}

// discovery returns the job's discovery of files; static_configs are not part of it.
func (j *ScrapeConfig) discovery() []discovery.Config {
	var out []discovery.Config
	for _, c := range j.File {
		out = append(out, c)
	}
	for _, c := range j.Kubernetes {
		out = append(out, c)
	}
	return out
}

// kind names the source of a job, "" when it has none.
func (j *ScrapeConfig) kind() string {
	switch {
	case j.files():
		return "File"
	case j.Journal != nil:
		return "Journal"
	case j.Syslog != nil:
		return "Syslog"
	case j.Push != nil:
		return "Push"
	case len(j.Docker) > 0:
		return "Docker"
	}
	return ""
}

// finishJobs checks the jobs.
func (c *Config) finishJobs() error {
	jobs := map[string]bool{}
	for i := range c.ScrapeConfigs {
		j := &c.ScrapeConfigs[i]
		if j.JobName == "" {
			return fmt.Errorf("scrape_configs[%d]: job_name is required", i)
		}
		if jobs[j.JobName] {
			return fmt.Errorf("scrape_configs[%d]: a second job named %q", i, j.JobName)
		}
		jobs[j.JobName] = true
		if err := c.finishJob(j); err != nil {
			return fmt.Errorf("job %s: %w", j.JobName, err)
		}
	}
	return nil
}

func (c *Config) finishJob(j *ScrapeConfig) error {
	if j.kind() == "" && !c.TargetConfig.Stdin {
		return errors.New("no source: want static_configs, file_sd_configs, kubernetes_sd_configs, docker_sd_configs, journal, syslog or loki_push_api")
	}
	for k, r := range j.Relabel {
		if r == nil {
			return fmt.Errorf("relabel_configs[%d] is empty", k)
		}
		if err := r.Validate(pmodel.LegacyValidation); err != nil {
			return fmt.Errorf("relabel_configs[%d]: %w", k, err)
		}
	}
	for k, s := range j.File {
		if s == nil {
			return fmt.Errorf("file_sd_configs[%d] is empty", k)
		}
	}
	for k, s := range j.Kubernetes {
		if s == nil {
			return fmt.Errorf("kubernetes_sd_configs[%d] is empty", k)
		}
	}
	for k, s := range j.Docker {
		if s == nil {
			return fmt.Errorf("docker_sd_configs[%d] is empty", k)
		}
	}
	if _, err := j.charset(); err != nil {
		return err
	}
	if d := j.Decompression; d != nil && d.Enabled {
		if err := tail.CheckDecompression(d.Format); err != nil {
			return fmt.Errorf("decompression: %w", err)
		}
	}
	if j.Push != nil && j.Push.Server.HTTPListenPort != 0 && !c.Server.Disable &&
		j.Push.Server.HTTPListenPort == c.Server.HTTPListenPort && j.Push.Server.HTTPListenAddress == c.Server.HTTPListenAddress {
		return fmt.Errorf("loki_push_api.server.http_listen_port: %d is the agent's own port", c.Server.HTTPListenPort)
	}
	return nil
}
