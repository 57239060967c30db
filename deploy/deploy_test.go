package deploy

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "render the plain manifests anew")

// rendered are the plain manifests and the values each is rendered with.
var rendered = map[string][]string{
	"kubernetes/skald.yaml": {"--namespace=skald", "--set=agent.enabled=false", "--set=storage.url=s3://logs/skald?region=eu-central-1"},
	"kubernetes/agent.yaml": {"--namespace=skald-agent", "--set=mode=agent", "--set=agent.url=http://skald-write.skald.svc:3100/loki/api/v1/push"},
}

// variants are further values under which the chart must be valid.
var variants = map[string][]string{
	"single": {"--set=mode=single"},
	"everything": {
		"--set=storage.url=s3://b/p", "--set=storage.existingSecret=s3", "--set=auth.enabled=true", "--set=image.digest=sha256:0123",
		"--set=image.pullSecrets[0].name=pull", "--set=ingester.replicas=5", "--set=ingester.volume.storageClass=fast", "--set=serviceAccount.annotations.role=arn",
		"--set=limits.ingestion_rate_mb=8", "--set=overrides.team-a.ingestion_rate_mb=50", "--set=config.log\\.level=debug",
		"--set=nodeSelector.disk=ssd", "--set=agent.tenant=ops", "--set=tolerations[0].operator=Exists",
	},
	"bare": {"--set=mode=single", "--set=networkPolicy.enabled=false", "--set=podDisruptionBudget.enabled=false", "--set=agent.enabled=false"},
}

// tool finds a program that `make kubernetes-tools` installs. Without it the test is
// skipped, unless SKALD_REQUIRE_KUBERNETES_TOOLS is set, as in continuous integration.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "bin", name))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil && os.Getenv("SKALD_REQUIRE_KUBERNETES_TOOLS") == "" {
		t.Skipf("bin/%s is not there: make kubernetes-tools installs it", name)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(tool(t, "helm"), append(args, "--kube-version=1.34.0")...)
	home := t.TempDir()
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("helm %s: %w\n%s%s", strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

func render(t *testing.T, values []string) string {
	t.Helper()
	text, err := helm(t, append([]string{"template", "skald", "helm/skald"}, values...)...)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestPlainManifestsAreTheChart(t *testing.T) {
	for file, values := range rendered {
		want := header(file, values) + render(t, values)
		if *update {
			if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := read(t, file); got != want {
			t.Errorf("%s is not what the chart renders: run make manifests", file)
		}
	}
}

// header begins a plain manifest: where it comes from, and its namespace.
func header(file string, values []string) string {
	namespace, standard := "skald", "restricted"
	if strings.Contains(file, "agent") {
		// Host directories are mounted, which only this standard allows.
		namespace, standard = "skald-agent", "privileged"
	}
	return fmt.Sprintf(`# Rendered from deploy/helm/skald by "make manifests"; edit the chart, not this file.
apiVersion: v1
kind: Namespace
metadata:
  name: %s
  labels:
    pod-security.kubernetes.io/enforce: %s
    pod-security.kubernetes.io/warn: %[2]s
`, namespace, standard)
}

func TestManifestsMatchTheAPI(t *testing.T) {
	kubeconform := tool(t, "kubeconform")
	schemas := filepath.Join("..", "bin", "kubernetes-schemas", "{{ .ResourceKind }}{{ .KindSuffix }}.json")
	check := func(name, text string) error {
		cmd := exec.Command(kubeconform, "-strict", "-summary", "-schema-location", schemas, "-")
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", name, err, out)
		}
		return nil
	}
	for name, text := range everyManifest(t) {
		if err := check(name, text); err != nil {
			t.Error(err)
		}
	}
	if check("a wrong one", "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {prots: []}\n") == nil {
		t.Error("a misspelt field was not noticed")
	}
}

func TestChartLints(t *testing.T) {
	if _, err := helm(t, "lint", "--strict", "helm/skald", "--set=storage.url=s3://b/p"); err != nil {
		t.Error(err)
	}
	for wrong, expect := range map[string]string{
		"--set=mode=ring":  "storage.url: ring mode needs",
		"--set=mode=rings": "expected ring, single or agent",
		"--set=mode=agent": "agent.url: agent mode needs",
		"--set=storage.url=s3://b/p,ingester.replicas=2": "2 ingesters cannot hold 3 copies",
	} {
		if _, err := helm(t, "template", "skald", "helm/skald", wrong); err == nil || !strings.Contains(err.Error(), expect) {
			t.Errorf("helm template %s: got %v, want %q", wrong, err, expect)
		}
	}
}

// everyManifest is each plain manifest and each variant of the chart, where helm is there.
func everyManifest(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for file := range rendered {
		all[file] = read(t, file)
	}
	if _, err := os.Stat("../bin/helm"); err == nil {
		for name, values := range variants {
			all[name] = render(t, values)
		}
	}
	return all
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestPodsAreRestricted checks the rules of the restricted Pod Security Standard
// (kubernetes.io/docs/concepts/security/pod-security-standards), and two of our own: a
// read-only root filesystem and resource requests. The agent may mount host directories and
// be root, since other pods' files belong to root; nothing else.
func TestPodsAreRestricted(t *testing.T) {
	pods := 0
	for name, text := range everyManifest(t) {
		for _, doc := range documents(t, name, text) {
			spec := field(doc, "spec", "template", "spec")
			if spec == nil {
				continue
			}
			pods++
			where := fmt.Sprintf("%s: %v", name, field(doc, "metadata", "name"))
			agent := field(doc, "kind") == "DaemonSet"
			for _, complaint := range podComplaints(spec, agent) {
				t.Errorf("%s: %s", where, complaint)
			}
		}
	}
	if pods < 5 {
		t.Errorf("only %d pods were looked at", pods)
	}
}

func podComplaints(spec any, agent bool) (complaints []string) {
	want := func(ok bool, what string) {
		if !ok {
			complaints = append(complaints, what)
		}
	}
	want(field(spec, "securityContext", "seccompProfile", "type") == "RuntimeDefault", "seccompProfile is not RuntimeDefault")
	if !agent {
		want(field(spec, "securityContext", "runAsNonRoot") == true, "runAsNonRoot is not set")
		uid, _ := field(spec, "securityContext", "runAsUser").(int)
		want(uid > 0, "runAsUser is root")
		want(field(spec, "automountServiceAccountToken") == false, "the service account's token is mounted")
	}
	for _, host := range []string{"hostNetwork", "hostPID", "hostIPC"} {
		want(field(spec, host) == nil, host+" is set")
	}
	volumes, _ := field(spec, "volumes").([]any)
	for _, v := range volumes {
		for kind := range v.(map[string]any) {
			allowed := []string{"name", "configMap", "emptyDir", "secret", "projected", "persistentVolumeClaim"}
			if agent {
				allowed = append(allowed, "hostPath")
			}
			want(slices.Contains(allowed, kind), "volume of kind "+kind)
		}
	}
	containers, _ := field(spec, "containers").([]any)
	want(len(containers) > 0, "no container")
	for _, c := range containers {
		want(field(c, "securityContext", "allowPrivilegeEscalation") == false, "allowPrivilegeEscalation is not false")
		want(field(c, "securityContext", "readOnlyRootFilesystem") == true, "the root filesystem can be written")
		drop, _ := field(c, "securityContext", "capabilities", "drop").([]any)
		want(len(drop) == 1 && drop[0] == "ALL", "capabilities are not dropped")
		want(field(c, "securityContext", "capabilities", "add") == nil, "a capability is added")
		want(field(c, "resources", "requests", "memory") != nil && field(c, "resources", "requests", "cpu") != nil, "no resource requests")
		want(field(c, "resources", "limits", "memory") != nil, "no memory limit")
	}
	return complaints
}

// TestSettingsExist holds each flag, key and variable of the manifests against the manual,
// which is generated from the binary's flags.
func TestSettingsExist(t *testing.T) {
	manual := read(t, "../docs/cli.md")
	known := map[string]bool{}
	for _, m := range regexp.MustCompile("`--?([a-z][a-z0-9.-]+)[` ]").FindAllStringSubmatch(manual, -1) {
		known[m[1]] = true
	}
	for _, m := range regexp.MustCompile(`SKALD_[A-Z_]+`).FindAllString(manual, -1) {
		known[m] = true
	}
	seen := 0
	check := func(where, name string) {
		seen++
		if !known[name] {
			t.Errorf("%s: the binary has no setting %s", where, name)
		}
	}
	for name, text := range everyManifest(t) {
		for _, doc := range documents(t, name, text) {
			config, _ := field(doc, "data", "skald.yaml").(string)
			var keys map[string]any
			if err := yaml.Unmarshal([]byte(config), &keys); err != nil {
				t.Errorf("%s: skald.yaml: %v", name, err)
			}
			for key := range keys {
				if key != "limits" {
					check(name+": skald.yaml", key)
				}
			}
			containers, _ := field(doc, "spec", "template", "spec", "containers").([]any)
			for _, c := range containers {
				args, _ := field(c, "args").([]any)
				for _, a := range args {
					if flag, ok := strings.CutPrefix(a.(string), "-"); ok {
						flag, _, _ = strings.Cut(flag, "=")
						check(name, flag)
					}
				}
				env, _ := field(c, "env").([]any)
				for _, e := range env {
					if v := field(e, "name").(string); strings.HasPrefix(v, "SKALD_") {
						check(name, v)
					}
				}
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d settings were found", seen)
	}
}

// documents splits a manifest into its objects.
func documents(t *testing.T, name, text string) (docs []any) {
	t.Helper()
	dec := yaml.NewDecoder(strings.NewReader(text))
	for {
		var doc map[string]any
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return docs
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if doc != nil {
			docs = append(docs, doc)
		}
	}
}

// field follows keys through nested maps; nil when one is missing.
func field(v any, keys ...string) any {
	for _, k := range keys {
		m, _ := v.(map[string]any)
		v = m[k]
	}
	return v
}
