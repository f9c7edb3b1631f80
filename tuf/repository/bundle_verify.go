package repository

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/bundle"
	"github.com/slipway-deploy/slipway/tuf/client"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// BundleCheck says from what trust a bundle is verified and how old it may be.
type BundleCheck struct {
	// Root is the pinned root, of any version.
	Root []byte
	// MaxAge bounds the age of the timestamp; zero leaves the signed expiry as the only bound.
	MaxAge time.Duration
	// Now is the clock; nil is the machine's.
	Now func() time.Time

	hashed bool // payloads were hashed on their way in
}

// VerifyBundle runs the client of the hosts over a bundle, from nothing but the pinned root: everything in it must follow from
// what the keys signed, and nothing that its hosts need may be missing. It needs no repository.
func VerifyBundle(ctx context.Context, path string, o BundleCheck) (*Bundled, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("cannot verify bundle %s: %w", path, err)
	}
	f, index, err := bundle.Open(abs)
	if err != nil {
		return nil, fmt.Errorf("cannot verify bundle %s: %w", path, err)
	}
	defer func() { _ = f.Close() }()
	tmp, err := os.MkdirTemp("", "slipway-verify-")
	if err != nil {
		return nil, fmt.Errorf("cannot verify bundle %s: %w", path, err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	c, err := client.Open(client.Config{Dir: tmp, Root: o.Root, Mirrors: []client.Mirror{{Metadata: bundle.Scheme + abs}}, RootProbe: -1,
		MaxBundleAge: o.MaxAge, Clock: client.Clock{Now: o.Now}})
	if err != nil {
		return nil, err
	}
	v := &bundleVerifier{c: c, x: index, o: o, used: map[string]bool{}, deployed: []*release.Deployment{}}
	if err := v.run(ctx); err != nil {
		var named *client.ErrBundle
		if errors.As(err, &named) {
			err = named.Err
		}
		return nil, fmt.Errorf("cannot verify bundle %s: %w", path, err)
	}
	return &v.out, nil
}

type bundleVerifier struct {
	c        *client.Client
	x        *bundle.Index
	o        BundleCheck
	only     []release.Platform
	used     map[string]bool
	deployed []*release.Deployment
	out      Bundled
}

func (v *bundleVerifier) run(ctx context.Context) error {
	for _, p := range v.x.Info.Platforms {
		pl, err := release.ParsePlatform(p)
		if err != nil {
			return err
		}
		v.only = append(v.only, pl)
	}
	t, err := v.c.Refresh(ctx)
	if err != nil {
		return err
	}
	v.out = Bundled{For: v.x.Info.String(), Root: t.Root, Timestamp: t.Timestamp, Issued: t.Issued, Deployments: []string{}}
	v.out.age = v.o.Now().Sub(t.Issued)
	v.out.Age = v.out.age.Round(time.Second).String()
	v.top(t)
	if err := v.roles(ctx); err != nil {
		return err
	}
	for _, doc := range v.deployed {
		if err := v.deployment(ctx, doc); err != nil {
			return err
		}
	}
	if err := v.nothingElse(ctx); err != nil {
		return err
	}
	now, err := v.c.Trusted()
	if err != nil {
		return err
	}
	for role, at := range now.Expires {
		if v.out.Until.IsZero() || at.Before(v.out.Until) || at.Equal(v.out.Until) && role < v.out.UntilRole {
			v.out.Until, v.out.UntilRole = at, role
		}
	}
	return nil
}

func (v *bundleVerifier) top(t client.Trusted) {
	for n := int64(1); n <= t.Root; n++ {
		v.used["metadata/"+metaName(classRoot, n)] = true
	}
	v.used["metadata/"+metaName(classTimestamp, 0)] = true
	v.used["metadata/"+metaName(classSnapshot, t.Snapshot)] = true
	v.used["metadata/"+metaName(classTargets, t.Targets)] = true
}

// roles reads each delegated role that is in the bundle, by asking for what it signs.
func (v *bundleVerifier) roles(ctx context.Context) error {
	for _, name := range v.x.Names() {
		file, isMeta := strings.CutPrefix(name, "metadata/")
		if !isMeta || v.used[name] {
			continue
		}
		_, role, _ := strings.Cut(strings.TrimSuffix(file, ".json"), ".")
		pattern, err := rolePattern(role)
		if err != nil {
			return &bundle.MalformedError{Reason: fmt.Sprintf("%s belongs to no role", name)}
		}
		if roleClass(role) == classApp {
			continue // its deployments lead to its releases
		}
		t, err := v.c.Lookup(ctx, pattern)
		var none *client.ErrNotFound
		switch {
		case errors.As(err, &none):
		case err != nil:
			return err
		default:
			v.used["metadata/"+metaName(role, t.Version)] = true
			if err := v.document(ctx, role, t); err != nil {
				return err
			}
		}
	}
	return nil
}

func (v *bundleVerifier) document(ctx context.Context, role string, t client.Target) error {
	raw, err := v.read(ctx, t)
	if err != nil {
		return err
	}
	switch roleClass(role) {
	case classEmergency:
		_, err = release.ParseEmergency(raw)
	case classInventory:
		_, err = release.ParseInventory(raw)
	case classDeploy:
		doc, perr := release.ParseDeployment(raw)
		if perr != nil {
			return perr
		}
		if release.DeploymentPath(doc.Environment, doc.App) != t.Path {
			return fmt.Errorf("%s is for %s in %s", t.Path, doc.App, doc.Environment)
		}
		v.deployed = append(v.deployed, doc)
	}
	return err
}

func (v *bundleVerifier) read(ctx context.Context, t client.Target) ([]byte, error) {
	sum, err := release.ParseDigest(t.SHA256)
	if err != nil {
		return nil, err
	}
	v.used["targets/"+storedName(t.Path, sum)] = true
	v.out.Files++
	v.out.Bytes += t.Length
	return v.c.Read(ctx, t)
}

func (v *bundleVerifier) deployment(ctx context.Context, doc *release.Deployment) error {
	what := "absent"
	if doc.Release != nil {
		what = versionOf(doc.Release)
	}
	if doc.Fallback != nil {
		what += " (fallback " + versionOf(doc.Fallback) + ")"
	}
	v.out.Deployments = append(v.out.Deployments, fmt.Sprintf("%s/%s: %s, sequence %d, %s", doc.Environment, doc.App, what, doc.Sequence, doc.State))
	for _, ref := range []*release.Reference{doc.Release, doc.Fallback} {
		if ref == nil {
			continue
		}
		if err := v.release(ctx, doc.App, *ref); err != nil {
			return err
		}
	}
	return nil
}

func (v *bundleVerifier) release(ctx context.Context, app release.App, ref release.Reference) error {
	if v.used["targets/"+storedName(ref.Path, ref.SHA256)] {
		return nil
	}
	t, err := v.c.Lookup(ctx, ref.Path)
	if err != nil {
		return err
	}
	if t.SHA256 != ref.SHA256.String() {
		return fmt.Errorf("the deployment of %s names %s with sha256 %s, and the app signed %s", app, ref.Path, ref.SHA256.Short(), t.SHA256)
	}
	v.used["metadata/"+metaName(AppRole(app), t.Version)] = true
	raw, err := v.read(ctx, t)
	if err != nil {
		return err
	}
	doc, err := release.ParseRelease(raw)
	if err != nil {
		return err
	}
	v.out.Releases++
	for _, f := range forPlatforms(doc, v.only) {
		if err := v.payload(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

func (v *bundleVerifier) payload(ctx context.Context, f release.File) error {
	name := "targets/" + storedName(f.Path, f.SHA256)
	if v.used[name] {
		return nil
	}
	v.used[name] = true
	v.out.Files++
	v.out.Bytes += f.Length
	if _, size, ok := v.x.Find(name); !ok || size != f.Length {
		return &bundle.MalformedError{Reason: fmt.Sprintf("%s is not in it with its %d bytes, and a deployment needs it", f.Path, f.Length)}
	}
	if v.o.hashed {
		return nil
	}
	return v.c.Fetch(ctx, client.File{Path: f.Path, SHA256: f.SHA256.String(), Length: f.Length}, io.Discard, nil)
}

// nothingElse accounts for what targets itself lists (trust/…) and refuses what nobody signed.
func (v *bundleVerifier) nothingElse(ctx context.Context) error {
	raw, err := v.c.Metadata()
	if err != nil {
		return err
	}
	targets, err := parseSigned[metadata.TargetsType](raw[classTargets], classTargets, classTargets)
	if err != nil {
		return err
	}
	for _, path := range sortedKeys(targets.Targets) {
		t, err := v.c.Lookup(ctx, path)
		if err != nil {
			return err
		}
		if _, err := v.read(ctx, t); err != nil {
			return err
		}
	}
	for _, name := range v.x.Names() {
		if !v.used[name] {
			return &bundle.MalformedError{Reason: fmt.Sprintf("nothing signed leads to %s, which is in it", name)}
		}
	}
	return nil
}
