package repository_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/integration/s3"
	"github.com/slipway-deploy/slipway/tuf/destination"
	"github.com/slipway-deploy/slipway/tuf/keys"
	"github.com/slipway-deploy/slipway/tuf/repository"
)

const (
	crashDir = "SLIPWAY_TEST_REPOSITORY"
	crashKey = "SLIPWAY_TEST_ONLINE_KEY"
	crashTo  = "SLIPWAY_TEST_DESTINATION"
)

func openDestination(ref string) repository.Destination {
	if strings.HasPrefix(ref, "s3:") {
		return must(destination.OpenS3(ref))
	}
	return must(destination.OpenDir(ref))
}

// TestTheProcessThatIsKilled is the other half of the crash table: it publishes, refreshes and tidies up until it is killed.
func TestTheProcessThatIsKilled(t *testing.T) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		return
	}
	r := must(repository.Open(dir))
	online := []keys.Signer{must(keys.Load(os.Getenv(crashKey), nil))}
	var to []repository.Destination
	if ref := os.Getenv(crashTo); ref != "" {
		to = append(to, openDestination(ref))
	}
	if _, err := r.Publish(context.Background(), repository.PublishOptions{Online: online, To: to}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Refresh(context.Background(), repository.RefreshOptions{Online: online, Force: true, To: to}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.CollectGarbage(context.Background(), repository.GarbageOptions{Grace: time.Nanosecond, Targets: true, Delete: true}); err != nil {
		t.Fatal(err)
	}
}

// crashRow is one death: where hosts read from, at which step, and at which of its turns.
type crashRow struct{ place, point, hit string }

func crashRows() []crashRow {
	var rows []crashRow
	for _, point := range durable.Failpoints() {
		if !strings.HasPrefix(point, "repository.") {
			continue
		}
		push := strings.HasPrefix(point, "repository.push.")
		for _, hit := range []string{"1", "2"} {
			for _, place := range []string{"here", "directory", "bucket"} {
				// What a step does to this directory does not depend on the kind of the destination.
				if push && place != "here" || !push && place == "here" || !push && place == "directory" && hit == "1" {
					rows = append(rows, crashRow{place, point, hit})
				}
			}
		}
	}
	return append(rows, crashRow{"directory", "repository.push.before-file", "7"}, crashRow{"bucket", "repository.push.before-file", "7"})
}

func TestAPublisherKilledAtAnyStepLeavesTheOldStateOrTheNew(t *testing.T) {
	helper := filepath.Join(t.TempDir(), "helper")
	build := exec.Command("go", "test", "-c", "-tags", "failpoints", "-o", helper, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the helper: %v\n%s", err, out)
	}
	store := s3.Start(t)
	rows := crashRows()
	t.Logf("%d crash points", len(rows))
	if len(rows) < 40 {
		t.Errorf("only %d crash points: some are no longer registered", len(rows))
	}
	for _, row := range rows {
		t.Run(row.place+"/"+row.point+"/"+row.hit, func(t *testing.T) {
			t.Parallel()
			ref := ""
			switch row.place {
			case "directory":
				ref = filepath.Join(t.TempDir(), "www")
			case "bucket":
				ref, _ = store.Bucket(t)
			}
			killedAt(t, helper, row, ref)
		})
	}
}

// killedAt kills a publish of a root, an app's release and a deployment, the refresh after it, and the tidying up after that.
func killedAt(t *testing.T, helper string, row crashRow, ref string) {
	f := standard(t)
	f.release("1.0.0")
	f.sign(f.deploy("1.0.0", release.Deployment{}), "ann", "ben")
	c, err := f.r.Renew(context.Background(), []string{"root"}, 0, repository.Origin{})
	f.ok(err)
	f.sign(c, "alice", "bob")
	orphan := filepath.Join(f.dir, "targets", "releases", "billing", "0.9.0", strings.Repeat("0", 64)+".release.json")
	f.ok(os.MkdirAll(filepath.Dir(orphan), 0o755))
	f.ok(os.WriteFile(orphan, nil, 0o644))
	key := filepath.Join(t.TempDir(), "online")
	f.ok(f.key("online").Save(key, nil))
	from := []repository.Destination{nil}
	if ref != "" {
		from = append(from, openDestination(ref))
		_, err := f.r.Refresh(context.Background(), repository.RefreshOptions{Online: f.online(), To: from[1:]})
		f.ok(err)
	}

	run := func(failpoint string) error {
		cmd := exec.Command(helper, "-test.run=^TestTheProcessThatIsKilled$")
		cmd.Env = append(os.Environ(), crashDir+"="+f.dir, crashKey+"="+key, crashTo+"="+ref, "SLIPWAY_FAILPOINT="+failpoint)
		out, err := cmd.CombinedOutput()
		if err != nil && failpoint == "" {
			t.Fatalf("the second run fails: %v\n%s", err, out)
		}
		return err
	}
	if run(row.point+"=kill,hit="+row.hit) == nil && row.hit != "2" {
		t.Error("the failpoint was never reached")
	}
	for _, place := range from {
		v := f.verifyFrom(place)
		if old, new := v.Timestamp == 3, v.Timestamp > 3; old != (len(v.Deployments) == 0) || new != (len(v.Deployments) == 1) {
			t.Errorf("a mix after the crash in %v: %+v", place, v)
		}
	}
	_ = run("")
	var at []int64
	for _, place := range from {
		v := f.verifyFrom(place)
		if at = append(at, v.Timestamp); v.Root != 2 || len(v.Deployments) != 1 || v.Releases != 1 || v.Timestamp != at[0] {
			t.Errorf("after the second run, in %v: %+v, timestamps %v", place, v, at)
		}
	}
	if open, err := f.r.Changes(); err != nil || len(open) != 0 {
		t.Errorf("left open: %v, %v", open, err)
	}
	if _, err := os.Stat(filepath.Join(f.dir, ".pending.json")); err == nil {
		t.Error("something is pending")
	}
	if _, err := os.Stat(filepath.Dir(orphan)); !os.IsNotExist(err) {
		t.Error("the garbage is still there")
	}
}
