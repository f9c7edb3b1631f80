package client

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/tuf/tuftest"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// crasher is the conformance program with failpoints: the same client in a process that can be killed.
func crasher(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "conformance")
	out, err := exec.Command("go", "build", "-tags", "failpoints", "-o", bin, "../conformance").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bin
}

func TestAKillAtAnyCacheWriteLeavesTheOldOrTheNewSetAndTheNextRefreshCompletes(t *testing.T) {
	bin := crasher(t)
	for name, change := range map[string]func(*tuftest.Repository){
		"update": func(*tuftest.Repository) {},
		"rotation": func(r *tuftest.Repository) {
			r.Rotate(metadata.SNAPSHOT, 1, tuftest.NewKey(t))
			r.Rotate(metadata.ROOT, 1, tuftest.NewKey(t))
		},
	} {
		t.Run(name, func(t *testing.T) {
			repo, _ := billing(t)
			base := t.TempDir()
			pinned := filepath.Join(t.TempDir(), "root")
			write(t, pinned, repo.Root())
			run(t, bin, base, "", "init", pinned)
			run(t, bin, base, "", "refresh", repo.URL())
			change(repo)
			repo.AddTarget("app.billing", release1, []byte("two"))
			repo.Edit(metadata.TARGETS, func(*metadata.TargetsType) {})
			repo.Publish()
			kills := 0
			for _, fp := range durable.Failpoints() {
				for hit := 1; hit < 40; hit++ {
					dir := filepath.Join(t.TempDir(), "m")
					if err := os.CopyFS(dir, os.DirFS(base)); err != nil {
						t.Fatal(err)
					}
					point := fmt.Sprintf("%s=kill,hit=%d", fp, hit)
					if !run(t, bin, dir, point, "refresh", repo.URL()) {
						break
					}
					kills++
					survives(t, repo, dir, point, name == "rotation")
				}
			}
			t.Logf("%d kills", kills)
			if kills < 20 {
				t.Fatal("too few crash points were reached:", kills)
			}
		})
	}
}

func survives(t *testing.T, repo *tuftest.Repository, dir, point string, rotated bool) {
	t.Helper()
	cache := inDir(filepath.Join(dir, "slipway", "cache"))
	final := refreshedVersion(repo)
	got, err := newClient(t, repo, cache).Trusted()
	if err != nil && rotated {
		refused[*ErrNoTrust](t, err) // spec 5.3.11 took the old set away
	} else if err != nil || got.Timestamp != 2 && got.Timestamp != final {
		t.Fatalf("%s: %+v %v", point, got, err)
	}
	c := newClient(t, repo, cache)
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

// run reports whether the process was killed; any other failure fails the test.
func run(t *testing.T, bin, dir, failpoint, verb, arg string) bool {
	t.Helper()
	args := []string{"--metadata-dir", dir, verb, arg}
	if verb == "refresh" {
		args = []string{"--metadata-dir", dir, "--metadata-url", arg + "/metadata", verb}
	}
	cmd := exec.Command(bin, args...)
	cmd.Env = append(os.Environ(), "SLIPWAY_FAILPOINT="+failpoint, "NO_PROXY=127.0.0.1")
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGKILL {
		return true
	}
	t.Fatalf("%s %s: %v\n%s", failpoint, strings.Join(args, " "), err, out)
	return false
}
