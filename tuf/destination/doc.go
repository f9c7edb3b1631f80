// Package destination holds the places that published files are served from: a directory for a web server, or a bucket of an
// S3-compatible store. It knows no TUF. Files are created once and never changed, but for the timestamp, which is swapped.
//
// Both kinds answer with the errors of io/fs: fs.ErrNotExist for a file that is not there, fs.ErrExist for one that is.
package destination

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"path"
	"strings"
)

// headers are how a file is to be served. Only the timestamp ever changes; everything else may be kept for good.
func headers(name string) (contentType, cacheControl string) {
	cacheControl = "public, max-age=31536000, immutable"
	if path.Base(name) == "timestamp.json" {
		cacheControl = "no-cache"
	}
	switch {
	case strings.HasSuffix(name, ".json"):
		return "application/json", cacheControl
	case strings.HasSuffix(name, ".zst"):
		return "application/zstd", cacheControl
	}
	return "application/octet-stream", cacheControl
}

// checked passes on what it reads, and refuses the last byte if all of it is not what was announced: whoever stores the bytes
// never sees their end, and so never completes them.
type checked struct {
	from io.Reader
	left int64
	sum  string
	hash hash.Hash
}

func check(from io.Reader, size int64, sum string) *checked {
	return &checked{from: from, left: size, sum: sum, hash: sha256.New()}
}

func (c *checked) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	n, err := c.from.Read(p[:min(int64(len(p)), c.left)])
	c.hash.Write(p[:n])
	c.left -= int64(n)
	if c.left == 0 {
		if got := hex.EncodeToString(c.hash.Sum(nil)); got != c.sum {
			return 0, fmt.Errorf("its sha256 is %s, want %s: the file changed while it was read", got, c.sum)
		}
		return n, nil
	}
	if err == io.EOF {
		return 0, fmt.Errorf("it ends %d bytes early: the file changed while it was read", c.left)
	}
	return n, err
}
