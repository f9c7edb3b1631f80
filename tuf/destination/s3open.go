package destination

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// place is a parsed s3:// reference.
type place struct {
	bucket, prefix, region string
	endpoint               *url.URL
	amazon                 bool // nobody named another endpoint
	style                  minio.BucketLookupType
	instance               bool
}

// OpenS3 understands s3://BUCKET/PREFIX?endpoint=URL&region=R&style=path&credentials=instance&unsafe_http=true. What is left
// out comes from AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL and AWS_REGION, and is Amazon's otherwise. Credentials come from the
// environment or the standard files, never from ref. It asks nobody yet.
func OpenS3(ref string) (*S3, error) {
	p, err := parse(ref)
	if err != nil {
		return nil, fmt.Errorf("cannot use destination %s: %w", redacted(ref), err)
	}
	c, err := minio.New(p.endpoint.Host, &minio.Options{
		Creds: p.credentials(), Secure: p.endpoint.Scheme == "https", Region: p.region, BucketLookup: p.style, MaxRetries: 4,
	})
	if err != nil {
		return nil, fmt.Errorf("cannot use destination %s: %w", redacted(ref), err)
	}
	c.SetAppInfo("slipway-repo", "1")
	s := &S3{client: c, bucket: p.bucket, prefix: p.prefix}
	if !p.amazon {
		s.endpoint = p.endpoint.Scheme + "://" + p.endpoint.Host
	}
	return s, nil
}

// redacted keeps what somebody has put into the reference by mistake out of messages.
func redacted(ref string) string {
	plain, _, _ := strings.Cut(ref, "?")
	if _, after, ok := strings.Cut(plain, "@"); ok {
		return "s3://" + after
	}
	return plain
}

func parse(ref string) (*place, error) {
	u, err := url.Parse(ref)
	if err != nil {
		return nil, errors.New("it is not a URL")
	}
	if u.User != nil {
		return nil, errors.New("credentials do not belong into it; put them into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a file named by AWS_SHARED_CREDENTIALS_FILE")
	}
	if u.Scheme != "s3" || u.Host == "" || u.Fragment != "" {
		return nil, errors.New("it is not s3://BUCKET or s3://BUCKET/PREFIX")
	}
	p := &place{bucket: u.Host, prefix: strings.Trim(u.Path, "/"), style: minio.BucketLookupAuto,
		region: first(os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"))}
	endpoint := first(os.Getenv("AWS_ENDPOINT_URL_S3"), os.Getenv("AWS_ENDPOINT_URL"))
	unsafe := false
	for key, values := range u.Query() {
		value := values[len(values)-1]
		switch {
		case key == "endpoint":
			endpoint = value
		case key == "region":
			p.region = value
		case key == "style" && value == "path":
			p.style = minio.BucketLookupPath
		case key == "style" && value == "virtual":
			p.style = minio.BucketLookupDNS
		case key == "credentials" && value == "instance":
			p.instance = true
		case key == "unsafe_http" && value == "true":
			unsafe = true
		default:
			return nil, fmt.Errorf("%s=%s is not known; known are endpoint=URL, region=NAME, style=path|virtual, credentials=instance, unsafe_http=true", key, value)
		}
	}
	return p, p.reach(endpoint, unsafe)
}

func (p *place) reach(endpoint string, unsafe bool) (err error) {
	if p.amazon = endpoint == ""; p.amazon {
		endpoint = "https://s3.amazonaws.com"
	} else if p.region == "" {
		p.region = "us-east-1" // what stores of one region answer to
	}
	p.endpoint, err = url.Parse(endpoint)
	if err != nil || p.endpoint.Host == "" || strings.Trim(p.endpoint.Path, "/") != "" || p.endpoint.RawQuery != "" {
		return fmt.Errorf("endpoint %q is not https://HOST or https://HOST:PORT", endpoint)
	}
	loopback := p.endpoint.Hostname() == "localhost" || strings.HasPrefix(p.endpoint.Hostname(), "127.") || p.endpoint.Hostname() == "::1"
	switch {
	case p.endpoint.Scheme == "https":
	case p.endpoint.Scheme == "http" && (loopback || unsafe):
	case p.endpoint.Scheme == "http":
		return fmt.Errorf("endpoint %s is not encrypted; use https, or add unsafe_http=true", endpoint)
	default:
		return fmt.Errorf("endpoint %q is not https://HOST or https://HOST:PORT", endpoint)
	}
	return nil
}

func (p *place) credentials() *credentials.Credentials {
	chain := []credentials.Provider{&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}}
	if p.instance {
		chain = append(chain, &credentials.IAM{})
	}
	return credentials.New(&required{credentials.Chain{Providers: chain}})
}

// required refuses what the chain falls back to when it finds nothing: anonymous requests, whose refusal explains nothing.
type required struct{ credentials.Chain }

var errNoCredentials = errors.New("cannot find credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a file by AWS_SHARED_CREDENTIALS_FILE; " +
	"a machine's own role needs credentials=instance in the destination")

func (r *required) Retrieve() (credentials.Value, error) {
	return refuseAnonymous(r.Chain.Retrieve())
}

func (r *required) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	return refuseAnonymous(r.Chain.RetrieveWithCredContext(cc))
}

func refuseAnonymous(v credentials.Value, err error) (credentials.Value, error) {
	if err == nil && (v.AccessKeyID == "" || v.SecretAccessKey == "") {
		return v, errNoCredentials
	}
	return v, err
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

func sumOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

type opener interface {
	Open(ctx context.Context, name string) (io.ReadCloser, int64, error)
}

func digest(ctx context.Context, from opener, name string) (string, error) {
	body, _, err := from.Open(ctx, name)
	if err != nil {
		return "", err
	}
	defer func() { _ = body.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, body); err != nil {
		return "", fmt.Errorf("cannot read %s: %w", name, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
