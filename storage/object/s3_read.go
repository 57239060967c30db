package object

import (
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/auth"
	"github.com/aws/smithy-go/encoding/httpbinding"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// ReadAt implements Store with a ranged GET.
func (s *S3) ReadAt(ctx context.Context, key Key, p []byte, off int64) error {
	if err := s.check(ctx, "read", key); err != nil {
		return err
	}
	if err := checkRange(p, off); err != nil {
		return s.fail(ctx, "read", string(key), &localError{err})
	}
	if len(p) == 0 { // HTTP has no empty range
		_, err := s.Stat(ctx, key)
		return err
	}
	attempt, cancel := deadline(ctx, int64(len(p)))
	defer cancel()
	if s.direct != nil {
		if done, err := s.direct.readAt(attempt, *s.key(key), p, off); err != nil {
			return s.fail(ctx, "read", string(key), err)
		} else if done {
			return nil
		}
	}
	out, err := s.client.GetObject(attempt, &s3.GetObjectInput{
		Bucket: &s.cfg.Bucket, Key: s.key(key), Range: aws.String(rangeOf(p, off)),
	})
	if err != nil {
		return s.fail(ctx, "read", string(key), err)
	}
	defer out.Body.Close()
	if err := checkContentRange(aws.ToString(out.ContentRange), p, off); err != nil {
		return s.fail(ctx, "read", string(key), &localError{err})
	}
	if _, err := io.ReadFull(out.Body, p); err != nil {
		return s.fail(ctx, "read", string(key), err)
	}
	return nil
}

func rangeOf(p []byte, off int64) string {
	return "bytes=" + strconv.FormatInt(off, 10) + "-" + strconv.FormatInt(off+int64(len(p))-1, 10)
}

// checkContentRange finds servers and proxies that answer with other bytes than asked for:
// the whole object, or, at its end, fewer.
func checkContentRange(got string, p []byte, off int64) error {
	var first, last, size int64
	if _, err := fmt.Sscanf(got, "bytes %d-%d/%d", &first, &last, &size); err != nil {
		return fmt.Errorf("the server answered a range request with Content-Range %q", got)
	}
	if first == off && last-first+1 == int64(len(p)) {
		return nil
	}
	if size < off+int64(len(p)) {
		return errBeyondEnd(p, off, size)
	}
	return fmt.Errorf("asked for %d bytes at offset %d, the server answered with Content-Range %q", len(p), off, got)
}

// direct reads ranges without the SDK's layers. A query that finds nothing in the cache makes dozens
// of small reads, and for each the SDK takes four times the CPU of the HTTP request under it. Where the
// bucket is, the credentials and the signature are still the SDK's.
type direct struct {
	client      *awshttp.BuildableClient
	credentials aws.CredentialsProvider
	signer      *v4.Signer
	bucket      url.URL
	header      http.Header
	// service and region are what is signed for.
	service, region string
}

// newDirect returns nil when reads need more than a signature of version 4: buckets of S3 Express,
// for one, or none at all.
func newDirect(ctx context.Context, client *s3.Client, httpClient *awshttp.BuildableClient, bucket string) *direct {
	o := client.Options()
	if o.Credentials == nil || aws.IsCredentialsProvider(o.Credentials, aws.AnonymousCredentials{}) || strings.Contains(o.Region, "fips") {
		return nil
	}
	endpoint, err := o.EndpointResolverV2.ResolveEndpoint(ctx, s3.EndpointParameters{
		Bucket:                         &bucket,
		Region:                         &o.Region,
		UseFIPS:                        aws.Bool(o.EndpointOptions.UseFIPSEndpoint == aws.FIPSEndpointStateEnabled),
		UseDualStack:                   aws.Bool(o.EndpointOptions.UseDualStackEndpoint == aws.DualStackEndpointStateEnabled),
		Endpoint:                       o.BaseEndpoint,
		ForcePathStyle:                 &o.UsePathStyle,
		Accelerate:                     &o.UseAccelerate,
		DisableMultiRegionAccessPoints: &o.DisableMultiRegionAccessPoints,
		UseArnRegion:                   &o.UseARNRegion,
		DisableS3ExpressSessionAuth:    o.DisableS3ExpressSessionAuth,
	})
	if err != nil {
		return nil // the SDK says it again, at each request
	}
	schemes, _ := auth.GetAuthOptions(&endpoint.Properties)
	if len(schemes) == 0 || schemes[0].SchemeID != "sigv4" { // as the resolver of endpoints calls it
		return nil
	}
	d := &direct{client: httpClient, credentials: o.Credentials, bucket: endpoint.URI, header: endpoint.Headers}
	d.signer = v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	var named, placed bool
	d.service, named = smithyhttp.GetSigV4SigningName(&schemes[0].SignerProperties)
	d.region, placed = smithyhttp.GetSigV4SigningRegion(&schemes[0].SignerProperties)
	if !named || !placed {
		return nil
	}
	return d
}

// noBody is the SHA-256 of a request without a body.
const noBody = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// readAt reads a range, or returns an error in the SDK's shape. done is false after answers that the
// SDK may know what to do about, such as that the bucket is elsewhere, or that our clock is wrong.
func (d *direct) readAt(ctx context.Context, key string, p []byte, off int64) (done bool, err error) {
	req, err := d.request(ctx, key, rangeOf(p, off))
	if err != nil {
		return false, err
	}
	res, err := d.client.Do(req)
	if err != nil {
		return false, err
	}
	defer res.Body.Close()
	switch status := res.StatusCode; {
	case status == http.StatusPartialContent:
		if err := checkContentRange(res.Header.Get("Content-Range"), p, off); err != nil {
			return false, &localError{err}
		}
		_, err := io.ReadFull(res.Body, p)
		return err == nil, err
	case status == http.StatusNotFound, status == http.StatusRequestedRangeNotSatisfiable,
		status == http.StatusTooManyRequests, status >= 500:
		return false, answered(res)
	}
	return false, nil
}

func (d *direct) request(ctx context.Context, key, span string) (*http.Request, error) {
	at := d.bucket
	base := strings.TrimSuffix(at.EscapedPath(), "/")
	at.Path = strings.TrimSuffix(at.Path, "/") + "/" + key
	at.RawPath = base + "/" + httpbinding.EscapePath(key, false)
	req := (&http.Request{Method: http.MethodGet, URL: &at, Host: at.Host, Header: make(http.Header, 8)}).WithContext(ctx)
	for name, values := range d.header {
		req.Header[name] = values
	}
	req.Header.Set("Range", span)
	req.Header.Set("User-Agent", "skald")
	req.Header.Set("X-Amz-Content-Sha256", noBody)
	credentials, err := d.credentials.Retrieve(ctx)
	if err != nil {
		return nil, err
	}
	return req, d.signer.SignHTTP(ctx, credentials, req, noBody, d.service, d.region, time.Now())
}

// answered makes an answer that is an error what the SDK would make of it.
func answered(res *http.Response) error {
	const most = 64 << 10
	var said struct{ Code, Message string }
	body, err := io.ReadAll(io.LimitReader(res.Body, most))
	if err == nil {
		err = xml.Unmarshal(body, &said)
	}
	cause := error(&smithy.GenericAPIError{Code: said.Code, Message: said.Message})
	if err != nil || said.Code == "" {
		cause = fmt.Errorf("status %d", res.StatusCode)
	}
	return &awshttp.ResponseError{ResponseError: &smithyhttp.ResponseError{Response: &smithyhttp.Response{Response: res}, Err: cause}}
}
