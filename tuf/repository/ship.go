package repository

import (
	"context"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/slipway-deploy/slipway/agent/release"
)

// ship brings the large payloads of signed releases to the destinations before the repository is locked: that may take long, and an
// emergency must not wait for it. Nobody refers to them yet, and each is checked against its name as it goes. What a change
// hides or misses is for the publish itself to find; so is a destination other than the first that cannot be reached.
func (r *Repository) ship(ctx context.Context, ids []string, to []Destination) (map[string]*outlet, error) {
	out := map[string]*outlet{}
	if large, err := r.largePayloads(); err != nil || !large || len(to) == 0 {
		return out, err
	}
	s, err := load(r.metadataDir())
	if err != nil {
		return nil, err
	}
	ready, err := r.selectChanges(s, ids, &Published{})
	if err != nil {
		return nil, err
	}
	var files []upload
	for _, c := range ready {
		files = append(files, c.largePayloads()...)
	}
	for i, d := range to {
		o := &outlet{Destination: d}
		out[d.String()] = o
		if err := o.putAll(ctx, s, files); err != nil && i == 0 {
			return nil, err
		}
	}
	return out, nil
}

// largePayloads says whether there is any to ship, without reading what is signed.
func (r *Repository) largePayloads() (bool, error) {
	open, err := r.Changes()
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(open, func(c *Change) bool { return len(c.largePayloads()) > 0 }), nil
}

// largePayloads lists the large files that the change's releases pin, as far as its folder has them.
func (c *Change) largePayloads() []upload {
	docs, _ := filepath.Glob(filepath.Join(c.dir, "files", "releases", "*", "*", "release.json"))
	var out []upload
	for _, name := range docs {
		raw, err := readBounded(name, maxDocument)
		if err != nil {
			continue
		}
		doc, err := release.ParseRelease(raw)
		if err != nil {
			continue
		}
		for _, f := range pinned(doc) {
			if f.Length <= smallFile || path.Clean(f.Path) != f.Path || !filepath.IsLocal(f.Path) {
				continue
			}
			if info, err := os.Lstat(c.filePath(f.Path)); err == nil && info.Mode().IsRegular() && info.Size() == f.Length {
				out = append(out, upload{name: "targets/" + storedName(f.Path, f.SHA256), path: c.filePath(f.Path), size: f.Length, sum: f.SHA256.String()})
			}
		}
	}
	return out
}
