package repository

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/keys"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Repository is a repository directory. It holds nothing but the path: every call reads the disk, so that several
// processes, git and people may work on it between calls.
type Repository struct {
	dir string
	now func() time.Time
}

// Option adjusts a Repository.
type Option func(*Repository)

// WithClock replaces the clock, for tests that live longer than their process.
func WithClock(now func() time.Time) Option { return func(r *Repository) { r.now = now } }

// CreateOptions is who signs what in a new repository.
type CreateOptions struct {
	Root             []keys.Public
	RootThreshold    int
	Targets          []keys.Public
	TargetsThreshold int
	// Online are the keys of snapshot and timestamp; any one of them suffices.
	Online []keys.Public
	// NoSpare is why a root or targets role may have no key to lose.
	NoSpare string
	// Policy is DefaultPolicy when it is nil.
	Policy *Policy
	Origin Origin
}

// Create makes an empty repository in dir and opens its first change: root and targets, to be signed by their keys and
// published. An existing repository is never touched.
func Create(dir string, o CreateOptions, opts ...Option) (*Repository, *Change, error) {
	r := newRepository(dir, opts)
	if _, err := os.Stat(r.policyPath()); err == nil {
		return nil, nil, refuse("a repository is created once", "cannot create a repository in "+dir+": there is one already", "choose another directory")
	}
	policy := DefaultPolicy()
	if o.Policy != nil {
		policy = *o.Policy
	}
	if err := policy.check(); err != nil {
		return nil, nil, fmt.Errorf("cannot use policy: %w", err)
	}
	root, err := r.firstRoot(o, &policy)
	if err != nil {
		return nil, nil, err
	}
	for _, d := range []string{r.metadataDir(), r.targetsDir(), r.publishedDir()} {
		if err := durable.MkdirAll(d, 0o755); err != nil {
			return nil, nil, err
		}
	}
	d := &draft{r: r, state: &state{dir: r.metadataDir()}, policy: &policy, docs: map[string]any{}}
	d.docs[classRoot] = root
	targets := metadata.Targets(r.expires(&policy, classTargets)).Signed
	d.docs[classTargets] = &targets
	c, err := d.save("init", "create the repository", o.Origin)
	if err != nil {
		return nil, nil, err
	}
	if err := writePolicy(r.policyPath(), &policy); err != nil {
		return nil, nil, err
	}
	return r, c, nil
}

func (r *Repository) firstRoot(o CreateOptions, policy *Policy) (*metadata.RootType, error) {
	root := metadata.Root(r.expires(policy, classRoot)).Signed
	for _, role := range []struct {
		name      string
		keys      []keys.Public
		threshold int
		noSpare   string
	}{
		{classRoot, o.Root, o.RootThreshold, o.NoSpare},
		{classTargets, o.Targets, o.TargetsThreshold, o.NoSpare},
		{classSnapshot, o.Online, 1, ""}, {classTimestamp, o.Online, 1, ""},
	} {
		if err := checkKeys(role.name, role.keys, role.threshold, role.noSpare); err != nil {
			return nil, err
		}
		entry := &metadata.Role{Threshold: role.threshold}
		for _, k := range role.keys {
			id, err := listKey(root.Keys, k)
			if err != nil {
				return nil, err
			}
			entry.KeyIDs = append(entry.KeyIDs, id)
		}
		root.Roles[role.name] = entry
	}
	for _, k := range o.Online {
		if slices.ContainsFunc(slices.Concat(o.Root, o.Targets), func(p keys.Public) bool { return p.Fingerprint() == k.Fingerprint() }) {
			return nil, refuse("online keys sign nothing else",
				fmt.Sprintf("cannot use key %s online: it is an offline key of root or targets too", k), "make a separate key for snapshot and timestamp")
		}
	}
	return &root, nil
}

// Open finds the repository in dir.
func Open(dir string, opts ...Option) (*Repository, error) {
	r := newRepository(dir, opts)
	if _, err := readPolicy(r.policyPath()); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("cannot open repository: %s has no policy.json; give the repository's directory with --dir, or run init", dir)
		}
		return nil, err
	}
	return r, nil
}

func newRepository(dir string, opts []Option) *Repository {
	r := &Repository{dir: filepath.Clean(dir), now: time.Now}
	for _, o := range opts {
		o(r)
	}
	return r
}

// Dir is the repository's directory. Its metadata and targets directories are what a web server or mirror serves.
func (r *Repository) Dir() string { return r.dir }

// Policy reads policy.json.
func (r *Repository) Policy() (*Policy, error) { return readPolicy(r.policyPath()) }

// SetPolicy replaces policy.json.
func (r *Repository) SetPolicy(p *Policy) error {
	if err := p.check(); err != nil {
		return fmt.Errorf("cannot use policy: %w", err)
	}
	return writePolicy(r.policyPath(), p)
}

// PinnedRoot is the content of a root version, 0 for the first: what gets pinned on hosts.
func (r *Repository) PinnedRoot(version int64) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(r.metadataDir(), metaName(classRoot, max(1, version))))
	if err != nil {
		return nil, fmt.Errorf("cannot read root: %w", err)
	}
	return data, nil
}

func (r *Repository) metadataDir() string { return filepath.Join(r.dir, "metadata") }
func (r *Repository) targetsDir() string  { return filepath.Join(r.dir, "targets") }

// targetPath is where the published bytes of a target lie.
func (r *Repository) targetPath(path string, sum release.Digest) string {
	return filepath.Join(r.targetsDir(), filepath.FromSlash(storedName(path, sum)))
}

func (r *Repository) changesDir() string   { return filepath.Join(r.dir, "changes") }
func (r *Repository) publishedDir() string { return filepath.Join(r.changesDir(), publishedName) }
func (r *Repository) policyPath() string   { return filepath.Join(r.dir, "policy.json") }

func (r *Repository) utc() time.Time { return r.now().UTC().Truncate(time.Second) }

func (r *Repository) expires(p *Policy, role string) time.Time {
	return r.utc().Add(p.expiry(role).Std())
}

// edit waits for other editors of this directory. Publish and Refresh do not wait: two of them at once is a mistake.
func (r *Repository) edit(ctx context.Context) (*durable.Lock, error) {
	return durable.AcquireLock(ctx, filepath.Join(r.dir, ".lock"))
}

func (r *Repository) exclusive() (*durable.Lock, error) {
	lock, err := durable.TryLock(filepath.Join(r.dir, ".lock"))
	if err != nil {
		return nil, fmt.Errorf("cannot publish while somebody else does: %w", err)
	}
	return lock, nil
}
