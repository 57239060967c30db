package agent

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/prometheus/prometheus/discovery/file"
	"github.com/prometheus/prometheus/discovery/kubernetes"
	"github.com/prometheus/prometheus/discovery/moby"
	"github.com/prometheus/prometheus/model/relabel"
	"go.yaml.in/yaml/v3"
)

const (
	remoteDiscovery = "it finds services on other machines, not log files on this one; use kubernetes_sd_configs, file_sd_configs or static_configs"
	otherCollector  = "let a collector that has this source push to the loki_push_api of this agent, or to the server"
)

// refused are keys of scrape_configs that Promtail has and Skald does not, with what to do
// instead. docs/agent.md lists them.
var refused = map[string]string{
	"dns_sd_configs": remoteDiscovery, "consul_sd_configs": remoteDiscovery, "consulagent_sd_configs": remoteDiscovery,
	"ec2_sd_configs": remoteDiscovery, "gce_sd_configs": remoteDiscovery, "azure_sd_configs": remoteDiscovery,
	"openstack_sd_configs": remoteDiscovery, "digitalocean_sd_configs": remoteDiscovery, "dockerswarm_sd_configs": remoteDiscovery,
	"marathon_sd_configs": remoteDiscovery, "nerve_sd_configs": remoteDiscovery, "serverset_sd_configs": remoteDiscovery,
	"triton_sd_configs": remoteDiscovery,
	"gcplog":            otherCollector, "kafka": otherCollector, "azure_event_hubs": otherCollector, "cloudflare": otherCollector,
	"gelf":           "send syslog instead (Docker's syslog driver, Graylog's syslog output), or read files",
	"heroku_drain":   "a Heroku drain of type syslog+tls can point to a job with a syslog block",
	"windows_events": "Skald runs on Linux",
}

// refuse looks for keys that are known but not supported.
func refuse(root *yaml.Node) error {
	if len(root.Content) == 0 {
		return nil
	}
	var errs []error
	for _, job := range items(member(root.Content[0], "scrape_configs")) {
		for i := 0; job.Kind == yaml.MappingNode && i+1 < len(job.Content); i += 2 {
			k := job.Content[i]
			if instead, ok := refused[k.Value]; ok {
				errs = append(errs, fmt.Errorf("line %d: not supported by Skald: %s; %s", k.Line, k.Value, instead))
			}
		}
	}
	return errors.Join(errs...)
}

// locate finds the line of an error that does not tell: it decodes the parts one by one until
// one fails the same way.
func locate(root *yaml.Node, err error) error {
	if len(root.Content) == 0 || strings.Contains(err.Error(), "line ") {
		return err
	}
	doc := root.Content[0]
	try := func(n *yaml.Node, into any) error {
		if got := n.Decode(into); got != nil && got.Error() == err.Error() {
			return fmt.Errorf("line %d: %w", n.Line, err)
		}
		return nil
	}
	for _, c := range append(items(member(doc, "clients")), nonNil(member(doc, "client"))...) {
		if e := try(c, new(Client)); e != nil {
			return e
		}
	}
	for _, job := range items(member(doc, "scrape_configs")) {
		for _, part := range []struct {
			key string
			new func() any
		}{
			{"relabel_configs", func() any { return new(relabel.Config) }},
			{"kubernetes_sd_configs", func() any { return new(kubernetes.SDConfig) }},
			{"file_sd_configs", func() any { return new(file.SDConfig) }},
			{"docker_sd_configs", func() any { return new(moby.DockerSDConfig) }},
			{"journal", func() any { return new(Journal) }},
			{"syslog", func() any { return new(Syslog) }},
			{"loki_push_api", func() any { return new(PushAPI) }},
		} {
			nodes := member(job, part.key)
			list := items(nodes)
			if nodes != nil && nodes.Kind == yaml.MappingNode {
				list = []*yaml.Node{nodes}
			}
			for _, n := range list {
				if e := try(n, part.new()); e != nil {
					return e
				}
			}
		}
	}
	return err
}

func nonNil(n *yaml.Node) []*yaml.Node {
	if n == nil {
		return nil
	}
	return []*yaml.Node{n}
}

var goType = regexp.MustCompile(` (in|into) (type )?([*\[\]]*[a-zA-Z]+\.\w+|struct \{.*)`)

// plainYAML removes Go's words from the errors of the YAML library.
func plainYAML(err error) error {
	var te *yaml.TypeError
	if !errors.As(err, &te) {
		return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	out := make([]string, len(te.Errors))
	for i, e := range te.Errors {
		out[i] = strings.Replace(goType.ReplaceAllString(e, ""), ": field ", ": unknown key ", 1)
		out[i] = strings.TrimSuffix(out[i], " not found")
	}
	return errors.New(strings.Join(out, "\n"))
}

func member(n *yaml.Node, key string) *yaml.Node {
	for i := 0; n != nil && n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return follow(n.Content[i+1])
		}
	}
	return nil
}

func items(n *yaml.Node) []*yaml.Node {
	if n == nil || n.Kind != yaml.SequenceNode {
		return nil
	}
	out := make([]*yaml.Node, len(n.Content))
	for i, c := range n.Content {
		out[i] = follow(c)
	}
	return out
}

func follow(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}
