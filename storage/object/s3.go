package object

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
)

// S3 is a Store in a bucket, or in a folder of one. It tries everything once; Open puts
// Retry around it.
type S3 struct {
	cfg      S3Config
	prefix   string // "" or ending in a slash
	client   *s3.Client
	direct   *direct // nil when every read goes through client
	partSize int64   // tests make it small
	pageSize int32   // of listings; 0 leaves it to the server, which takes 1000
}

func (s *S3) String() string {
	if s.cfg.Prefix == "" {
		return "s3://" + s.cfg.Bucket
	}
	return "s3://" + s.cfg.Bucket + "/" + s.cfg.Prefix
}

// Remote says that reads travel over a network; see the function Remote.
func (s *S3) Remote() bool { return true }

// deadline bounds one attempt at a request that carries size bytes, so that a server which
// accepts a connection and falls silent costs a retry, not a query: half a minute, and the
// time that 256 KiB a second would take.
func deadline(ctx context.Context, size int64) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, 30*time.Second+time.Duration(size>>18)*time.Second)
}

// fail turns an SDK error into ours. ctx is the caller's: when it has ended, that is the
// reason, whatever the SDK made of it.
func (s *S3) fail(ctx context.Context, op, key string, err error) error {
	e := &Error{Op: op, Store: s.String(), Key: key, Err: err}
	var (
		api      smithy.APIError
		response *awshttp.ResponseError
		local    *localError
	)
	status := 0
	if errors.As(err, &response) {
		status = response.HTTPStatusCode()
	}
	code := ""
	if errors.As(err, &api) {
		code = api.ErrorCode()
		e.Err = apiText(api, status)
	}
	switch {
	case ctx.Err() != nil:
		e.Err = context.Cause(ctx)
	case errors.As(err, &local):
	case code == "NoSuchBucket":
		e.Err = errors.New("NoSuchBucket: the bucket does not exist")
	case status == http.StatusNotFound, code == "NoSuchKey", code == "NotFound":
		e.Err = ErrNotFound
	case status == http.StatusRequestedRangeNotSatisfiable, code == "InvalidRange":
		e.Err = fmt.Errorf("%s: %w", e.Err, io.ErrUnexpectedEOF)
	case transientCodes[code], status >= 500, status == http.StatusTooManyRequests, status == http.StatusRequestTimeout:
		e.Transient = true
	case status == 0 && code == "":
		// No answer at all, or half of one: the network.
		e.Transient = true
	}
	return e
}

// apiText keeps code, message and status, and leaves out the SDK's request ids and nesting.
func apiText(api smithy.APIError, status int) error {
	if status == 0 {
		return fmt.Errorf("%s: %s", api.ErrorCode(), api.ErrorMessage())
	}
	return fmt.Errorf("%s: %s (status %d)", api.ErrorCode(), api.ErrorMessage(), status)
}

// transientCodes are error codes worth a retry whatever the status they came with. A
// CompleteMultipartUpload, for one, may fail with status 200. BadDigest is a body that
// was damaged on its way.
var transientCodes = map[string]bool{
	"SlowDown": true, "InternalError": true, "ServiceUnavailable": true, "RequestTimeout": true,
	"Throttling": true, "ThrottlingException": true, "RequestLimitExceeded": true,
	"TooManyRequests": true, "BandwidthLimitExceeded": true, "OperationAborted": true,
	"BadDigest": true, "IncompleteBody": true, "RequestTimeTooSkewed": true,
}

// localError marks an error that is no matter of the network: a bad argument, a body that
// cannot be read, an answer that makes no sense.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

func (s *S3) check(ctx context.Context, op string, key Key) error {
	if ctx.Err() != nil {
		return s.fail(ctx, op, string(key), ctx.Err())
	}
	if err := CheckKey(key); err != nil {
		return s.fail(ctx, op, string(key), &localError{err})
	}
	return nil
}

func (s *S3) key(key Key) *string { return aws.String(s.prefix + string(key)) }

// Get implements Store.
func (s *S3) Get(ctx context.Context, key Key) (io.ReadCloser, int64, error) {
	if err := s.check(ctx, "get", key); err != nil {
		return nil, 0, err
	}
	out, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.cfg.Bucket, Key: s.key(key)})
	if err != nil {
		return nil, 0, s.fail(ctx, "get", string(key), err)
	}
	size := aws.ToInt64(out.ContentLength)
	return &s3Body{s, ctx, key, out.Body, size}, size, nil
}

// s3Body checks that a body has its announced length and gives its errors our shape.
type s3Body struct {
	s    *S3
	ctx  context.Context
	key  Key
	body io.ReadCloser
	left int64
}

func (b *s3Body) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	b.left -= int64(n)
	switch {
	case err == io.EOF && b.left > 0:
		err = b.s.fail(b.ctx, "get", string(b.key), fmt.Errorf("the body ends %d bytes early: %w", b.left, io.ErrUnexpectedEOF))
	case err != nil && err != io.EOF:
		err = b.s.fail(b.ctx, "get", string(b.key), err)
	}
	return n, err
}

func (b *s3Body) Close() error { return b.body.Close() }

// Stat implements Store.
func (s *S3) Stat(ctx context.Context, key Key) (Info, error) {
	if err := s.check(ctx, "stat", key); err != nil {
		return Info{}, err
	}
	attempt, cancel := deadline(ctx, 0)
	defer cancel()
	out, err := s.client.HeadObject(attempt, &s3.HeadObjectInput{Bucket: &s.cfg.Bucket, Key: s.key(key)})
	if err != nil {
		return Info{}, s.fail(ctx, "stat", string(key), err)
	}
	return Info{key, aws.ToInt64(out.ContentLength), aws.ToTime(out.LastModified)}, nil
}

// Delete implements Store.
func (s *S3) Delete(ctx context.Context, key Key) error {
	if err := s.check(ctx, "delete", key); err != nil {
		return err
	}
	attempt, cancel := deadline(ctx, 0)
	defer cancel()
	_, err := s.client.DeleteObject(attempt, &s3.DeleteObjectInput{Bucket: &s.cfg.Bucket, Key: s.key(key)})
	if err != nil {
		err = s.fail(ctx, "delete", string(key), err)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
	}
	return err
}

// pages yields the pages of a listing below prefix.
func (s *S3) pages(ctx context.Context, prefix, delimiter string) iter.Seq2[*s3.ListObjectsV2Output, error] {
	return func(yield func(*s3.ListObjectsV2Output, error) bool) {
		in := &s3.ListObjectsV2Input{Bucket: &s.cfg.Bucket, Prefix: aws.String(s.prefix + prefix)}
		if delimiter != "" {
			in.Delimiter = &delimiter
		}
		if s.pageSize > 0 {
			in.MaxKeys = &s.pageSize
		}
		for {
			attempt, cancel := deadline(ctx, 0)
			out, err := s.client.ListObjectsV2(attempt, in)
			cancel()
			if err != nil {
				yield(nil, s.fail(ctx, "list", prefix, err))
				return
			}
			if !yield(out, nil) || !aws.ToBool(out.IsTruncated) {
				return
			}
			in.ContinuationToken = out.NextContinuationToken
		}
	}
}

// List implements Store. Keys that are none of ours, such as the zero-byte "folder/" that
// some tools make, are left out.
func (s *S3) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if _, _, err := splitPrefix(prefix); err != nil {
			yield(Info{}, s.fail(ctx, "list", prefix, &localError{err}))
			return
		}
		for page, err := range s.pages(ctx, prefix, "") {
			if err != nil {
				yield(Info{}, err)
				return
			}
			for i := range page.Contents {
				info := s.info(&page.Contents[i])
				if CheckKey(info.Key) == nil && !yield(info, nil) {
					return
				}
			}
		}
	}
}

func (s *S3) info(o *types.Object) Info {
	key := strings.TrimPrefix(aws.ToString(o.Key), s.prefix)
	return Info{Key(key), aws.ToInt64(o.Size), aws.ToTime(o.LastModified)}
}

// ListPrefixes implements Store.
func (s *S3) ListPrefixes(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if err := checkFolder(prefix); err != nil {
			yield("", s.fail(ctx, "list", prefix, &localError{err}))
			return
		}
		for page, err := range s.pages(ctx, prefix, "/") {
			if err != nil {
				yield("", err)
				return
			}
			for _, p := range page.CommonPrefixes {
				folder := strings.TrimPrefix(aws.ToString(p.Prefix), s.prefix)
				if CheckKey(Key(strings.TrimSuffix(folder, "/"))) == nil && !yield(folder, nil) {
					return
				}
			}
		}
	}
}
