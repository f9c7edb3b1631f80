package repository_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/keys"
	"github.com/slipway-deploy/slipway/tuf/repository"
)

func (f *fixture) revoke(o repository.RevokeOptions) *repository.Change {
	f.t.Helper()
	o.Reason = "stolen"
	c, err := f.r.Revoke(context.Background(), o)
	f.ok(err)
	return c
}

func (f *fixture) publishOnline(name, id string) {
	f.t.Helper()
	_, err := f.r.Publish(context.Background(), repository.PublishOptions{Changes: []string{id}, Online: []keys.Signer{f.key(name)}})
	f.ok(err)
}

// TestAStolenOnlineKeyCannotKeepHostsBack is recovery from fast-forward (specification 5.3.11): the thief has shown a host
// higher versions than the publisher will reach.
func TestAStolenOnlineKeyCannotKeepHostsBack(t *testing.T) {
	t.Parallel()
	f := running(t)
	ctx := context.Background()
	thief := filepath.Join(t.TempDir(), "thief")
	f.ok(os.CopyFS(thief, os.DirFS(f.dir)))
	evil := must(repository.Open(thief, repository.WithClock(func() time.Time { return f.now })))
	for range 5 {
		_, err := evil.Refresh(ctx, repository.RefreshOptions{Online: f.online(), Force: true})
		f.ok(err)
	}
	h := f.host()
	h.published = thief
	if _, err := h.refresh(); err != nil {
		t.Fatal(err)
	}
	h.published = f.dir
	if _, err := h.refresh(); err == nil {
		t.Fatal("the host went back to lower versions")
	}
	c := f.revoke(repository.RevokeOptions{Key: "online", Replace: f.key("online2").Public(), UseOnline: []string{"/keys/online2"}})
	if got := strings.Join(c.Roles(), " "); got != "root" {
		t.Errorf("the change touches %s", got)
	}
	f.sign(c, "alice", "bob")
	if _, err := f.tryPublish(c.ID); kindOf(err) != "refused" || !strings.Contains(err.Error(), "online2") {
		t.Errorf("published with the stolen key: %v", err)
	}
	f.publishOnline("online2", c.ID)
	got, err := h.refresh()
	if err != nil || got.Root != 2 || got.Timestamp >= 9 {
		t.Errorf("the host has %+v: %v", got, err)
	}
	if p := must(f.r.Policy()); len(p.OnlineKeys) != 1 || p.OnlineKeys[0] != "/keys/online2" {
		t.Errorf("policy remembers %v", p.OnlineKeys)
	}
	f.verify()
}

func TestAKeyOfManyRolesGoesInOneChange(t *testing.T) {
	t.Parallel()
	f := running(t)
	ctx := context.Background()
	for role, threshold := range map[string]int{deployRole: 2, "emergency.production": 1} {
		f.sign(f.set(role, repository.RoleOptions{Add: f.public("alice"), Threshold: of(threshold)}), "alice", "bob")
		f.publish()
	}
	pause := f.deploy("1.0.0", release.Deployment{State: release.StatePaused})
	f.sign(pause, "alice", "ann")
	f.publish()
	c := f.revoke(repository.RevokeOptions{Key: "alice", Replace: f.key("dora").Public()})
	if got := strings.Join(c.Roles(), " "); got != "root targets "+deployRole {
		t.Errorf("the change touches %s", got)
	}
	want := []string{"root: 0 of 2, missing 2 of alice", "targets: 0 of 2, missing 2 of bob", deployRole + ": 0 of 2, missing 2 of ann"}
	for _, w := range want {
		if got := f.waiting(c); !strings.Contains(got, w) {
			t.Errorf("no %q in %q", w, got)
		}
	}
	f.sign(c, "bob", "carol", "ann", "cem")
	f.publish(c.ID)
	f.verify()
	roles, err := f.r.Roles()
	f.ok(err)
	for _, role := range roles {
		for _, k := range role.Keys {
			if k.Name == "alice" {
				t.Errorf("%s still has alice", role.Role)
			}
		}
	}
	if _, err := f.r.Revoke(ctx, repository.RevokeOptions{Key: "alice", Reason: "again"}); kindOf(err) != "refused" {
		t.Errorf("revoked twice: %v", err)
	}
}

func TestARevokedApproverIsNotGivenToNewApps(t *testing.T) {
	t.Parallel()
	f := running(t)
	f.sign(f.revoke(repository.RevokeOptions{Key: f.key("ben").Public().ID, NoSpare: "until monday"}), "alice", "carol", "ann", "cem")
	f.publish()
	c, err := f.r.AddApp(context.Background(), must(release.ParseApp("shop")), repository.AppOptions{Keys: f.public("ci"), Threshold: 1})
	f.ok(err)
	f.sign(c, "alice", "carol")
	f.publish()
	roles, err := f.r.Roles("deploy.production.shop")
	f.ok(err)
	if len(roles[0].Keys) != 2 || roles[0].Threshold != 2 || roles[0].Keys[0].Name == "ben" || roles[0].Keys[1].Name == "ben" {
		t.Errorf("got %+v", roles[0])
	}
}

func TestRevokeRefusesWithNamesAndARemedy(t *testing.T) {
	t.Parallel()
	f := running(t)
	for name, c := range map[string]struct {
		o    repository.RevokeOptions
		want []string
	}{
		"too few left":          {repository.RevokeOptions{Key: "ci"}, []string{"app.billing needs 1 and would have 0", "--replace-with FILE.pub"}},
		"two roles of one":      {repository.RevokeOptions{Key: "online", NoSpare: "why not"}, []string{"snapshot needs 1", "timestamp needs 1", "--replace-with"}},
		"no spare":              {repository.RevokeOptions{Key: "alice"}, []string{"root needs 2 and would have 2", "targets needs 2", "--allow-no-spare"}},
		"the template too":      {repository.RevokeOptions{Key: "ben"}, []string{deployRole, "the template of production"}},
		"a spare is no new":     {repository.RevokeOptions{Key: "ben", Replace: f.key("ann").Public()}, []string{deployRole + " needs 2 and would have 2"}},
		"by itself":             {repository.RevokeOptions{Key: "ben", Replace: f.key("ben").Public()}, []string{"by itself"}},
		"online for an offline": {repository.RevokeOptions{Key: "alice", Replace: f.key("online").Public()}, []string{"it signs snapshot"}},
		"nobody":                {repository.RevokeOptions{Key: "zoe"}, []string{"0 keys match", "use the id"}},
	} {
		c.o.Reason = "a test"
		_, err := f.r.Revoke(context.Background(), c.o)
		if kindOf(err) != "refused" {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: no %q in %v", name, w, err)
			}
		}
	}
	if _, err := f.r.Revoke(context.Background(), repository.RevokeOptions{Key: "ben", Replace: f.key("dan").Public()}); kindOf(err) != "refused" {
		t.Errorf("without a reason: %v", err)
	}
	if all, _ := f.r.Changes(); len(all) != 0 {
		t.Errorf("refusals left changes behind: %v", all)
	}
}

func TestAnOpenChangeCannotBringARevokedKeyBack(t *testing.T) {
	t.Parallel()
	f := running(t)
	staging := must(release.ParseEnvironment("staging"))
	open, err := f.r.AddEnvironment(context.Background(), staging, repository.EnvironmentOptions{Template: repository.Template{Keys: f.public("dora"), Threshold: 1}})
	f.ok(err)
	f.sign(f.set("root", repository.RoleOptions{Add: f.public("dora")}), "alice", "bob")
	f.publish()
	_, err = f.r.Revoke(context.Background(), repository.RevokeOptions{Key: "dora", Reason: "stolen"})
	if kindOf(err) != "conflict" || !strings.Contains(err.Error(), open.ID) {
		t.Fatalf("got %v", err)
	}
	c := f.revoke(repository.RevokeOptions{Key: "dora", Replace: f.key("erin").Public(), Origin: repository.Origin{Into: open.ID}})
	f.sign(c, "alice", "bob")
	f.publish(c.ID)
	roles, err := f.r.Roles("root", "deploy.staging.billing")
	f.ok(err)
	if got := roles[1].Keys; len(got) != 1 || got[0].Name != "erin" || len(roles[0].Keys) != 4 {
		t.Errorf("got %+v", roles)
	}
	f.verify()
}

func TestTheFirstChangeIsCorrectedBeforeItIsPublished(t *testing.T) {
	t.Parallel()
	f := &fixture{t: t, dir: filepath.Join(t.TempDir(), "repo"), now: time.Now(), people: map[string]*keys.Private{}}
	r, c, err := repository.Create(f.dir, repository.CreateOptions{
		Root: f.public("alice", "bob", "carol"), RootThreshold: 2, Targets: f.public("alice", "bob", "carol"), TargetsThreshold: 2, Online: f.public("online"),
	})
	f.ok(err)
	f.r = r
	if _, err := r.Roles(); kindOf(err) != "refused" {
		t.Errorf("roles before the first publish: %v", err)
	}
	f.sign(c, "alice", "bob")
	c = f.revoke(repository.RevokeOptions{Key: "bob", Replace: f.key("dora").Public(), Origin: repository.Origin{Into: c.ID}})
	f.sign(c, "alice", "dora")
	f.publish(c.ID)
	if v := f.verify(); v.Root != 1 || v.Targets != 1 {
		t.Errorf("got %+v", v)
	}
}

// TestARotationInterruptedAfterItsRootIsCompleted stands for a publisher that dies between the new root and the timestamp
// that the new online key signs.
func TestARotationInterruptedAfterItsRootIsCompleted(t *testing.T) {
	t.Parallel()
	f := running(t)
	h := f.host()
	if _, err := h.refresh(); err != nil {
		t.Fatal(err)
	}
	c := f.revoke(repository.RevokeOptions{Key: "online", Replace: f.key("online2").Public()})
	c = f.set("targets", repository.RoleOptions{Remove: []string{"bob", "carol"}, Add: f.public("dora", "erin"), Origin: repository.Origin{Into: c.ID}})
	f.sign(c, "alice", "bob", "dora")
	whole := &fixture{t: t, dir: filepath.Join(t.TempDir(), "whole"), now: f.now, people: f.people}
	f.ok(os.CopyFS(whole.dir, os.DirFS(f.dir)))
	whole.r = must(repository.Open(whole.dir))
	whole.publishOnline("online2", c.ID)
	for _, name := range []string{"4.targets.json", "6.snapshot.json", "2.root.json"} {
		data, err := os.ReadFile(filepath.Join(whole.dir, "metadata", name))
		f.ok(err)
		f.ok(os.WriteFile(filepath.Join(f.dir, "metadata", name), data, 0o644))
	}
	f.publishOnline("online2", c.ID)
	if got, err := h.refresh(); err != nil || got.Root != 2 || got.Targets != 4 {
		t.Errorf("the host has %+v: %v", got, err)
	}
	f.verify()
}
