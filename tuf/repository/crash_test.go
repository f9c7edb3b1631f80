package repository_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/keys"
	"github.com/slipway-deploy/slipway/tuf/repository"
)

const (
	crashDir = "SLIPWAY_TEST_REPOSITORY"
	crashKey = "SLIPWAY_TEST_ONLINE_KEY"
)

// TestTheProcessThatIsKilled is the other half of the crash table: it publishes or refreshes where it is told to.
func TestTheProcessThatIsKilled(t *testing.T) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		return
	}
	r := must(repository.Open(dir))
	online := []keys.Signer{must(keys.Load(os.Getenv(crashKey), nil))}
	if _, err := r.Publish(context.Background(), repository.PublishOptions{Online: online}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Refresh(context.Background(), repository.RefreshOptions{Online: online, Force: true}); err != nil {
		t.Fatal(err)
	}
}

func TestAPublisherKilledAtAnyStepLeavesTheOldStateOrTheNew(t *testing.T) {
	helper := filepath.Join(t.TempDir(), "helper")
	build := exec.Command("go", "test", "-c", "-tags", "failpoints", "-o", helper, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the helper: %v\n%s", err, out)
	}
	rows := 0
	for _, point := range durable.Failpoints() {
		if !strings.HasPrefix(point, "repository.") {
			continue
		}
		for _, hit := range []string{"1", "2"} {
			rows++
			t.Run(point+"/"+hit, func(t *testing.T) {
				t.Parallel()
				killedAt(t, helper, point, hit)
			})
		}
	}
	t.Logf("%d crash points", rows)
	if rows < 20 {
		t.Errorf("only %d crash points: some are no longer registered", rows)
	}
}

// killedAt kills a publish of a root, an app's release and a deployment, and the refresh after it.
func killedAt(t *testing.T, helper, point, hit string) {
	f := standard(t)
	f.release("1.0.0")
	f.sign(f.deploy("1.0.0", release.Deployment{}), "ann", "ben")
	c, err := f.r.Renew(context.Background(), []string{"root"}, 0, repository.Origin{})
	f.ok(err)
	f.sign(c, "alice", "bob")
	key := filepath.Join(t.TempDir(), "online")
	f.ok(f.key("online").Save(key, nil))

	run := func(failpoint string) error {
		cmd := exec.Command(helper, "-test.run=^TestTheProcessThatIsKilled$")
		cmd.Env = append(os.Environ(), crashDir+"="+f.dir, crashKey+"="+key, "SLIPWAY_FAILPOINT="+failpoint)
		out, err := cmd.CombinedOutput()
		if err != nil && failpoint == "" {
			t.Fatalf("the second run fails: %v\n%s", err, out)
		}
		return err
	}
	if run(point+"=kill,hit="+hit) == nil && hit == "1" {
		t.Error("the failpoint was never reached")
	}
	v := f.verify()
	if old, new := v.Timestamp == 3, v.Timestamp > 3; old != (len(v.Deployments) == 0) || new != (len(v.Deployments) == 1) {
		t.Errorf("a mix after the crash: %+v", v)
	}
	_ = run("")
	v = f.verify()
	if v.Root != 2 || len(v.Deployments) != 1 || v.Releases != 1 {
		t.Errorf("after the second run: %+v", v)
	}
	if open, err := f.r.Changes(); err != nil || len(open) != 0 {
		t.Errorf("left open: %v, %v", open, err)
	}
}
