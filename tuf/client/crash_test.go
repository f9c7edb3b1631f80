package client

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/tuf/tuftest"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"golang.org/x/sys/unix"
)

// The environment of the child below: a repository's URL, the pinned root and the cache directory.
const (
	crashURL  = "SLIPWAY_TEST_URL"
	crashRoot = "SLIPWAY_TEST_ROOT"
	crashDir  = "SLIPWAY_TEST_CACHE"
)

// TestTheProcessThatIsKilled is the child of the crash tables and nothing by itself: it refreshes and reads a document.
func TestTheProcessThatIsKilled(t *testing.T) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		return
	}
	root, err := os.ReadFile(os.Getenv(crashRoot))
	if err != nil {
		t.Fatal(err)
	}
	c, err := Open(Config{Dir: dir, Root: root, Mirrors: []Mirror{{Metadata: os.Getenv(crashURL) + "/metadata"}}, HTTP: HTTP{Proxy: "direct"}})
	if err != nil {
		t.Fatal(err)
	}
	refresh(t, c)
	read(t, c, release1)
}

// crasher is a host that can be killed: it has seen the repository once, and then the repository changed.
type crasher struct {
	t                 *testing.T
	bin, pinned, base string
	repo              *tuftest.Repository
	rotated           bool
}

func newCrasher(t *testing.T, change func(*tuftest.Repository)) *crasher {
	t.Helper()
	repo, _ := billing(t)
	x := &crasher{t: t, bin: failpointBinary(t), pinned: filepath.Join(t.TempDir(), "root"), base: t.TempDir(), repo: repo, rotated: change != nil}
	write(t, x.pinned, repo.Root())
	x.run(x.base, "")
	if change != nil {
		change(repo)
	}
	repo.AddTarget("app.billing", release1, []byte("two"))
	repo.Edit(metadata.TARGETS, func(*metadata.TargetsType) {})
	repo.Publish()
	return x
}

func rotate(t *testing.T) func(*tuftest.Repository) {
	return func(r *tuftest.Repository) {
		r.Rotate(metadata.SNAPSHOT, 1, tuftest.NewKey(t))
		r.Rotate(metadata.ROOT, 1, tuftest.NewKey(t))
	}
}

func failpointBinary(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "child")
	out, err := exec.Command("go", "test", "-c", "-tags", "failpoints", "-o", bin, ".").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bin
}

// run reports whether the process was killed; any other failure fails the test.
func (x *crasher) run(dir, failpoint string) bool {
	x.t.Helper()
	cmd := exec.Command(x.bin, "-test.run=^TestTheProcessThatIsKilled$")
	cmd.Env = append(os.Environ(), crashURL+"="+x.repo.URL(), crashRoot+"="+x.pinned, crashDir+"="+dir, "SLIPWAY_FAILPOINT="+failpoint)
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGKILL {
		return true
	}
	x.t.Fatalf("%s: %v\n%s", failpoint, err, out)
	return false
}

// survives asserts that the cache holds the old set or the new one, and that the next refresh brings the new one.
func (x *crasher) survives(dir, point string) {
	t := x.t
	t.Helper()
	cache, final := inDir(dir), refreshedVersion(x.repo)
	got, err := newClient(t, x.repo, cache).Trusted()
	if err != nil && x.rotated {
		refused[*ErrNoTrust](t, err) // spec 5.3.11 took the old set away
	} else if err != nil || got.Timestamp != 2 && got.Timestamp != final {
		t.Fatalf("%s: %+v %v", point, got, err)
	}
	c := newClient(t, x.repo, cache)
	if got := refresh(t, c); got.Timestamp != final || read(t, c, release1) != "two" {
		t.Fatalf("%s: %+v", point, got)
	}
}

func refreshedVersion(repo *tuftest.Repository) int64 {
	m, err := metadata.Timestamp().FromBytes(repo.Get("metadata/timestamp.json"))
	if err != nil {
		panic(err)
	}
	return m.Signed.Version
}

// cachePoints are the failpoints of this package.
func cachePoints() []string {
	return slices.DeleteFunc(durable.Failpoints(), func(fp string) bool { return !strings.HasPrefix(fp, "tuf.client.") })
}

func TestAKillAtAnyCacheWriteLeavesTheOldOrTheNewSetAndTheNextRefreshCompletes(t *testing.T) {
	reached := map[string]bool{}
	for name, change := range map[string]func(*tuftest.Repository){"update": nil, "rotation": rotate(t)} {
		t.Run(name, func(t *testing.T) {
			x, kills := newCrasher(t, change), 0
			for _, fp := range durable.Failpoints() {
				for hit := 1; ; hit++ {
					dir := filepath.Join(t.TempDir(), "m")
					if err := os.CopyFS(dir, os.DirFS(x.base)); err != nil {
						t.Fatal(err)
					}
					point := fmt.Sprintf("%s=kill,hit=%d", fp, hit)
					if !x.run(dir, point) {
						break
					}
					kills++
					reached[fp] = true
					x.survives(dir, point)
				}
			}
			t.Logf("crash table: %d kills", kills)
		})
	}
	for _, fp := range cachePoints() {
		if !reached[fp] {
			t.Errorf("%s was never reached", fp)
		}
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting a small filesystem needs root")
	}
}

func TestAPowerCutAtAnyCacheWriteLeavesTheOldOrTheNewSetAndTheNextRefreshCompletes(t *testing.T) {
	needRoot(t)
	x := newCrasher(t, rotate(t))
	image := filepath.Join(t.TempDir(), "image")
	write(t, image, nil)
	command(t, "truncate", "-s", "16M", image)
	command(t, "mkfs.ext4", "-q", image)
	cuts := 0
	for _, action := range []string{"powercut", "powercut-committed"} {
		for _, fp := range cachePoints() {
			disk, mount := filepath.Join(t.TempDir(), "image"), t.TempDir()
			command(t, "cp", "--sparse=always", image, disk)
			command(t, "mount", "-o", "loop,noauto_da_alloc", disk, mount)
			t.Cleanup(func() { unix.Unmount(mount, unix.MNT_DETACH) })
			dir, point := filepath.Join(mount, "m"), fp+"="+action+":"+mount
			if err := errors.Join(os.CopyFS(dir, os.DirFS(x.base)), durable.SyncFS(mount)); err != nil {
				t.Fatal(err)
			}
			if !x.run(dir, point) {
				t.Errorf("%s was not reached", point)
			}
			command(t, "umount", mount)
			command(t, "mount", "-o", "loop,noauto_da_alloc", disk, mount)
			x.survives(dir, point)
			cuts++
		}
	}
	t.Logf("crash table: %d power cuts", cuts)
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// fill leaves no block free below dir.
func fill(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size >= 1; size /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !durable.NoSpace(err) {
			t.Fatal(err)
		}
	}
}

// What filled the disk may be what the news take back.
func TestAFullDiskKeepsNoNewsAway(t *testing.T) {
	needRoot(t)
	mount := t.TempDir()
	if err := unix.Mount("tmpfs", mount, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(mount, unix.MNT_DETACH) })
	reserve := &durable.Reserve{Path: filepath.Join(mount, "reserve"), Size: 1 << 20}
	if err := reserve.Ensure(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(mount, "tuf")
	spare := func(c *Config) { c.Spare = reserve.Use }
	repo, _ := billing(t)
	c := newClient(t, repo, inDir(dir), spare)
	refresh(t, c)
	fill(t, mount)
	repo.AddTarget("app.billing", release1, []byte("two"))
	repo.Publish()
	news := refresh(t, c)
	if got := read(t, c, release1); got != "two" {
		t.Errorf("read %q", got)
	}
	// And it is remembered: an older repository is no longer believed.
	if got, err := newClient(t, repo, inDir(dir)).Trusted(); err != nil || got.Timestamp != news.Timestamp {
		t.Errorf("after a restart: %+v %v", got, err)
	}
}
