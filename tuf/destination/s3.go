package destination

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"sync/atomic"

	"github.com/minio/minio-go/v7"
)

// S3 is a bucket, or what lies below a prefix in one. Its methods may retry for some seconds; ctx ends them.
type S3 struct {
	client         *minio.Client
	bucket, prefix string
	endpoint       string // "" is Amazon's
	unguarded      atomic.Bool
}

// Files up to partSize go up in one request and are held in memory for it; larger ones in parts of at least that size.
const (
	partSize = 8 << 20
	maxParts = 9_000
)

// noObjectHasThisTag is an entity tag of no bytes that a publisher writes.
const noObjectHasThisTag = "00000000000000000000000000000000"

// String is a reference to the same place, without what only says how to reach it.
func (s *S3) String() string {
	ref := strings.TrimSuffix("s3://"+s.bucket+"/"+s.prefix, "/")
	if s.endpoint != "" {
		ref += "?endpoint=" + s.endpoint
	}
	return ref
}

// Unguarded says that the store was seen to ignore conditions: there, Swap only looks before it writes, and two publishers at
// the same moment could miss one another.
func (s *S3) Unguarded() bool { return s.unguarded.Load() }

func (s *S3) key(name string) string { return path.Join(s.prefix, name) }

// List gives the sizes of the files below folder, by name.
func (s *S3) List(ctx context.Context, folder string) (map[string]int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the listing if we leave early
	out := map[string]int64{}
	for o := range s.client.ListObjects(ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.key(folder) + "/", Recursive: true}) {
		if o.Err != nil {
			return nil, s.fail("list", folder, o.Err)
		}
		name := o.Key
		if s.prefix != "" {
			name = strings.TrimPrefix(name, s.prefix+"/")
		}
		out[name] = o.Size
	}
	return out, nil
}

// Open reads a file and says its size.
func (s *S3) Open(ctx context.Context, name string) (io.ReadCloser, int64, error) {
	body, info, err := s.get(ctx, name)
	return body, info.Size, err
}

func (s *S3) get(ctx context.Context, name string) (*minio.Object, minio.ObjectInfo, error) {
	body, err := s.client.GetObject(ctx, s.bucket, s.key(name), minio.GetObjectOptions{})
	if err != nil {
		return nil, minio.ObjectInfo{}, s.fail("read", name, err)
	}
	info, err := body.Stat()
	if err != nil {
		_ = body.Close()
		return nil, info, s.fail("read", name, err)
	}
	return body, info, nil
}

// sumKey is the metadata that a publisher leaves with each object, since a tag is not always a digest of the bytes.
const sumKey = "Sha256"

// Digest is the sha256 of a file: as its publisher noted it, else of the bytes, read now.
func (s *S3) Digest(ctx context.Context, name string) (string, error) {
	info, err := s.client.StatObject(ctx, s.bucket, s.key(name), minio.StatObjectOptions{})
	if err != nil {
		return "", s.fail("read", name, err)
	}
	for k, v := range info.UserMetadata {
		if strings.EqualFold(k, sumKey) && len(v) == 64 {
			return v, nil
		}
	}
	return digest(ctx, s, name)
}

// Create stores a file under a name that is free: whole or not at all. Large files are not guarded against a second publisher
// of the same name at the same moment; their names contain their digests, so both would write the same bytes.
func (s *S3) Create(ctx context.Context, name string, from io.Reader, size int64, sum string) error {
	o := s.options(name, sum)
	body := io.Reader(check(from, size, sum))
	if size <= partSize {
		data, err := io.ReadAll(body)
		if err != nil {
			return fmt.Errorf("cannot upload %s: %w", name, err)
		}
		body = bytes.NewReader(data)
	} else if _, err := s.client.StatObject(ctx, s.bucket, s.key(name), minio.StatObjectOptions{}); err == nil {
		return fmt.Errorf("cannot create %s in %s: %w", name, s, fs.ErrExist)
	}
	o.SetMatchETagExcept("*")
	o.PartSize = uint64(max(partSize, (size/maxParts+(1<<20))>>20<<20))
	_, err := s.client.PutObject(ctx, s.bucket, s.key(name), body, size, o)
	if refusedByCondition(err) {
		err = fs.ErrExist
	}
	if err != nil {
		return s.fail("create", name, err)
	}
	return nil
}

func (s *S3) options(name, sum string) minio.PutObjectOptions {
	contentType, cacheControl := headers(name)
	return minio.PutObjectOptions{ContentType: contentType, CacheControl: cacheControl, UserMetadata: map[string]string{sumKey: sum}, SendContentMd5: true, DisableContentSha256: true}
}

// Swap replaces a file that holds exactly old (nil: that is not there) and says whether it did. The store itself compares, by
// the tag of what was read.
func (s *S3) Swap(ctx context.Context, name string, old, next []byte) (bool, error) {
	have, tag, err := s.read(ctx, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if old != nil {
			return false, nil
		}
	case err != nil:
		return false, err
	case old == nil || !bytes.Equal(have, old):
		return false, nil
	}
	o := s.options(name, sumOf(next))
	if old == nil {
		o.SetMatchETagExcept("*")
	} else {
		if err := s.tryCondition(ctx, name, old); err != nil {
			return false, err
		}
		o.SetMatchETag(tag)
	}
	_, err = s.client.PutObject(ctx, s.bucket, s.key(name), bytes.NewReader(next), int64(len(next)), o)
	if refusedByCondition(err) {
		return s.holds(ctx, name, next)
	}
	if err != nil {
		return false, s.fail("replace", name, err)
	}
	return true, nil
}

// holds settles a refusal: a retried request may have been refused because its first try got through.
func (s *S3) holds(ctx context.Context, name string, want []byte) (bool, error) {
	have, _, err := s.read(ctx, name)
	return err == nil && bytes.Equal(have, want), err
}

// tryCondition writes what is there already on a condition that cannot hold. A store that takes it honours no condition.
func (s *S3) tryCondition(ctx context.Context, name string, same []byte) error {
	o := s.options(name, sumOf(same))
	o.SetMatchETag(noObjectHasThisTag)
	_, err := s.client.PutObject(ctx, s.bucket, s.key(name), bytes.NewReader(same), int64(len(same)), o)
	if err != nil && !refusedByCondition(err) {
		return s.fail("replace", name, err)
	}
	s.unguarded.Store(err == nil)
	return nil
}

func (s *S3) read(ctx context.Context, name string) (data []byte, tag string, err error) {
	body, info, err := s.get(ctx, name)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = body.Close() }()
	data, err = io.ReadAll(io.LimitReader(body, 1<<20))
	if err != nil {
		return nil, "", s.fail("read", name, err)
	}
	return data, info.ETag, nil
}

func refusedByCondition(err error) bool {
	status := minio.ToErrorResponse(err).StatusCode
	return err != nil && (status == http.StatusPreconditionFailed || status == http.StatusConflict)
}

// fail says what a person can do about an answer of the store.
func (s *S3) fail(verb, name string, err error) error {
	answer := minio.ToErrorResponse(err)
	switch {
	case answer.Code == "NoSuchBucket":
		return fmt.Errorf("cannot %s %s: there is no bucket %s; create it, or correct the destination", verb, name, s.bucket)
	case answer.StatusCode == http.StatusNotFound:
		err = fs.ErrNotExist
	case answer.StatusCode == http.StatusForbidden:
		return fmt.Errorf("cannot %s %s in %s: the store denies it (%s); these credentials need s3:GetObject, s3:PutObject and s3:ListBucket there",
			verb, name, s, answer.Code)
	}
	return fmt.Errorf("cannot %s %s in %s: %w", verb, name, s, err)
}
