package repository_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/keys"
	"github.com/slipway-deploy/slipway/tuf/repository"
)

// fixture is a repository with three root holders, an app, and an environment with three approvers of whom two must sign.
type fixture struct {
	t      testing.TB
	dir    string
	r      *repository.Repository
	now    time.Time
	people map[string]*keys.Private
}

var (
	billing    = must(release.ParseApp("billing"))
	production = must(release.ParseEnvironment("production"))
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func version(s string) release.Version { return must(release.ParseVersion(s)) }

func (f *fixture) key(name string) *keys.Private {
	if f.people[name] == nil {
		kind := keys.Ed25519
		if name == "bob" || name == "ben" {
			kind = keys.ECDSAP256
		}
		f.people[name] = must(keys.Generate(kind, name))
	}
	return f.people[name]
}

func (f *fixture) public(names ...string) []keys.Public {
	var out []keys.Public
	for _, n := range names {
		out = append(out, f.key(n).Public())
	}
	return out
}

func empty(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: filepath.Join(t.TempDir(), "repo"), now: time.Now(), people: map[string]*keys.Private{}}
	r, c, err := repository.Create(f.dir, repository.CreateOptions{
		Root: f.public("alice", "bob", "carol"), RootThreshold: 2,
		Targets: f.public("alice", "bob", "carol"), TargetsThreshold: 2, Online: f.public("online"),
	}, repository.WithClock(f.clock))
	if err != nil {
		t.Fatal(err)
	}
	f.r = r
	f.sign(c, "alice", "bob")
	f.publish()
	return f
}

func (f *fixture) clock() time.Time { return f.now }

func standard(t testing.TB) *fixture {
	t.Helper()
	f := empty(t)
	ctx := context.Background()
	c, err := f.r.AddEnvironment(ctx, production, repository.EnvironmentOptions{
		Template:  repository.Template{Keys: f.public("ann", "ben", "cem"), Threshold: 2},
		Emergency: f.public("oncall"),
	})
	f.ok(err)
	f.sign(c, "alice", "bob")
	f.publish()
	c, err = f.r.AddApp(ctx, billing, repository.AppOptions{Keys: f.public("ci"), Threshold: 1})
	f.ok(err)
	f.sign(c, "bob", "carol")
	f.publish()
	return f
}

func (f *fixture) ok(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) sign(c *repository.Change, names ...string) *repository.Change {
	f.t.Helper()
	for _, n := range names {
		if _, err := f.r.Sign(context.Background(), c, f.key(n)); err != nil {
			f.t.Fatal(err)
		}
	}
	return c
}

func (f *fixture) tryPublish(ids ...string) (*repository.Published, error) {
	return f.r.Publish(context.Background(), repository.PublishOptions{Changes: ids, Online: []keys.Signer{f.key("online")}})
}

func (f *fixture) publish(ids ...string) *repository.Published {
	f.t.Helper()
	out, err := f.tryPublish(ids...)
	f.ok(err)
	return out
}

// packed writes what release pack writes, with archives that nobody unpacks.
func packed(t testing.TB, v string) string { return packedWith(t, v, "archive of "+v) }

func packedWith(t testing.TB, v, archive string) string {
	t.Helper()
	dir := t.TempDir()
	platform := must(release.ParsePlatform("linux/amd64"))
	file := func(path, content string) release.File {
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(path)), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return release.File{Path: path, SHA256: release.Sum([]byte(content)), Length: int64(len(content))}
	}
	doc := &release.Release{
		Schema: release.ReleaseSchema, App: billing, Version: version(v), Created: time.Unix(1_700_000_000, 0).UTC(),
		Restart: release.RestartModeRestart, Units: []release.UnitFile{},
		Platforms: map[release.Platform]release.Artifact{platform: {
			Archive:  file(release.ArchivePath(billing, version(v), platform), archive),
			Manifest: file(release.ManifestPath(billing, version(v), platform), "manifest of "+v),
			Unpacked: 1, Files: 1,
		}},
	}
	raw, err := release.Encode(doc)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "release.json"), raw, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (f *fixture) release(v string) *repository.Change {
	f.t.Helper()
	c, err := f.r.PublishRelease(context.Background(), packed(f.t, v), repository.Origin{})
	f.ok(err)
	return f.sign(c, "ci")
}

func (f *fixture) deploy(v string, doc release.Deployment) *repository.Change {
	f.t.Helper()
	c, err := f.r.NewDeployment(context.Background(), repository.Wish{App: billing, Environment: production, Version: version(v), Document: doc})
	f.ok(err)
	return c
}

func (f *fixture) verify() *repository.Verified { return f.verifyFrom(nil) }

// verifyFrom reads a destination as a new host does, or with nil the repository directory.
func (f *fixture) verifyFrom(d repository.Destination) *repository.Verified {
	f.t.Helper()
	v, err := f.r.Verify(context.Background(), repository.VerifyOptions{Payloads: true, From: d})
	f.ok(err)
	return v
}

func kindOf(err error) string {
	if k, ok := err.(interface{ Kind() string }); ok {
		return k.Kind()
	}
	return fmt.Sprint(err)
}

func (f *fixture) online() []keys.Signer { return []keys.Signer{f.key("online")} }

func keysFromTUF(id string, p keys.Public) (keys.Public, error) { return keys.FromTUF(id, p.TUF()) }
