package repository

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	"github.com/slipway-deploy/slipway/agent/release"
)

// maxDocument bounds a release or deployment document, as on hosts.
const maxDocument = 4 << 20

// PublishRelease opens a change that lists the packed release in dir: release.json and, beside it under their base names,
// the files it pins. A version is never listed twice: its bytes are what its name means.
func (r *Repository) PublishRelease(ctx context.Context, dir string, o Origin) (*Change, error) {
	raw, err := readBounded(filepath.Join(dir, "release.json"), maxDocument)
	if err != nil {
		return nil, fmt.Errorf("cannot read packed release: %w", err)
	}
	doc, err := release.ParseRelease(raw)
	if err != nil {
		return nil, err
	}
	files := map[string]source{}
	for _, f := range pinned(doc) {
		src := filepath.Join(dir, path.Base(f.Path))
		if err := matches(src, f); err != nil {
			return nil, err
		}
		files[f.Path] = source{path: src}
	}
	return r.change(ctx, "release", o, func(d *draft) (string, error) {
		role, target := AppRole(doc.App), release.ReleasePath(doc.App, doc.Version)
		have, err := d.peek(role)
		if err != nil {
			return "", err
		}
		if have != nil && have.Targets[target] != nil {
			return "", refuse("a version is published once", fmt.Sprintf("cannot publish %s %s: this version is published", doc.App, doc.Version), "choose a new version")
		}
		if err := d.put(role, target, release.Sum(raw), int64(len(raw)), source{data: raw}); err != nil {
			return "", err
		}
		for p, src := range files {
			d.files[p] = src
		}
		return fmt.Sprintf("release %s %s", doc.App, doc.Version), nil
	})
}

// pinned lists the files that a release document pins beside itself.
func pinned(doc *release.Release) []release.File {
	var out []release.File
	for _, a := range doc.Platforms {
		out = append(out, a.Archive, a.Manifest)
	}
	if doc.SBOM != nil {
		out = append(out, *doc.SBOM)
	}
	out = append(out, doc.Provenance...)
	out = append(out, doc.Approvals...)
	for _, p := range doc.Patches {
		out = append(out, p.File)
	}
	return out
}

// storedName is where a target file lives with consistent snapshots: <dir>/<sha256>.<base>.
func storedName(target string, sum release.Digest) string {
	return path.Join(path.Dir(target), sum.String()+"."+path.Base(target))
}

// matches streams the file and compares it with what is pinned.
func matches(name string, f release.File) error {
	in, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("cannot find %s: %w", f.Path, err)
	}
	defer func() { _ = in.Close() }()
	info, err := in.Stat()
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", name, err)
	}
	if !info.Mode().IsRegular() || info.Size() != f.Length {
		return &DamagedError{Path: name, Err: fmt.Errorf("it has %d bytes, and %s is signed with %d", info.Size(), f.Path, f.Length)}
	}
	h := sha256.New()
	if _, err := io.Copy(h, in); err != nil {
		return fmt.Errorf("cannot read %s: %w", name, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != f.SHA256.String() {
		return &DamagedError{Path: name, Err: fmt.Errorf("its sha256 is %s, and %s is signed with %s", got, f.Path, f.SHA256)}
	}
	return nil
}

// FindRelease is the reference to a release that is published, or that the open change named by o.Into publishes.
func (d *draft) findRelease(app release.App, v release.Version) (*release.Reference, error) {
	role, target := AppRole(app), release.ReleasePath(app, v)
	docs := []string{}
	t, err := d.peek(role)
	if err != nil {
		return nil, err
	}
	if t != nil && t.Targets[target] != nil {
		docs = append(docs, t.Targets[target].Hashes["sha256"].String())
	}
	for _, c := range d.open {
		if len(docs) > 0 {
			break
		}
		p, err := c.targets(role)
		if err != nil {
			return nil, err
		}
		if p != nil && p.doc.Targets[target] != nil {
			docs = append(docs, p.doc.Targets[target].Hashes["sha256"].String())
		}
	}
	if len(docs) == 0 {
		return nil, refuse("only published releases are deployed", fmt.Sprintf("cannot find release %s %s", app, v), "run release publish first")
	}
	sum, err := release.ParseDigest(docs[0])
	if err != nil {
		return nil, fmt.Errorf("cannot read the digest of %s: %w", target, err)
	}
	return &release.Reference{Path: target, SHA256: sum}, nil
}
