package object

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"
)

// Objects above minPartSize go up in parts, so that a broken connection costs a part and
// not the object. A part is at least this large; S3 takes at most 10 000 parts of an
// object, so larger objects have larger parts.
const (
	minPartSize = 16 << 20
	maxParts    = 10_000
	// partUploads is how many parts travel at once. Parts are read from the body while
	// they are sent, so this costs connections, not memory.
	partUploads = 3
	// partAttempts is how often one part is tried. Retry does not repeat a multipart Put
	// whose part has failed this often.
	partAttempts = 5
)

// Put implements Store. Up to 16 MiB it is one PUT; above, a multipart upload, which is
// aborted when anything fails. A process killed in between leaves invisible parts behind
// for which the bucket's owner pays until a lifecycle rule aborts incomplete uploads.
func (s *S3) Put(ctx context.Context, key Key, body io.ReadSeeker, size int64) error {
	if err := s.check(ctx, "put", key); err != nil {
		return err
	}
	if err := checkBodySize(body, size); err != nil {
		return s.fail(ctx, "put", string(key), &localError{err})
	}
	if size <= s.partSize {
		return s.putSingle(ctx, key, body, size)
	}
	return s.putMultipart(ctx, key, body, size)
}

func checkBodySize(body io.ReadSeeker, size int64) error {
	end, err := body.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("find the body's size: %w", err)
	}
	if end != size {
		return fmt.Errorf("the body has %d bytes, want %d", end, size)
	}
	return rewind(body)
}

func (s *S3) checksum() types.ChecksumAlgorithm {
	if s.cfg.Checksums == "required" {
		return ""
	}
	return types.ChecksumAlgorithmCrc32c
}

func (s *S3) kmsKey() *string {
	if s.cfg.SSEKMSKeyID == "" {
		return nil
	}
	return &s.cfg.SSEKMSKeyID
}

func (s *S3) putSingle(ctx context.Context, key Key, body io.ReadSeeker, size int64) error {
	attempt, cancel := deadline(ctx, size)
	defer cancel()
	watched := &watchedBody{ReadSeeker: body}
	_, err := s.client.PutObject(attempt, &s3.PutObjectInput{
		Bucket: &s.cfg.Bucket, Key: s.key(key), Body: watched, ContentLength: &size,
		ChecksumAlgorithm:    s.checksum(),
		ServerSideEncryption: types.ServerSideEncryption(s.cfg.SSE), SSEKMSKeyId: s.kmsKey(),
	})
	if err != nil {
		return s.fail(ctx, "put", string(key), watched.blame(err))
	}
	return nil
}

// watchedBody remembers that reading the body failed, which looks like a broken
// connection but which no retry cures.
type watchedBody struct {
	io.ReadSeeker
	failed atomic.Pointer[error] // the transport reads in a goroutine of its own
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadSeeker.Read(p)
	if err != nil && err != io.EOF {
		b.failed.Store(&err)
	}
	return n, err
}

// blame returns the reason why a request with this body failed with err.
func (b *watchedBody) blame(err error) error {
	if cause := b.failed.Load(); cause != nil {
		return &localError{fmt.Errorf("read the body: %w", *cause)}
	}
	return err
}

// putMultipart: begin, send the parts, complete, and check what stands there now.
func (s *S3) putMultipart(ctx context.Context, key Key, body io.ReadSeeker, size int64) error {
	attempt, cancel := deadline(ctx, 0)
	begun, err := s.client.CreateMultipartUpload(attempt, &s3.CreateMultipartUploadInput{
		Bucket: &s.cfg.Bucket, Key: s.key(key), ChecksumAlgorithm: s.checksum(),
		ServerSideEncryption: types.ServerSideEncryption(s.cfg.SSE), SSEKMSKeyId: s.kmsKey(),
	})
	cancel()
	if err != nil {
		return s.fail(ctx, "put", string(key), err)
	}
	err = s.finishMultipart(ctx, key, begun.UploadId, body, size)
	if err != nil {
		if abortErr := s.abort(ctx, key, begun.UploadId); abortErr != nil {
			err = errors.Join(err, abortErr)
		}
	}
	return err
}

func (s *S3) finishMultipart(ctx context.Context, key Key, upload *string, body io.ReadSeeker, size int64) error {
	parts, err := s.putParts(ctx, key, upload, body, size)
	if err != nil {
		return err
	}
	// Completing may take the server minutes, so its deadline is that of the whole object.
	attempt, cancel := deadline(ctx, size)
	defer cancel()
	_, err = s.client.CompleteMultipartUpload(attempt, &s3.CompleteMultipartUploadInput{
		Bucket: &s.cfg.Bucket, Key: s.key(key), UploadId: upload,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	})
	if err != nil {
		return s.fail(ctx, "put", string(key), err)
	}
	info, err := s.Stat(ctx, key)
	if err != nil {
		return err
	}
	if info.Size != size {
		return s.fail(ctx, "put", string(key), &localError{fmt.Errorf("uploaded %d bytes, but the object has %d", size, info.Size)})
	}
	return nil
}

// abort frees the parts, also when the upload ended because ctx did.
func (s *S3) abort(ctx context.Context, key Key, upload *string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	_, err := s.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{
		Bucket: &s.cfg.Bucket, Key: s.key(key), UploadId: upload,
	})
	if err != nil {
		err = s.fail(ctx, "put", string(key), err)
		if errors.Is(err, ErrNotFound) {
			return nil // already gone, or completed although we were told otherwise
		}
		return fmt.Errorf("abort the upload: %w", err)
	}
	return nil
}

// putParts sends a body's parts: several at once if it can be read anywhere, else one
// after the other. Nothing is buffered; a part that is sent again is read again.
func (s *S3) putParts(ctx context.Context, key Key, upload *string, body io.ReadSeeker, size int64) ([]types.CompletedPart, error) {
	partSize := max(s.partSize, (size+maxParts-1)/maxParts)
	parts := make([]types.CompletedPart, (size+partSize-1)/partSize)
	readerAt, parallel := body.(io.ReaderAt)
	if !parallel {
		readerAt = &seekReaderAt{body}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(1)
	if parallel {
		group.SetLimit(partUploads)
	}
	for i := range parts {
		off := int64(i) * partSize
		group.Go(func() error {
			section := io.NewSectionReader(readerAt, off, min(partSize, size-off))
			return retry(ctx, partAttempts, nil, func() (err error) {
				parts[i], err = s.putPart(ctx, key, upload, int32(i+1), section)
				return err
			})
		})
	}
	if err := group.Wait(); err != nil {
		return nil, permanent(err)
	}
	return parts, nil
}

func (s *S3) putPart(ctx context.Context, key Key, upload *string, number int32, section *io.SectionReader) (types.CompletedPart, error) {
	if err := rewind(section); err != nil {
		return types.CompletedPart{}, err
	}
	attempt, cancel := deadline(ctx, section.Size())
	defer cancel()
	watched := &watchedBody{ReadSeeker: section}
	out, err := s.client.UploadPart(attempt, &s3.UploadPartInput{
		Bucket: &s.cfg.Bucket, Key: s.key(key), UploadId: upload, PartNumber: &number,
		Body: watched, ContentLength: aws.Int64(section.Size()), ChecksumAlgorithm: s.checksum(),
	})
	if err != nil {
		return types.CompletedPart{}, s.fail(ctx, "put", string(key), fmt.Errorf("part %d: %w", number, watched.blame(err)))
	}
	return types.CompletedPart{ETag: out.ETag, PartNumber: &number, ChecksumCRC32C: out.ChecksumCRC32C}, nil
}

// seekReaderAt reads a seeker at offsets; one goroutine at a time.
type seekReaderAt struct{ s io.ReadSeeker }

func (r *seekReaderAt) ReadAt(p []byte, off int64) (int, error) {
	if _, err := r.s.Seek(off, io.SeekStart); err != nil {
		return 0, err
	}
	n, err := io.ReadFull(r.s, p)
	if err == io.ErrUnexpectedEOF {
		err = io.EOF
	}
	return n, err
}
