package repository_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/keys"
	"github.com/slipway-deploy/slipway/tuf/repository"
)

func yes(b bool) *bool { return &b }

// dutiful is running, with requester and approver kept apart in production.
func dutiful(t *testing.T) *fixture {
	t.Helper()
	f := running(t)
	c, err := f.setEnvironment(repository.EnvironmentSetOptions{Apart: yes(true)})
	f.ok(err)
	if !strings.Contains(c.Summary, "requester and approver must differ") || c.Words == nil || !strings.Contains(fmt.Sprint(c.Words), "requester and approver must differ") {
		t.Errorf("the signers are not told: %s, %v", c.Summary, c.Words)
	}
	f.sign(c, "alice", "bob")
	f.publish()
	return f
}

func (f *fixture) asked(by string) *repository.Change {
	f.t.Helper()
	c, err := f.r.NewDeployment(context.Background(), repository.Wish{App: billing, Environment: production, Version: version("1.0.0"),
		Document: release.Deployment{State: release.StatePaused}, Origin: repository.Origin{RequestedBy: by}})
	f.ok(err)
	return c
}

// smuggle writes a signature that no honest tool makes into an open change.
func (f *fixture) smuggle(c *repository.Change, role, name string) {
	f.t.Helper()
	text := must(repository.CanonicalOf(c, role))
	sig := must(keys.Sign(context.Background(), f.key(name), text))
	id := f.key(name).Public().ID
	data := must(json.Marshal(map[string]string{"role": role, "keyid": id, "payload_sha256": release.Sum(text).String(), "sig": hex.EncodeToString(sig)}))
	f.ok(os.MkdirAll(filepath.Join(c.Dir(), "signatures"), 0o755))
	f.ok(os.WriteFile(filepath.Join(c.Dir(), "signatures", role+"."+id+".json"), data, 0o644))
}

func TestTheRequesterDoesNotApproveWhereTheRoleSaysSo(t *testing.T) {
	t.Parallel()
	f := dutiful(t)
	_, err := f.r.NewDeployment(context.Background(), repository.Wish{App: billing, Environment: production, Version: version("1.0.0")})
	if kindOf(err) != "refused" || !strings.Contains(err.Error(), "--requested-by") {
		t.Errorf("nobody asked for it: %v", err)
	}
	_, err = f.r.Amend(context.Background(), repository.Amendment{App: billing, Environment: production, State: release.StatePaused})
	if kindOf(err) != "refused" || !strings.Contains(err.Error(), "--requested-by") {
		t.Errorf("nobody asked to amend it: %v", err)
	}
	c := f.asked("Ann")
	if _, err := f.r.Sign(context.Background(), c, f.key("ann")); kindOf(err) != "refused" || !strings.Contains(err.Error(), "Ann asked for it") {
		t.Errorf("the requester signs: %v", err)
	}
	f.sign(c, "ben")
	f.smuggle(c, deployRole, "ann")
	if got := f.waiting(c); !strings.HasPrefix(got, deployRole+": 1 of 2, missing cem") {
		t.Errorf("the requester's signature counts: %s", got)
	}
	if _, err := f.tryPublish(c.ID); err == nil {
		t.Fatal("it was published with the requester's signature")
	}
	f.sign(c, "cem")
	f.publish(c.ID)
	data := must(os.ReadFile(filepath.Join(f.dir, "metadata", "2."+deployRole+".json")))
	if strings.Contains(string(data), f.key("ann").Public().ID) {
		t.Error("the requester's signature was published")
	}
}

func TestRenewingAnApprovalIsNobodysRequest(t *testing.T) {
	t.Parallel()
	f := dutiful(t)
	c, err := f.r.Renew(context.Background(), []string{deployRole}, 0, repository.Origin{RequestedBy: "ann"})
	f.ok(err)
	f.sign(c, "ann", "ben")
	f.publish()
}

func TestOneChangeWithoutARequesterDoesNotHoldUpOthers(t *testing.T) {
	t.Parallel()
	f := running(t)
	c := f.asked("")
	duty, err := f.setEnvironment(repository.EnvironmentSetOptions{Apart: yes(true)})
	f.ok(err)
	f.sign(duty, "alice", "bob")
	if out := f.publish(); len(out.Changes) != 1 || len(out.Waiting) != 1 || out.Waiting[0] != c.ID {
		t.Errorf("got %+v", out)
	}
	if _, err := f.tryPublish(c.ID); err == nil || !strings.Contains(err.Error(), "it does not say") {
		t.Errorf("got %v", err)
	}
}

func TestTheKeysOfAnAppDoNotApproveItWhereTheRoleSaysSo(t *testing.T) {
	t.Parallel()
	f := dutiful(t)
	ctx := context.Background()
	const want = "the same key or name signs the releases of billing"
	if _, err := f.setEnvironment(repository.EnvironmentSetOptions{Add: f.public("ci")}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("an author comes to approve: %v", err)
	}
	twin := must(keys.Generate(keys.Ed25519, "ANN"))
	if _, err := f.r.SetRole(ctx, "app.billing", repository.RoleOptions{Add: []keys.Public{twin.Public()}, Reason: "x"}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("an approver's other key comes to sign releases: %v", err)
	}
	if _, err := f.r.SetRole(ctx, "app.billing", repository.RoleOptions{Apart: yes(true), Reason: "x"}); kindOf(err) != "refused" {
		t.Errorf("an app role has no requester: %v", err)
	}
	lifted := f.set(deployRole, repository.RoleOptions{Apart: yes(false)})
	f.sign(lifted, "alice", "bob")
	f.publish()
	f.sign(f.asked(""), "ann", "ben")
	f.publish()
}
