package object

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOpenErrors(t *testing.T) {
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_DEFAULT_REGION", "")
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	noPEM := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(noPEM, []byte("hello"), 0o600))
	for url, want := range map[string]string{
		"http://x/y":                         `scheme "http"`,
		"s3://?region=x":                     "no bucket",
		"s3://b/p":                           `"region" is missing`,
		"s3://b/p?regoin=x":                  `"regoin" is not known, want one of endpoint, region`,
		"s3://b/p?region=x&region=y":         `"region" is given 2 times`,
		"s3://b/p?region=":                   `"region" is empty`,
		"s3://b/p?endpoint=minio:9000":       `"endpoint": want a URL`,
		"s3://b/p?endpoint=http://u:hush@h":  `"endpoint": credentials`,
		"s3://b/p?region=x&path_style=si":    `"path_style": got "si"`,
		"s3://b/p?region=x&sse=rot13":        `"sse": got "rot13"`,
		"s3://b/p?region=x&sse_kms_key_id=k": `"sse_kms_key_id": needs sse=aws:kms`,
		"s3://b/p?region=x&checksums=no":     `"checksums": got "no"`,
		"s3://b/p?region=x&ca_file=/none":    `"ca_file": open /none`,
		"s3://b/p?region=x&ca_file=" + noPEM: "holds no PEM certificate",
		"s3://b/a/../b?region=x":             "prefix",
		"s3://id:hush@b/p?region=x":          "credentials do not belong there",
		"s3://id:hush@b/%zz":                 "escape",
		"file://":                            "no path",
		"file:///x?sync=no":                  `"sync" is not known`,
		"mem://?x=y":                         `"x" is not known`,
		"file:///x#y":                        "unexpected #y",
	} {
		s, err := Open(t.Context(), url, Options{})
		if err == nil {
			t.Errorf("%s: opened %s", url, s)
			continue
		}
		if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: got %q, want …%s…", url, err, want)
		}
	}
}

func TestOpenDirectories(t *testing.T) {
	dir := t.TempDir()
	for _, url := range []string{dir, "file://" + dir, "file://localhost" + dir} {
		s, err := Open(t.Context(), url, Options{})
		must(t, err)
		if got := s.String(); got != "file://"+dir {
			t.Errorf("%s opens %s", url, got)
		}
	}
	t.Chdir(dir)
	for _, url := range []string{"data/objects", "./data/objects", "file://data/objects"} {
		s, err := Open(t.Context(), url, Options{})
		must(t, err)
		if got := s.String(); !strings.HasSuffix(got, "/data/objects") {
			t.Errorf("%s opens %s", url, got)
		}
	}
}
