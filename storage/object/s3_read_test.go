package object

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// Ranges are read without the SDK's layers, whatever the key holds; what these know to do about an
// answer is left to them.
func TestS3DirectReads(t *testing.T) {
	s, _, p := openS3Proxy(t)
	for _, key := range []Key{"t/plain.seg", "a b+c%2F/ü=&?'()*!.seg"} {
		p.set(nil)
		must(t, s.Put(t.Context(), key, bytes.NewReader([]byte("0123456789")), 10))
		got := make([]byte, 4)
		p.set(nil)
		must(t, s.ReadAt(t.Context(), key, got, 3))
		if string(got) != "3456" {
			t.Errorf("%s: got %q", key, got)
		}
		if n := p.count(http.MethodGet); n != 1 || p.mu.headers[0].Get("User-Agent") != "skald" {
			t.Errorf("%s: %d requests by %q", key, n, p.mu.headers[0].Get("User-Agent"))
		}
		for _, status := range []int{http.StatusForbidden, http.StatusMovedPermanently, http.StatusBadRequest} {
			clear(got)
			p.set(func(w http.ResponseWriter, r *http.Request) bool {
				return r.UserAgent() == "skald" && s3Error(w, status, "SomethingOrOther")
			})
			must(t, s.ReadAt(t.Context(), key, got, 3))
			if n := p.count(http.MethodGet); string(got) != "3456" || n != 2 {
				t.Errorf("%s, after %d: got %q by %d requests", key, status, got, n)
			}
		}
		p.set(func(w http.ResponseWriter, r *http.Request) bool { return s3Error(w, 503, "SlowDown") })
		err := s.ReadAt(t.Context(), key, got, 3)
		if n := p.count(http.MethodGet); !IsTransient(err) || !strings.Contains(err.Error(), "SlowDown: as the test wants (status 503)") || n != 1 {
			t.Errorf("%s: got %v by %d requests", key, err, n)
		}
	}
}

// Where the bucket is, and whether a signature is all it takes, is the SDK's word.
func TestS3DirectBucket(t *testing.T) {
	f := func(bucket, want string, edit func(*s3.Options)) {
		t.Helper()
		t.Setenv("AWS_ACCESS_KEY_ID", "key")
		t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
		store, err := NewS3(t.Context(), S3Config{Bucket: bucket, Region: "eu-central-1"})
		must(t, err)
		got := ""
		if d := newDirect(t.Context(), s3.New(store.client.Options(), edit), nil, bucket); d != nil {
			req, err := d.request(t.Context(), "t/2026-11-24/a b.seg", "bytes=0-9")
			must(t, err)
			got = req.URL.String() + " " + d.service + " " + d.region
			if !strings.Contains(req.Header.Get("Authorization"), "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date") {
				t.Errorf("%s: %q", bucket, req.Header.Get("Authorization"))
			}
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", bucket, got, want)
		}
	}
	f("logs", "https://logs.s3.eu-central-1.amazonaws.com/t/2026-11-24/a%20b.seg s3 eu-central-1", func(*s3.Options) {})
	f("logs", "https://s3.eu-central-1.amazonaws.com/logs/t/2026-11-24/a%20b.seg s3 eu-central-1", func(o *s3.Options) { o.UsePathStyle = true })
	f("logs", "https://minio:9000/base/logs/t/2026-11-24/a%20b.seg s3 eu-central-1", func(o *s3.Options) {
		o.UsePathStyle, o.BaseEndpoint = true, aws.String("https://minio:9000/base/")
	})
	f("logs", "https://logs.s3-fips.dualstack.eu-central-1.amazonaws.com/t/2026-11-24/a%20b.seg s3 eu-central-1", func(o *s3.Options) {
		o.EndpointOptions.UseFIPSEndpoint, o.EndpointOptions.UseDualStackEndpoint = aws.FIPSEndpointStateEnabled, aws.DualStackEndpointStateEnabled
	})
	f("logs--euc1-az1--x-s3", "", func(*s3.Options) {})
	f("logs", "", func(o *s3.Options) { o.Credentials = aws.AnonymousCredentials{} })
	f("logs", "", func(o *s3.Options) { o.Credentials = nil })
}
