package repository

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/client"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// ClientError means that the real client refuses what is, or is about to be, published. Nothing was published.
type ClientError struct {
	From string
	Err  error
}

func (e *ClientError) Error() string {
	return fmt.Sprintf("cannot verify the repository from %s: %v", e.From, e.Err)
}

// Unwrap is the client's own error.
func (e *ClientError) Unwrap() error { return e.Err }

// Kind is the class of the error for logs and metrics.
func (e *ClientError) Kind() string { return "client-refuses" }

// verify runs the client that hosts run over the plan, in a view of it beside the repository: from every root a host may
// have pinned, and from what an up-to-date host knows now.
func (p *plan) verify(ctx context.Context) error {
	tmp, err := p.r.scratch()
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	view := filepath.Join(tmp, "metadata")
	roots, err := p.view(view)
	if err != nil {
		return fmt.Errorf("cannot check before publishing: %w", err)
	}
	next := p.r.mirror(view)
	for i, root := range roots {
		from := fmt.Sprintf("root version %d", i+1)
		c, err := p.r.client(filepath.Join(tmp, fmt.Sprintf("root-%d", i+1)), root, next)
		if err != nil {
			return &ClientError{From: from, Err: err}
		}
		if err := p.accepts(ctx, c, i == len(roots)-1); err != nil {
			return &ClientError{From: from, Err: err}
		}
	}
	return p.verifyUpdate(ctx, filepath.Join(tmp, "update"), roots[0], next)
}

// verifyUpdate is the step that hosts will take. A host that cannot accept what is published now, because it expired or a
// publish was interrupted, has no such step.
func (p *plan) verifyUpdate(ctx context.Context, dir string, root []byte, next client.Mirror) error {
	if !p.before.published() {
		return nil
	}
	now, err := p.r.client(dir, root, p.r.mirror(p.before.dir))
	if err != nil {
		return &ClientError{From: "the published state", Err: err}
	}
	if _, err := now.Refresh(ctx); err != nil {
		return ctx.Err()
	}
	then, err := p.r.client(dir, root, next)
	if err == nil {
		err = p.accepts(ctx, then, false)
	}
	if err != nil {
		return &ClientError{From: fmt.Sprintf("timestamp version %d", p.before.version(classTimestamp)), Err: err}
	}
	return nil
}

// accepts refreshes to exactly what the plan publishes and, with lookups, finds what is new under the keys that signed it.
func (p *plan) accepts(ctx context.Context, c *client.Client, lookups bool) error {
	t, err := c.Refresh(ctx)
	if err != nil {
		return err
	}
	if t.Timestamp != p.timestampVersion || t.Snapshot != p.snapshotVersion || t.Root != p.root.Version {
		return fmt.Errorf("it stays at root %d, timestamp %d and snapshot %d", t.Root, t.Timestamp, t.Snapshot)
	}
	if !lookups {
		return nil
	}
	for _, path := range p.links {
		if _, err := c.Lookup(ctx, path); err != nil {
			return err
		}
	}
	return nil
}

// view lays the metadata out as it will be, and returns every root in order.
func (p *plan) view(dir string) ([][]byte, error) {
	if err := p.edition().view(p.before, dir); err != nil {
		return nil, err
	}
	var roots [][]byte
	for v := int64(1); v <= p.root.Version; v++ {
		data, err := os.ReadFile(filepath.Join(dir, metaName(classRoot, v)))
		if err != nil {
			return nil, err
		}
		roots = append(roots, data)
	}
	return roots, nil
}

// scratch is a directory on the repository's own filesystem, so that metadata can be linked into it. Those that a killed
// publish left behind go first.
func (r *Repository) scratch() (string, error) {
	old, err := filepath.Glob(filepath.Join(r.dir, ".check-*"))
	if err != nil {
		return "", fmt.Errorf("cannot check before publishing: %w", err)
	}
	for _, dir := range old {
		if err := os.RemoveAll(dir); err != nil {
			return "", fmt.Errorf("cannot check before publishing: %w", err)
		}
	}
	dir, err := os.MkdirTemp(r.dir, ".check-")
	if err != nil {
		return "", fmt.Errorf("cannot check before publishing: %w", err)
	}
	return dir, nil
}

func (r *Repository) mirror(metadataDir string) client.Mirror {
	meta, err := filepath.Abs(metadataDir)
	if err != nil {
		meta = metadataDir
	}
	targets, err := filepath.Abs(r.targetsDir())
	if err != nil {
		targets = r.targetsDir()
	}
	return client.Mirror{Metadata: meta, Targets: targets}
}

func (r *Repository) client(dir string, root []byte, m client.Mirror) (*client.Client, error) {
	return client.Open(client.Config{Dir: dir, Root: root, Mirrors: []client.Mirror{m}, RootProbe: -1, Clock: client.Clock{Now: r.now}})
}

// VerifyOptions says from what trust, where, and how deep.
type VerifyOptions struct {
	// Root is the pinned root; nil means version 1 of the repository.
	Root []byte
	// Mirror is where to look; zero means the repository's own directory.
	Mirror client.Mirror
	// From is a destination to look at instead, through its own interface.
	From Destination
	// Payloads reads every archive too, not only the documents.
	Payloads bool
}

// Verified is what a new host would learn.
type Verified struct {
	Root        int64     `json:"root"`
	Timestamp   int64     `json:"timestamp"`
	Snapshot    int64     `json:"snapshot"`
	Targets     int64     `json:"targets"`
	Issued      time.Time `json:"issued"`
	Deployments []string  `json:"deployments"`
	Releases    int       `json:"releases"`
	Files       int       `json:"files"`
	Bytes       int64     `json:"bytes"`
}

// Verify runs the client of the hosts from a pinned root over what is published: every deployment in force, the releases it
// names, and with Payloads the bytes of every release that is listed.
func (r *Repository) Verify(ctx context.Context, o VerifyOptions) (*Verified, error) {
	var err error
	if o.Root == nil {
		if o.Root, err = r.PinnedRoot(1); err != nil {
			return nil, err
		}
	}
	if o.From != nil {
		s, err := serve(o.From)
		if err != nil {
			return nil, err
		}
		defer s.close()
		o.Mirror = s.mirror()
	}
	if o.Mirror == (client.Mirror{}) {
		o.Mirror = r.mirror(r.metadataDir())
	}
	tmp, err := os.MkdirTemp("", "slipway-verify-")
	if err != nil {
		return nil, fmt.Errorf("cannot verify: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	c, err := r.client(tmp, o.Root, o.Mirror)
	if err != nil {
		return nil, &ClientError{From: "the pinned root", Err: err}
	}
	v := &verifier{c: c, payloads: o.Payloads, seen: map[string]bool{}}
	if err := v.run(ctx); err != nil {
		return nil, &ClientError{From: "the pinned root", Err: err}
	}
	return &v.out, nil
}

type verifier struct {
	c        *client.Client
	payloads bool
	seen     map[string]bool
	out      Verified
}

func (v *verifier) run(ctx context.Context) error {
	t, err := v.c.Refresh(ctx)
	if err != nil {
		return err
	}
	v.out = Verified{Root: t.Root, Timestamp: t.Timestamp, Snapshot: t.Snapshot, Targets: t.Targets, Issued: t.Issued, Deployments: []string{}}
	paths, err := v.published(ctx)
	if err != nil {
		return err
	}
	for _, path := range paths {
		if err := v.document(ctx, path); err != nil {
			return err
		}
	}
	return nil
}

// published lists the paths to look at: with Payloads every one, else the deployments, which lead to their releases.
func (v *verifier) published(ctx context.Context) ([]string, error) {
	raw, err := v.c.Metadata()
	if err != nil {
		return nil, err
	}
	snap, err := parseSigned[metadata.SnapshotType](raw[classSnapshot], "the snapshot", classSnapshot)
	if err != nil {
		return nil, err
	}
	var paths []string
	for name := range snap.Meta {
		role := strings.TrimSuffix(name, ".json")
		if pattern, err := rolePattern(role); err == nil && roleClass(role) != classApp {
			paths = append(paths, pattern)
		} else if err == nil && v.payloads {
			// Any path of the role makes the client fetch it; an unlikely one is not found after that.
			_, err := v.c.Lookup(ctx, strings.TrimSuffix(pattern, "*/*")+"0/release.json")
			var none *client.ErrNotFound
			if err != nil && !errors.As(err, &none) {
				return nil, err
			}
		}
	}
	if !v.payloads {
		slices.Sort(paths)
		return paths, nil
	}
	if raw, err = v.c.Metadata(); err != nil {
		return nil, err
	}
	for role, data := range raw {
		if roleClass(role) != classApp {
			continue
		}
		t, err := parseSigned[metadata.TargetsType](data, role, role)
		if err != nil {
			return nil, err
		}
		paths = append(paths, sortedKeys(t.Targets)...)
	}
	slices.Sort(paths)
	return paths, nil
}

func (v *verifier) document(ctx context.Context, path string) error {
	if v.seen[path] {
		return nil
	}
	v.seen[path] = true
	t, err := v.c.Lookup(ctx, path)
	var none *client.ErrNotFound
	if errors.As(err, &none) && !strings.HasPrefix(path, "releases/") {
		return nil
	}
	if err != nil {
		return err
	}
	raw, err := v.c.Read(ctx, t)
	if err != nil {
		return err
	}
	switch path[:strings.IndexByte(path, '/')] {
	case "deployments":
		return v.deployment(ctx, path, raw)
	case "releases":
		return v.release(ctx, path, raw)
	case "emergency":
		_, err = release.ParseEmergency(raw)
	case "inventory":
		_, err = release.ParseInventory(raw)
	}
	return err
}

func (v *verifier) deployment(ctx context.Context, path string, raw []byte) error {
	doc, err := release.ParseDeployment(raw)
	if err != nil {
		return err
	}
	if release.DeploymentPath(doc.Environment, doc.App) != path {
		return fmt.Errorf("cannot accept %s: it is for %s in %s", path, doc.App, doc.Environment)
	}
	what := "absent"
	if doc.Release != nil {
		what = versionOf(doc.Release)
	}
	v.out.Deployments = append(v.out.Deployments, fmt.Sprintf("%s/%s: %s, sequence %d, %s", doc.Environment, doc.App, what, doc.Sequence, doc.State))
	for _, ref := range []*release.Reference{doc.Release, doc.Fallback} {
		if ref == nil {
			continue
		}
		t, err := v.c.Lookup(ctx, ref.Path)
		if err != nil {
			return err
		}
		if t.SHA256 != ref.SHA256.String() {
			return fmt.Errorf("cannot accept %s: it names %s with sha256 %s, and the app signed %s", path, ref.Path, ref.SHA256.Short(), t.SHA256)
		}
		if err := v.document(ctx, ref.Path); err != nil {
			return err
		}
	}
	return nil
}

func (v *verifier) release(ctx context.Context, path string, raw []byte) error {
	doc, err := release.ParseRelease(raw)
	if err != nil {
		return err
	}
	if release.ReleasePath(doc.App, doc.Version) != path {
		return fmt.Errorf("cannot accept %s: it is release %s %s", path, doc.App, doc.Version)
	}
	v.out.Releases++
	if !v.payloads {
		return nil
	}
	for _, f := range pinned(doc) {
		if err := v.c.Fetch(ctx, client.File{Path: f.Path, SHA256: f.SHA256.String(), Length: f.Length}, io.Discard, nil); err != nil {
			return err
		}
		v.out.Files++
		v.out.Bytes += f.Length
	}
	return nil
}
