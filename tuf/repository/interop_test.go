package repository_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/integration/lab"
	"github.com/slipway-deploy/slipway/tuf/client"
	"github.com/slipway-deploy/slipway/tuf/repository"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"
)

// nobodys is a target in the reach of a delegated role that no role lists.
const nobodys = "deployments/production/ledger.json"

// travelled is a repository that other clients must follow from its first root: the online key was replaced since, roles of all
// kinds are delegated, and people sign with Ed25519 and ECDSA. It returns what our own client reads from it, by target path.
func travelled(t *testing.T) (root []byte, url string, want map[string][]byte) {
	t.Helper()
	f := standard(t)
	f.release("1.0.0")
	f.publish()
	f.sign(f.deploy("1.0.0", release.Deployment{}), "ann", "ben")
	f.publish()
	c := f.revoke(repository.RevokeOptions{Key: "online", Replace: f.key("online2").Public(), UseOnline: []string{"/keys/online2"}})
	f.sign(c, "alice", "bob")
	f.publishOnline("online2", c.ID)

	server := httptest.NewServer(http.FileServer(http.Dir(f.dir)))
	t.Cleanup(server.Close)
	root, err := f.r.PinnedRoot(1)
	f.ok(err)
	want = map[string][]byte{}
	ours := openClient(t, root, server.URL)
	for _, path := range []string{
		"releases/billing/1.0.0/release.json", "deployments/production/billing.json",
	} {
		found, err := ours.Lookup(t.Context(), path)
		f.ok(err)
		want[path], err = ours.Read(t.Context(), found)
		f.ok(err)
	}
	return root, server.URL, want
}

func openClient(t *testing.T, root []byte, url string) *client.Client {
	t.Helper()
	c, err := client.Open(client.Config{Dir: t.TempDir(), Root: root, Mirrors: []client.Mirror{{Metadata: url + "/metadata", Targets: url + "/targets"}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestGoTUFsOwnUpdaterReadsWhatWePublishDelegationsIncluded(t *testing.T) {
	t.Parallel()
	root, url, want := travelled(t)
	cfg, err := config.New(url+"/metadata", root)
	if err != nil {
		t.Fatal(err)
	}
	cfg.RemoteTargetsURL, cfg.DisableLocalCache = url+"/targets", true
	up, err := updater.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := up.Refresh(); err != nil {
		t.Fatal(err)
	}
	for path, content := range want {
		info, err := up.GetTargetInfo(path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if _, data, err := up.DownloadTarget(info, filepath.Join(t.TempDir(), "x"), ""); err != nil || !bytes.Equal(data, content) {
			t.Errorf("%s: %d bytes of %d: %v", path, len(data), len(content), err)
		}
	}
	if _, err := up.GetTargetInfo(nobodys); err == nil {
		t.Errorf("%s was found", nobodys)
	}
}

func TestTUFJSReadsWhatWePublishDelegationsIncluded(t *testing.T) {
	t.Parallel()
	root, url, want := travelled(t)
	node, work := tufJS(t)
	pinned := filepath.Join(work, "pinned.json")
	if err := os.WriteFile(pinned, root, 0o644); err != nil {
		t.Fatal(err)
	}
	paths := append(slices.Sorted(maps.Keys(want)), nobodys)
	cmd := exec.CommandContext(t.Context(), node, append([]string{"testdata/tuf-js/read.mjs", pinned, url, work}, paths...)...)
	cmd.Env = append(os.Environ(), "NO_PROXY=127.0.0.1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tuf-js: %v\n%s%s", err, out, stderr.Bytes())
	}
	lines := json.NewDecoder(bytes.NewReader(out))
	for _, path := range paths {
		var got struct {
			Path   string
			Found  bool
			Length int
			Base64 []byte
		}
		if err := lines.Decode(&got); err != nil {
			t.Fatalf("%s: %v\n%s", path, err, out)
		}
		content, published := want[path]
		if got.Path != path || got.Found != published || got.Length != len(content) || !bytes.Equal(got.Base64, content) {
			t.Errorf("%s: found %t, %d bytes of %d", got.Path, got.Found, len(got.Base64), len(content))
		}
	}
}

// tufJS installs tuf-js, at the version and with the checksums of its lock file, and returns a node that can run it.
func tufJS(t *testing.T) (node, work string) {
	t.Helper()
	err := lab.InstallTools(t.Context(), "node=nodejs", "npm")
	if err != nil && os.Geteuid() != 0 {
		t.Skipf("tuf-js needs node and npm: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	work = t.TempDir()
	for _, name := range []string{"package.json", "package-lock.json"} {
		raw, err := os.ReadFile(filepath.Join("testdata/tuf-js", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(work, name), raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	npm := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "npm", append(args, "--no-audit", "--no-fund", "--ignore-scripts")...)
		cmd.Dir = work
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("npm %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	npm("ci")
	// Debian 12 has node 18; tuf-js 5 asks for 20.17 or newer, and its parts use what came with it.
	const enough = `const [a, b] = process.versions.node.split('.').map(Number); process.exit(a > 20 || (a === 20 && b >= 17) ? 0 : 1)`
	if exec.CommandContext(t.Context(), "node", "-e", enough).Run() == nil {
		return "node", work
	}
	arch, ok := map[string]string{"amd64": "x64", "arm64": "arm64"}[runtime.GOARCH]
	if !ok {
		t.Fatalf("no node for %s", runtime.GOARCH)
	}
	npm("install", "--no-save", "--prefix", "node", "node-linux-"+arch+"@22.23.3")
	return filepath.Join(work, "node", "node_modules", "node-linux-"+arch, "bin", "node"), work
}

// TestOurClientReadsWhatGoTUFsExamplePublishes builds the example program of go-tuf and runs it as its authors do. It makes a
// repository of three roots, whose newest needs four of Ed25519, RSA-PSS and ECDSA keys, and a delegated role.
func TestOurClientReadsWhatGoTUFsExamplePublishes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	example := filepath.Join(dir, "example")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", example, "github.com/theupdateframework/go-tuf/v2/examples/repository").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const target = "basic_repository.go" // the example signs the file of this name in its working directory
	content := []byte("package main\n")
	write := func(path string, data []byte) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(dir, target), content)
	cmd := exec.CommandContext(t.Context(), example)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	made, err := filepath.Glob(filepath.Join(dir, "tmp*"))
	if err != nil || len(made) != 1 {
		t.Fatalf("the example made %v: %v", made, err)
	}
	published := filepath.Join(dir, "published")
	write(filepath.Join(published, "targets", release.Sum(content).String()+"."+target), content)
	if err := os.Rename(made[0], filepath.Join(published, "metadata")); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.FileServer(http.Dir(published)))
	defer server.Close()

	root, err := os.ReadFile(filepath.Join(published, "metadata", "1.root.json"))
	if err != nil {
		t.Fatal(err)
	}
	c := openClient(t, root, server.URL)
	trusted, err := c.Trusted()
	if err != nil || trusted.Root != 3 || trusted.Timestamp != 2 {
		t.Errorf("trusts %+v: %v", trusted, err)
	}
	found, err := c.Lookup(t.Context(), target)
	if err != nil || !slices.Equal(found.Roles, []string{"targets", "go-scripts"}) {
		t.Fatalf("found %+v: %v", found, err)
	}
	if got, err := c.Read(t.Context(), found); err != nil || !bytes.Equal(got, content) {
		t.Errorf("read %q: %v", got, err)
	}
}
