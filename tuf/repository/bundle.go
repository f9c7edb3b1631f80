package repository

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/bundle"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// BundleOptions selects what goes into a bundle. An empty list takes all.
type BundleOptions struct {
	// Environment is the one whose hosts the bundle is for; zero takes every one.
	Environment release.Environment
	Apps        []release.App
	Platforms   []release.Platform
}

// WriteBundle makes a bundle at path: every root, the published timestamp, snapshot and targets, the roles that the chosen
// environment's hosts ask for, and the files of the releases that its deployments name, fallbacks included. The same published
// state gives the same bytes. The file appears whole, after the client of the hosts has read it from root version 1.
func (r *Repository) WriteBundle(ctx context.Context, path string, o BundleOptions) (*Bundled, error) {
	p, err := r.planBundle(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("cannot make a bundle: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".part-*")
	if err != nil {
		return nil, fmt.Errorf("cannot make a bundle: %w", err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	err = bundle.Write(cancelled{ctx, tmp}, p.info, p.files)
	if err == nil {
		err = tmp.Chmod(0o644)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return nil, fmt.Errorf("cannot make a bundle: %w", err)
	}
	out, err := VerifyBundle(ctx, tmp.Name(), BundleCheck{Root: p.root, Now: r.now, hashed: true})
	if err != nil {
		return nil, err
	}
	return out, durable.Rename(tmp.Name(), path)
}

// cancelled ends a long copy when its context ends.
type cancelled struct {
	ctx context.Context
	w   io.Writer
}

func (c cancelled) Write(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.w.Write(p)
}

// bundlePlan gathers what a bundle will hold. Metadata is taken under the repository's lock, so that it belongs together;
// payloads never change and are read when their turn comes.
type bundlePlan struct {
	r     *Repository
	s     *state
	o     BundleOptions
	info  bundle.Info
	root  []byte
	files []bundle.File

	roles    map[string]bool
	payloads map[string]release.File // by stored name
}

func (r *Repository) planBundle(ctx context.Context, o BundleOptions) (*bundlePlan, error) {
	lock, err := r.edit(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	p := &bundlePlan{r: r, o: o, roles: map[string]bool{}, payloads: map[string]release.File{}}
	if p.s, err = load(r.metadataDir()); err != nil {
		return nil, err
	}
	if !p.s.published() {
		return nil, refuse("the first change comes first", "nothing is published yet", "sign and publish the repository's first change")
	}
	p.describe()
	if err := p.documents(); err != nil {
		return nil, err
	}
	if err := p.metadata(); err != nil {
		return nil, err
	}
	for _, name := range sortedKeys(p.payloads) {
		p.files = append(p.files, p.payload(name, p.payloads[name]))
	}
	return p, nil
}

func (p *bundlePlan) describe() {
	if !p.o.Environment.IsZero() {
		p.info.Environments = []string{p.o.Environment.String()}
	}
	for _, a := range p.o.Apps {
		p.info.Apps = append(p.info.Apps, a.String())
	}
	for _, pl := range p.o.Platforms {
		p.info.Platforms = append(p.info.Platforms, pl.String())
	}
	for _, list := range []*[]string{&p.info.Apps, &p.info.Platforms} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
}

// documents follows the deployments of the environment to everything its hosts will ask for.
func (p *bundlePlan) documents() error {
	deployed := map[release.App]bool{}
	targets, err := p.s.role(classTargets)
	if err != nil {
		return err
	}
	if err := p.listed(targets); err != nil {
		return err
	}
	for _, role := range p.s.roles() {
		env, app, wanted := p.wants(role)
		if !wanted {
			continue
		}
		t, err := p.s.role(role)
		if err != nil {
			return err
		}
		p.roles[role] = true
		if err := p.listed(t); err != nil {
			return err
		}
		if roleClass(role) == classDeploy {
			deployed[app] = true
			if err := p.deployment(env, app); err != nil {
				return err
			}
		}
	}
	for _, app := range p.o.Apps {
		if !deployed[app] {
			return refuse("a bundle holds what is deployed", fmt.Sprintf("%s has no deployment in %s", app, p.where()), "run deploy new and publish first, or leave --app out")
		}
	}
	if len(deployed) == 0 {
		return refuse("a bundle holds what is deployed", "there is no deployment in "+p.where(), "run deploy new and publish first")
	}
	return nil
}

func (p *bundlePlan) where() string {
	if p.o.Environment.IsZero() {
		return "any environment"
	}
	return "environment " + p.o.Environment.String()
}

// wants says whether hosts of the bundle ask for a role that does not follow from a deployment.
func (p *bundlePlan) wants(role string) (env release.Environment, app release.App, yes bool) {
	here := func(e release.Environment) bool { return p.o.Environment.IsZero() || p.o.Environment == e }
	switch class := roleClass(role); class {
	case classDeploy:
		env, app, err := splitDeploy(role)
		return env, app, err == nil && here(env) && (len(p.o.Apps) == 0 || slices.Contains(p.o.Apps, app))
	case classEmergency, classInventory:
		env, err := release.ParseEnvironment(strings.TrimPrefix(role, class+"."))
		return env, app, err == nil && here(env)
	}
	return env, app, false
}

// listed takes along every file that a role other than an app's lists.
func (p *bundlePlan) listed(t *metadata.TargetsType) error {
	for path, f := range t.Targets {
		sum, err := release.ParseDigest(f.Hashes["sha256"].String())
		if err != nil {
			return fmt.Errorf("cannot read the digest of %s: %w", path, err)
		}
		p.take(release.File{Path: path, SHA256: sum, Length: f.Length})
	}
	return nil
}

func (p *bundlePlan) take(f release.File) { p.payloads[storedName(f.Path, f.SHA256)] = f }

func (p *bundlePlan) deployment(env release.Environment, app release.App) error {
	d := &draft{r: p.r, state: p.s}
	doc, err := d.lastDeployment(env, app)
	if err != nil || doc == nil {
		return err
	}
	for _, ref := range []*release.Reference{doc.Release, doc.Fallback} {
		if ref == nil {
			continue
		}
		p.roles[AppRole(app)] = true
		if err := p.release(*ref); err != nil {
			return err
		}
	}
	return nil
}

func (p *bundlePlan) release(ref release.Reference) error {
	name := filepath.Join(p.r.targetsDir(), filepath.FromSlash(storedName(ref.Path, ref.SHA256)))
	raw, err := readBounded(name, maxDocument)
	if err != nil {
		return fmt.Errorf("cannot read release: %w", err)
	}
	if release.Sum(raw) != ref.SHA256 {
		return &DamagedError{Path: name, Err: fmt.Errorf("its sha256 is not the signed %s", ref.SHA256)}
	}
	doc, err := release.ParseRelease(raw)
	if err != nil {
		return err
	}
	p.take(release.File{Path: ref.Path, SHA256: ref.SHA256, Length: int64(len(raw))})
	files := forPlatforms(doc, p.o.Platforms)
	if len(p.o.Platforms) > 0 && !slices.ContainsFunc(p.o.Platforms, func(pl release.Platform) bool { _, ok := doc.Platforms[pl]; return ok }) {
		return refuse("a bundle can be installed", fmt.Sprintf("%s %s has no archive for %s", doc.App, doc.Version, strings.Join(p.info.Platforms, ", ")), "name a platform that the release has, or leave --platform out")
	}
	for _, f := range files {
		p.take(f)
	}
	return nil
}

// forPlatforms lists what a release pins, without the archives and manifests of other platforms; none stands for all.
func forPlatforms(doc *release.Release, only []release.Platform) []release.File {
	if len(only) == 0 {
		return pinned(doc)
	}
	part := *doc
	part.Platforms, part.Patches = map[release.Platform]release.Artifact{}, nil
	for _, pl := range only {
		if a, ok := doc.Platforms[pl]; ok {
			part.Platforms[pl] = a
		}
	}
	for _, patch := range doc.Patches {
		if slices.Contains(only, patch.Platform) {
			part.Patches = append(part.Patches, patch)
		}
	}
	return pinned(&part)
}

// metadata lists the metadata files in the order of the format: the roots, then what a client asks for next.
func (p *bundlePlan) metadata() error {
	var names []string
	for v := int64(1); v <= p.s.root.Version; v++ {
		names = append(names, metaName(classRoot, v))
	}
	names = append(names, metaName(classTimestamp, 0), metaName(classSnapshot, p.s.snapshot.Version), metaName(classTargets, p.s.version(classTargets)))
	for _, role := range sortedKeys(p.roles) {
		if v := p.s.version(role); v > 0 {
			names = append(names, metaName(role, v))
		}
	}
	for i, name := range names {
		data, err := os.ReadFile(filepath.Join(p.r.metadataDir(), name))
		if err != nil {
			return fmt.Errorf("cannot read metadata: %w", err)
		}
		if i == 0 {
			p.root = data
		}
		p.files = append(p.files, bundle.File{Name: "metadata/" + name, Size: int64(len(data)), Open: func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(data)), nil
		}})
	}
	return nil
}

func (p *bundlePlan) payload(name string, f release.File) bundle.File {
	path := filepath.Join(p.r.targetsDir(), filepath.FromSlash(name))
	return bundle.File{Name: "targets/" + name, Size: f.Length, Open: func() (io.ReadCloser, error) {
		in, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("cannot find %s: %w", f.Path, err)
		}
		return &hashed{File: in, sum: sha256.New(), want: f, path: path}, nil
	}}
}

// hashed turns the end of a file with other bytes than were signed into an error.
type hashed struct {
	*os.File
	sum  hash.Hash
	want release.File
	path string
}

func (h *hashed) Read(p []byte) (int, error) {
	n, err := h.File.Read(p)
	h.sum.Write(p[:n])
	if errors.Is(err, io.EOF) {
		if got := hex.EncodeToString(h.sum.Sum(nil)); got != h.want.SHA256.String() {
			return n, &DamagedError{Path: h.path, Err: fmt.Errorf("its sha256 is %s, and %s is signed with %s", got, h.want.Path, h.want.SHA256)}
		}
	}
	return n, err
}

// WriteTo keeps io.Copy from passing Read over.
func (h *hashed) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{h})
}

// Bundled is what a bundle holds, as the client of the hosts found it.
type Bundled struct {
	For         string    `json:"for"`
	Root        int64     `json:"root"`
	Timestamp   int64     `json:"timestamp"`
	Issued      time.Time `json:"issued"`
	Age         string    `json:"age"`
	Until       time.Time `json:"good_until"`
	UntilRole   string    `json:"good_until_role"`
	Deployments []string  `json:"deployments"`
	Releases    int       `json:"releases"`
	Files       int       `json:"files"`
	Bytes       int64     `json:"bytes"`
	age         time.Duration
}

// Old is how long before the check the timestamp was issued.
func (b *Bundled) Old() time.Duration { return b.age }
