package object

import (
	"context"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// S3Config says where a bucket is and how to talk to it. Each field but the first two is
// a flag, and a parameter of the store's URL of the same name (endpoint, region,
// path_style, sse, sse_kms_key_id, ca_file, checksums).
type S3Config struct {
	Bucket string
	// Prefix is a folder of the bucket, without slashes around it; "" for the whole bucket.
	Prefix string
	// Endpoint is the base URL of a server other than AWS, for example https://minio:9000.
	Endpoint string
	// Region defaults to what the AWS chain knows, and with an Endpoint to us-east-1.
	Region string
	// PathStyle puts the bucket in the path instead of the host name; most servers other
	// than AWS want it.
	PathStyle bool
	// SSE asks the server to encrypt objects: "", AES256 or aws:kms.
	SSE         string
	SSEKMSKeyID string
	// CAFile holds PEM certificates trusted besides the system's.
	CAFile string
	// Checksums is "supported" (every request carries a CRC that the server checks) or
	// "required" (for servers that do not know them: only where the protocol insists).
	// Empty means supported.
	Checksums string
	// MaxConnections bounds the connections to the server; more requests wait. 0 means 64.
	MaxConnections int
}

func (c *S3Config) registerFlags(fs *flag.FlagSet) {
	fs.StringVar(&c.Endpoint, "storage.s3.endpoint", "", "Base URL of an S3 server other than AWS, such as https://minio.example:9000.")
	fs.StringVar(&c.Region, "storage.s3.region", "", "Region of the bucket. Empty takes the one of the AWS environment, and us-east-1 where an endpoint is set.")
	fs.BoolVar(&c.PathStyle, "storage.s3.path-style", false, "Name the bucket in the path of requests instead of the host name. Most servers other than AWS need it.")
	fs.StringVar(&c.SSE, "storage.s3.sse", "", "Server-side encryption asked for each object written: AES256 or aws:kms. Empty leaves it to the bucket's default.")
	fs.StringVar(&c.SSEKMSKeyID, "storage.s3.sse-kms-key-id", "", "KMS key for -storage.s3.sse=aws:kms. Empty means the account's default key.")
	fs.StringVar(&c.CAFile, "storage.s3.ca-file", "", "File of PEM certificates to trust besides the system's when the endpoint is HTTPS.")
	fs.StringVar(&c.Checksums, "storage.s3.checksums", "supported", "supported: every upload carries a CRC32C that the server verifies. required: only where S3 insists; for servers that refuse the others.")
	fs.IntVar(&c.MaxConnections, "storage.s3.max-connections", 64, "Connections to the server. Further requests wait for a free one.")
}

func (c *S3Config) validate() error {
	if c.Bucket == "" {
		return errors.New("s3:// has no bucket, want s3://bucket/prefix")
	}
	if c.Prefix != "" {
		if err := CheckKey(Key(c.Prefix)); err != nil {
			return fmt.Errorf("prefix: %w", err)
		}
	}
	if c.Endpoint != "" {
		u, err := url.Parse(c.Endpoint)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			return errors.New(`parameter "endpoint": want a URL such as https://host:9000`)
		}
		if u.User != nil {
			return errors.New(`parameter "endpoint": credentials do not belong there`)
		}
	}
	switch types.ServerSideEncryption(c.SSE) {
	case "", types.ServerSideEncryptionAes256, types.ServerSideEncryptionAwsKms:
	default:
		return fmt.Errorf("parameter %q: got %q, want AES256 or aws:kms", "sse", c.SSE)
	}
	if c.SSEKMSKeyID != "" && types.ServerSideEncryption(c.SSE) != types.ServerSideEncryptionAwsKms {
		return fmt.Errorf("parameter %q: needs sse=aws:kms, got %q", "sse_kms_key_id", c.SSE)
	}
	switch c.Checksums {
	case "", "supported", "required":
	default:
		return fmt.Errorf("parameter %q: got %q, want supported or required", "checksums", c.Checksums)
	}
	if c.MaxConnections < 0 {
		return fmt.Errorf("max-connections is %d, want 1 or more", c.MaxConnections)
	}
	return nil
}

// NewS3 returns the store in a bucket. It does not talk to the server yet, except maybe
// to find credentials.
func NewS3(ctx context.Context, cfg S3Config) (*S3, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	client, err := cfg.httpClient()
	if err != nil {
		return nil, err
	}
	region := cfg.Region
	load := []func(*awsconfig.LoadOptions) error{
		awsconfig.WithHTTPClient(client),
		// Skald's own Retry wrapper is the one place that tries again.
		awsconfig.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }),
	}
	if region != "" {
		load = append(load, awsconfig.WithRegion(region))
	}
	awsCfg, err := awsconfig.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, fmt.Errorf("AWS configuration: %w", err)
	}
	if awsCfg.Region == "" {
		if cfg.Endpoint == "" {
			return nil, errors.New(`parameter "region" is missing, and the AWS environment names none`)
		}
		awsCfg.Region = "us-east-1"
	}
	s := &S3{cfg: cfg, partSize: minPartSize, client: s3.NewFromConfig(awsCfg, func(o *s3.Options) {
		o.UsePathStyle = cfg.PathStyle
		if cfg.Endpoint != "" {
			o.BaseEndpoint = aws.String(cfg.Endpoint)
		}
		o.DisableLogOutputChecksumValidationSkipped = true
		if cfg.Checksums == "required" {
			o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
			o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		}
	})}
	s.direct = newDirect(ctx, s.client, client, cfg.Bucket)
	if cfg.Prefix != "" {
		s.prefix = cfg.Prefix + "/"
	}
	return s, nil
}

// httpClient builds on the SDK's client, which also knows AWS_CA_BUNDLE.
func (c *S3Config) httpClient() (*awshttp.BuildableClient, error) {
	connections := c.MaxConnections
	if connections == 0 {
		connections = 64
	}
	pool, err := c.certPool()
	if err != nil {
		return nil, err
	}
	client := awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.MaxConnsPerHost = connections
		t.MaxIdleConnsPerHost = connections
		t.MaxIdleConns = 0          // the limit per host is enough
		t.DisableCompression = true // sizes and ranges are of the object itself
		t.TLSClientConfig.RootCAs = pool
	})
	return client, nil
}

// certPool returns the system's certificates and those of CAFile, nil for the default.
func (c *S3Config) certPool() (*x509.CertPool, error) {
	if c.CAFile == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("parameter %q: %w", "ca_file", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("parameter %q: %s holds no PEM certificate", "ca_file", c.CAFile)
	}
	return pool, nil
}
