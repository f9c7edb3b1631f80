package repository_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/client"
	"github.com/slipway-deploy/slipway/tuf/repository"
)

const deployRole = "deploy.production.billing"

func of(n int) *int { return &n }

// running is standard with a release that ann and ben have sent to production.
func running(t *testing.T) *fixture {
	t.Helper()
	f := standard(t)
	f.release("1.0.0")
	f.publish()
	f.sign(f.deploy("1.0.0", release.Deployment{}), "ann", "ben")
	f.publish()
	return f
}

func (f *fixture) set(role string, o repository.RoleOptions) *repository.Change {
	f.t.Helper()
	if o.Reason == "" {
		o.Reason = "a test"
	}
	c, err := f.r.SetRole(context.Background(), role, o)
	f.ok(err)
	return c
}

// waiting is what the change still needs, one sentence per role.
func (f *fixture) waiting(c *repository.Change) string {
	f.t.Helper()
	progress, err := f.r.Progress(c)
	f.ok(err)
	var out []string
	for _, p := range progress {
		if !p.Done() {
			out = append(out, p.String())
		}
	}
	return strings.Join(out, "; ")
}

// host is a client that keeps what it learnt from one look to the next, as a host does.
type host struct {
	f         *fixture
	dir       string
	root      []byte
	published string
}

func (f *fixture) host() *host {
	f.t.Helper()
	root, err := f.r.PinnedRoot(1)
	f.ok(err)
	return &host{f: f, dir: f.t.TempDir(), root: root, published: f.dir}
}

func (h *host) refresh() (client.Trusted, error) {
	c, err := client.Open(client.Config{Dir: h.dir, Root: h.root, RootProbe: -1, Clock: client.Clock{Now: func() time.Time { return h.f.now }},
		Mirrors: []client.Mirror{{Metadata: filepath.Join(h.published, "metadata"), Targets: filepath.Join(h.published, "targets")}}})
	h.f.ok(err)
	return c.Refresh(context.Background())
}

func TestAnApproverLeavesAndTheOthersSignAgain(t *testing.T) {
	t.Parallel()
	f := running(t)
	h := f.host()
	if _, err := h.refresh(); err != nil {
		t.Fatal(err)
	}
	c := f.set(deployRole, repository.RoleOptions{Remove: []string{"ben"}, Add: f.public("dan"), Reason: "ben left"})
	if !strings.Contains(c.Summary, "remove ben") || !strings.Contains(c.Summary, "because: ben left") {
		t.Errorf("summary %q", c.Summary)
	}
	if got := strings.Join(c.Roles(), " "); got != "targets "+deployRole {
		t.Fatalf("the change touches %s", got)
	}
	f.sign(c, "alice", "bob", "ann")
	if _, err := f.r.Sign(context.Background(), c, f.key("ben")); kindOf(err) != "not-a-signer" {
		t.Errorf("ben left and signed: %v", err)
	}
	if got := f.waiting(c); !strings.Contains(got, deployRole+": 1 of 2, missing one of cem") {
		t.Errorf("waiting for %q", got)
	}
	f.sign(c, "dan")
	f.publish(c.ID)
	if got, err := h.refresh(); err != nil || got.Targets != 4 {
		t.Errorf("the host has %+v: %v", got, err)
	}
	f.verify()
	next := f.deploy("1.0.0", release.Deployment{State: release.StatePaused})
	if _, err := f.r.Sign(context.Background(), next, f.key("ben")); kindOf(err) != "not-a-signer" {
		t.Errorf("ben approves after leaving: %v", err)
	}
	f.sign(next, "cem", "dan")
	f.publish(next.ID)
	f.verify()
}

func TestWhoeverDidNotSignLeavesWithoutNewSignatures(t *testing.T) {
	t.Parallel()
	f := running(t)
	c := f.set(deployRole, repository.RoleOptions{Remove: []string{f.key("cem").Public().ID}, NoSpare: "dan starts on monday"})
	if got := strings.Join(c.Roles(), " "); got != "targets" {
		t.Fatalf("the change touches %s", got)
	}
	f.sign(c, "alice", "carol")
	f.publish(c.ID)
	f.verify()
}

func TestAnApproverComesAndTheThresholdRises(t *testing.T) {
	t.Parallel()
	f := running(t)
	c := f.set(deployRole, repository.RoleOptions{Add: f.public("dan"), Threshold: of(3)})
	if !strings.Contains(c.Summary, "3 of 4 (was 2 of 3)") {
		t.Errorf("summary %q", c.Summary)
	}
	f.sign(c, "alice", "bob", "ann", "ben")
	if _, err := f.tryPublish(c.ID); kindOf(err) != "unsigned" {
		t.Errorf("two of three: %v", err)
	}
	f.sign(c, "dan")
	f.publish(c.ID)
	f.verify()
}

func TestARootKeyIsReplacedByOldAndNewHolders(t *testing.T) {
	t.Parallel()
	f := running(t)
	h := f.host()
	if _, err := h.refresh(); err != nil {
		t.Fatal(err)
	}
	c := f.set("root", repository.RoleOptions{Remove: []string{"bob"}, Add: f.public("dora", "erin"), Threshold: of(3), Expires: repository.Period(200 * 24 * time.Hour)})
	f.sign(c, "dora", "erin", "carol")
	if got := f.waiting(c); !strings.HasPrefix(got, "root: 1 of 2, missing one of alice") {
		t.Errorf("the old root's threshold does not count: %q", got)
	}
	f.sign(c, "bob")
	f.publish(c.ID)
	if got, err := h.refresh(); err != nil || got.Root != 2 {
		t.Errorf("the host has %+v: %v", got, err)
	}
	v := f.verify()
	if v.Root != 2 {
		t.Errorf("got %+v", v)
	}
	c, err := f.r.Renew(context.Background(), []string{"root"}, 0, repository.Origin{})
	f.ok(err)
	f.sign(c, "alice", "carol", "dora")
	f.publish(c.ID)
	s, err := f.r.Status(context.Background())
	f.ok(err)
	if left := s.Roles[0].Left(f.now); left < 199*24*time.Hour || left > 200*24*time.Hour {
		t.Errorf("root expires in %s", left)
	}
}

func TestNewHoldersOfTargetsSignItInTheSameChange(t *testing.T) {
	t.Parallel()
	f := running(t)
	c := f.set("targets", repository.RoleOptions{Remove: []string{"bob", "carol"}, Add: f.public("dora", "erin")})
	if got := strings.Join(c.Roles(), " "); got != "root targets" {
		t.Fatalf("the change touches %s", got)
	}
	f.sign(c, "alice", "bob")
	if got := f.waiting(c); !strings.HasPrefix(got, "targets: 1 of 2, missing one of dora") {
		t.Errorf("waiting for %q", got)
	}
	f.sign(c, "dora")
	f.publish(c.ID)
	f.verify()
}

func TestAnExpiryIsSetForOneRole(t *testing.T) {
	t.Parallel()
	f := running(t)
	c := f.set(deployRole, repository.RoleOptions{Expires: repository.Period(10 * 24 * time.Hour)})
	f.sign(c, "ann", "cem")
	f.publish(c.ID)
	c = f.set("timestamp", repository.RoleOptions{Expires: repository.Period(24 * time.Hour)})
	f.publish(c.ID)
	s, err := f.r.Status(context.Background())
	f.ok(err)
	for _, row := range s.Roles {
		left := row.Left(f.now).Round(time.Minute)
		if row.Role == deployRole && left != 240*time.Hour || row.Role == "timestamp" && left != 24*time.Hour {
			t.Errorf("%s expires in %s", row.Role, left)
		}
	}
	f.verify()
}

func TestRoleSetRefusesWithARemedy(t *testing.T) {
	t.Parallel()
	f := running(t)
	twin := must(keysFromTUF("another-id", f.key("cem").Public()))
	for name, c := range map[string]struct {
		role, want string
		o          repository.RoleOptions
	}{
		"no spare":            {deployRole, "--allow-no-spare", repository.RoleOptions{Threshold: of(3)}},
		"above the keys":      {deployRole, "it has 3 keys", repository.RoleOptions{Threshold: of(4)}},
		"below one":           {deployRole, "for 0 signatures", repository.RoleOptions{Threshold: of(0)}},
		"too few left":        {deployRole, "it has 1 keys", repository.RoleOptions{Remove: []string{"ann", "ben"}}},
		"an unknown key":      {deployRole, "0 keys match", repository.RoleOptions{Remove: []string{"zoe"}}},
		"removed twice":       {deployRole, "0 keys match", repository.RoleOptions{Remove: []string{"ann", "ann"}}},
		"a key that is there": {deployRole, "the role has it", repository.RoleOptions{Add: f.public("ann")}},
		"under another id":    {deployRole, "the role has it as cem", repository.RoleOptions{Add: append(f.public("dan"), twin)}},
		"one key twice":       {deployRole, "the same key", repository.RoleOptions{Add: f.public("dan", "dan")}},
		"no change":           {deployRole, "nothing would change", repository.RoleOptions{Threshold: of(2)}},
		"the same expiry":     {"root", "nothing would change", repository.RoleOptions{Expires: repository.Period(365 * 24 * time.Hour)}},

		"online for root":     {"root", "it signs snapshot", repository.RoleOptions{Add: f.public("online")}},
		"root goes online":    {"timestamp", "it signs root", repository.RoleOptions{Add: f.public("alice")}},
		"no reason":           {deployRole, "--reason", repository.RoleOptions{Threshold: of(1), Reason: " "}},
		"two lines of reason": {deployRole, "--reason", repository.RoleOptions{Threshold: of(1), Reason: "a\nb"}},
	} {
		if c.o.Reason == "" {
			c.o.Reason = "a test"
		}
		_, err := f.r.SetRole(context.Background(), c.role, c.o)
		if kindOf(err) != "refused" || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "; ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := f.r.SetRole(context.Background(), "app.shop", repository.RoleOptions{Threshold: of(1), Reason: "a test"}); kindOf(err) != "unknown-role" {
		t.Errorf("an unknown role: %v", err)
	}
	if all, _ := f.r.Changes(); len(all) != 0 {
		t.Errorf("refusals left changes behind: %v", all)
	}
}

func TestAnOpenApprovalStandsInTheWayByName(t *testing.T) {
	t.Parallel()
	f := running(t)
	open := f.deploy("1.0.0", release.Deployment{State: release.StatePaused})
	_, err := f.r.SetRole(context.Background(), deployRole, repository.RoleOptions{Remove: []string{"ben"}, Add: f.public("dan"), Reason: "ben left"})
	if kindOf(err) != "conflict" || !strings.Contains(err.Error(), open.ID) {
		t.Fatalf("got %v", err)
	}
	c := f.set(deployRole, repository.RoleOptions{Remove: []string{"ben"}, Add: f.public("dan"), Origin: repository.Origin{Into: open.ID}})
	f.sign(c, "alice", "bob", "ann", "dan")
	f.publish(c.ID)
	f.verify()
}
