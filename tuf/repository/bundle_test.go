package repository_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/bundle"
	"github.com/slipway-deploy/slipway/tuf/client"
	"github.com/slipway-deploy/slipway/tuf/repository"
)

// shipped is the standard repository with three releases, of which production runs the third and falls back to the second.
func shipped(t testing.TB) *fixture {
	f := standard(t)
	for _, v := range []string{"1.0.0", "2.0.0", "3.0.0"} {
		f.release(v)
		f.publish()
	}
	for _, v := range []string{"2.0.0", "3.0.0"} {
		f.sign(f.deploy(v, release.Deployment{}), "ann", "ben")
		f.publish()
	}
	return f
}

func (f *fixture) bundle(o repository.BundleOptions) (string, *repository.Bundled) {
	f.t.Helper()
	path := filepath.Join(f.t.TempDir(), "out.bundle")
	b, err := f.r.WriteBundle(context.Background(), path, o)
	f.ok(err)
	return path, b
}

func (f *fixture) check(path string, maxAge time.Duration) (*repository.Bundled, error) {
	return repository.VerifyBundle(context.Background(), path, repository.BundleCheck{Root: must(f.r.PinnedRoot(1)), MaxAge: maxAge, Now: func() time.Time { return f.now }})
}

func names(t testing.TB, path string) []string {
	t.Helper()
	f, x, err := bundle.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	return x.Names()
}

func TestABundleHoldsWhatProductionRunsAndItsFallbackAndNoMore(t *testing.T) {
	f := shipped(t)
	path, made := f.bundle(repository.BundleOptions{Environment: production})
	var got []string
	for _, name := range names(t, path) {
		dir, base := filepath.Split(name)
		if parts := strings.SplitN(base, ".", 2); strings.HasPrefix(name, "targets/") {
			base = parts[1] // without its digest
		}
		got = append(got, dir+base)
	}
	want := []string{"metadata/1.root.json", "metadata/timestamp.json", "metadata/8.snapshot.json", "metadata/3.targets.json", "metadata/3.app.billing.json",
		"metadata/2.deploy.production.billing.json", "targets/deployments/production/billing.json",
		"targets/releases/billing/2.0.0/release.json", "targets/releases/billing/2.0.0/linux-amd64.manifest.json", "targets/releases/billing/2.0.0/linux-amd64.tar.zst",
		"targets/releases/billing/3.0.0/release.json", "targets/releases/billing/3.0.0/linux-amd64.manifest.json", "targets/releases/billing/3.0.0/linux-amd64.tar.zst"}
	slices.Sort(got[6:])
	slices.Sort(want[6:])
	if !slices.Equal(got, want) {
		t.Errorf("holds\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	f.now = f.now.Add(time.Hour)
	b, err := f.check(path, 24*time.Hour)
	f.ok(err)
	if b.Releases != 2 || b.Files != 7 || b.Old() < time.Hour || b.UntilRole != "timestamp" || b.Deployments[0] != "production/billing: 3.0.0 (fallback 2.0.0), sequence 2, active" {
		t.Errorf("%+v", b)
	}
	if b.Bytes != made.Bytes || b.Timestamp != made.Timestamp {
		t.Errorf("%+v and %+v", b, made)
	}
}

func TestTheSamePublishedStateGivesTheSameBundle(t *testing.T) {
	f := shipped(t)
	first, _ := f.bundle(repository.BundleOptions{})
	f.now = f.now.Add(time.Hour)
	second, _ := f.bundle(repository.BundleOptions{})
	if !bytes.Equal(must(os.ReadFile(first)), must(os.ReadFile(second))) {
		t.Error("two bundles of one state differ")
	}
	if left, err := os.ReadDir(filepath.Dir(first)); err != nil || len(left) != 1 {
		t.Error(left, err)
	}
}

func TestABundleOlderThanAllowedOrExpiredIsRefusedWithItsDate(t *testing.T) {
	f := shipped(t)
	path, _ := f.bundle(repository.BundleOptions{Environment: production})
	f.now = f.now.Add(25 * time.Hour)
	var old *client.ErrTooOld
	if _, err := f.check(path, 24*time.Hour); !errors.As(err, &old) || !strings.Contains(err.Error(), "at most 1d of age are allowed; bring a newer one") {
		t.Error(err)
	}
	f.now = f.now.Add(3 * 24 * time.Hour)
	var expired *client.ErrExpired
	if _, err := f.check(path, 30*24*time.Hour); !errors.As(err, &expired) || expired.Role != "timestamp" {
		t.Error(err)
	}
}

// repack makes another bundle of the same files after an edit.
func repack(t testing.TB, path string, edit func(list []bundle.File) []bundle.File) {
	t.Helper()
	data := must(os.ReadFile(path))
	x, err := bundle.Read(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	var list []bundle.File
	for _, name := range x.Names() {
		start, size, _ := x.Find(name)
		list = append(list, entry(name, data[start:start+size]))
	}
	var out bytes.Buffer
	if err := bundle.Write(&out, x.Info, edit(list)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func entry(name string, data []byte) bundle.File {
	return bundle.File{Name: name, Size: int64(len(data)), Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }}
}

func TestWhatNobodySignedOrSomebodyLeftOutIsFoundInABundle(t *testing.T) {
	f := shipped(t)
	without := func(part string) func([]bundle.File) []bundle.File {
		return func(list []bundle.File) []bundle.File {
			return slices.DeleteFunc(list, func(b bundle.File) bool { return strings.Contains(b.Name, part) })
		}
	}
	with := func(b bundle.File, at int) func([]bundle.File) []bundle.File {
		return func(list []bundle.File) []bundle.File {
			if at < 0 {
				at = len(list)
			}
			return slices.Insert(list, at, b)
		}
	}
	for name, c := range map[string]struct {
		edit func([]bundle.File) []bundle.File
		want string
	}{
		"a payload more":        {with(entry("targets/x", nil), -1), "nothing signed leads to targets/x"},
		"metadata more":         {with(entry("metadata/9.app.web.json", nil), 6), "nothing signed leads to metadata/9.app.web.json"},
		"an unknown role":       {with(entry("metadata/x.y", nil), 6), "belongs to no role"},
		"an archive less":       {without("tar.zst"), "a deployment needs it"},
		"an app's role less":    {without("app.billing"), "not in this bundle"},
		"the timestamp less":    {without("timestamp"), "not in this bundle"},
		"another archive":       {func(l []bundle.File) []bundle.File { return spoil(l, "tar.zst") }, "was signed"},
		"another deployment":    {func(l []bundle.File) []bundle.File { return spoil(l, "deployments/") }, "every attempt brought other bytes"},
		"another role":          {func(l []bundle.File) []bundle.File { return spoil(l, "deploy.production") }, "not the bytes that the snapshot names"},
		"another repository":    {func(l []bundle.File) []bundle.File { return l }, "required signatures are good"},
		"a payload of 0 length": {func(l []bundle.File) []bundle.File { return empty0(l, "tar.zst") }, "a deployment needs it"},
	} {
		t.Run(name, func(t *testing.T) {
			path, _ := f.bundle(repository.BundleOptions{})
			repack(t, path, c.edit)
			check := f.check
			if name == "another repository" {
				check = empty(t).check
			}
			if _, err := check(path, 0); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func spoil(list []bundle.File, part string) []bundle.File {
	for i, b := range list {
		if strings.Contains(b.Name, part) {
			data := must(io.ReadAll(must(b.Open())))
			data[len(data)/2] ^= 1
			list[i] = entry(b.Name, data)
		}
	}
	return list
}

func empty0(list []bundle.File, part string) []bundle.File {
	for i, b := range list {
		if strings.Contains(b.Name, part) {
			list[i] = entry(b.Name, nil)
		}
	}
	return list
}

func TestABundleIsForTheAppsAndPlatformsThatWereNamedIfTheyExist(t *testing.T) {
	f := shipped(t)
	arm, amd := must(release.ParsePlatform("linux/arm64")), must(release.ParsePlatform("linux/amd64"))
	web, staging := must(release.ParseApp("web")), must(release.ParseEnvironment("staging"))
	for name, c := range map[string]struct {
		o    repository.BundleOptions
		want string
	}{
		"an app that is not deployed":   {repository.BundleOptions{Apps: []release.App{web}}, "web has no deployment in any environment"},
		"an environment without any":    {repository.BundleOptions{Environment: staging}, "there is no deployment in environment staging"},
		"a platform that nothing ships": {repository.BundleOptions{Platforms: []release.Platform{arm}}, "has no archive for linux/arm64"},
	} {
		out := filepath.Join(t.TempDir(), "out")
		_, err := f.r.WriteBundle(t.Context(), out, c.o)
		var refused *repository.RefusedError
		if !errors.As(err, &refused) || refused.Remedy == "" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%s: a file was written", name)
		}
	}
	_, b := f.bundle(repository.BundleOptions{Environment: production, Apps: []release.App{billing}, Platforms: []release.Platform{amd, arm}})
	if b.For != "environment production; app billing; platform linux/amd64, linux/arm64" || b.Releases != 2 {
		t.Errorf("%+v", b)
	}
}

func TestADamagedPayloadNeverGetsIntoABundle(t *testing.T) {
	f := shipped(t)
	found := must(filepath.Glob(filepath.Join(f.dir, "targets", "releases", "billing", "3.0.0", "*.tar.zst")))
	data := must(os.ReadFile(found[0]))
	data[0] ^= 1
	f.ok(os.Remove(found[0])) // it is a link to what was packed
	f.ok(os.WriteFile(found[0], data, 0o644))
	out := filepath.Join(t.TempDir(), "out")
	_, err := f.r.WriteBundle(t.Context(), out, repository.BundleOptions{})
	var damaged *repository.DamagedError
	if !errors.As(err, &damaged) || damaged.Path != found[0] {
		t.Error(err)
	}
	if left, _ := os.ReadDir(filepath.Dir(out)); len(left) > 0 {
		t.Error(left)
	}
}

func TestAnUnpackedBundleIsARepositoryDirectory(t *testing.T) {
	f := shipped(t)
	path, _ := f.bundle(repository.BundleOptions{})
	dir := t.TempDir()
	r := tar.NewReader(bytes.NewReader(must(os.ReadFile(path))))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		f.ok(err)
		to := filepath.Join(dir, h.Name)
		f.ok(os.MkdirAll(filepath.Dir(to), 0o755))
		f.ok(os.WriteFile(to, must(io.ReadAll(r)), 0o644))
	}
	v, err := f.r.Verify(t.Context(), repository.VerifyOptions{Mirror: client.Mirror{Metadata: filepath.Join(dir, "metadata")}})
	f.ok(err)
	if v.Releases != 2 {
		t.Errorf("%+v", v)
	}
}
