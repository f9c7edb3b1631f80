package destination

import (
	"context"
	"net/http"

	"github.com/minio/minio-go/v7"
)

// Head is how the store would serve a file.
func (s *S3) Head(ctx context.Context, name string) (http.Header, error) {
	info, err := s.client.StatObject(ctx, s.bucket, s.key(name), minio.StatObjectOptions{})
	if err != nil {
		return nil, err
	}
	h := info.Metadata.Clone()
	h.Set("Content-Type", info.ContentType)
	return h, nil
}
