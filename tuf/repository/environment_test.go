package repository_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/repository"
)

const days = repository.Period(24 * time.Hour)

// twoApps is running with an app shop, whose deployments three of five must approve.
func twoApps(t *testing.T) *fixture {
	t.Helper()
	f := running(t)
	c, err := f.r.AddApp(context.Background(), must(release.ParseApp("shop")), repository.AppOptions{Keys: f.public("ci"), Threshold: 1})
	f.ok(err)
	f.sign(c, "alice", "bob")
	f.publish()
	f.sign(f.set("deploy.production.shop", repository.RoleOptions{Add: f.public("dora", "erin"), Threshold: of(3)}), "alice", "bob")
	f.publish()
	return f
}

func (f *fixture) setEnvironment(o repository.EnvironmentSetOptions) (*repository.Change, error) {
	f.t.Helper()
	if o.Reason == "" {
		o.Reason = "a test"
	}
	return f.r.SetEnvironment(context.Background(), production, o)
}

func (f *fixture) signersOf(role string) (names string, threshold int) {
	f.t.Helper()
	views, err := f.r.Roles(role)
	f.ok(err)
	for _, k := range views[0].Keys {
		names += " " + k.Name
	}
	return strings.TrimSpace(names), views[0].Threshold
}

func TestAnApproverLeavesAnEnvironmentInOneChange(t *testing.T) {
	t.Parallel()
	f := twoApps(t)
	h := f.host()
	if _, err := h.refresh(); err != nil {
		t.Fatal(err)
	}
	c, err := f.setEnvironment(repository.EnvironmentSetOptions{Remove: []string{"ben"}, Add: f.public("dan", "eve"), Threshold: of(1)})
	f.ok(err)
	if got := strings.Join(c.Roles(), " "); got != "targets" {
		t.Errorf("one signature is enough now, and the change touches %s", got)
	}
	if !strings.Contains(c.Summary, "deploy.production.shop keeps its own 3 of 6") || !strings.Contains(c.Summary, "1 of 4 (was 2 of 3)") {
		t.Errorf("summary %q", c.Summary)
	}
	f.sign(c, "alice", "bob")
	f.publish()
	if names, n := f.signersOf(deployRole); names != "ann cem dan eve" || n != 1 {
		t.Errorf("billing: %d of %s", n, names)
	}
	if names, n := f.signersOf("deploy.production.shop"); strings.Contains(names, "ben") || !strings.Contains(names, "dan") || n != 3 {
		t.Errorf("shop: %d of %s", n, names)
	}
	if p := must(f.r.Policy()).Environments[production]; len(p.Keys) != 4 || p.Threshold != 1 {
		t.Errorf("the template has %d of %d", p.Threshold, len(p.Keys))
	}
	if got, err := h.refresh(); err != nil || got.Targets != 6 {
		t.Errorf("the host has %+v: %v", got, err)
	}
	f.verify()
}

func TestAnExpiryOfAnEnvironmentHoldsForEveryLaterDeployment(t *testing.T) {
	t.Parallel()
	f := twoApps(t)
	f.set("deploy.production.shop", repository.RoleOptions{Expires: 5 * days})
	f.publish()
	c, err := f.setEnvironment(repository.EnvironmentSetOptions{Expires: 10 * days})
	f.ok(err)
	if got := strings.Join(c.Roles(), " "); got != deployRole || !strings.Contains(c.Summary, "deploy.production.shop keeps its own expiry") {
		t.Errorf("the change touches %s: %s", got, c.Summary)
	}
	f.sign(c, "ann", "cem")
	f.publish()
	f.now = f.now.Add(time.Hour)
	f.sign(f.deploy("1.0.0", release.Deployment{State: release.StatePaused}), "ann", "ben")
	f.publish()
	s, err := f.r.Status(context.Background())
	f.ok(err)
	for _, row := range s.Roles {
		if left := row.Left(f.now).Round(time.Minute); row.Role == deployRole && left != 240*time.Hour {
			t.Errorf("the next deployment expires in %s", left)
		}
	}
	if _, err := f.setEnvironment(repository.EnvironmentSetOptions{Expires: 10 * days}); kindOf(err) != "refused" {
		t.Errorf("the same again: %v", err)
	}
}

func TestAnExpiryOfOneRoleIsKept(t *testing.T) {
	t.Parallel()
	f := running(t)
	f.set("emergency.production", repository.RoleOptions{Expires: 7 * days})
	f.publish()
	f.sign(f.set(deployRole, repository.RoleOptions{Expires: 10 * days}), "ann", "ben")
	f.publish()
	f.now = f.now.Add(time.Hour)
	f.sign(f.deploy("1.0.0", release.Deployment{State: release.StatePaused}), "ann", "ben")
	f.sign(f.halt("smoke"), "oncall")
	f.publish()
	s, err := f.r.Status(context.Background())
	f.ok(err)
	for _, row := range s.Roles {
		left := row.Left(f.now).Round(time.Minute)
		if row.Role == deployRole && left != 240*time.Hour || row.Role == "emergency.production" && left != 168*time.Hour {
			t.Errorf("%s expires in %s", row.Role, left)
		}
	}
	f.verify()
}

func TestAnEnvironmentIsNotLeftWithTooFewApprovers(t *testing.T) {
	t.Parallel()
	f := twoApps(t)
	for name, c := range map[string]struct {
		o    repository.EnvironmentSetOptions
		want []string
	}{
		"too few":        {repository.EnvironmentSetOptions{Remove: []string{"ann", "ben"}}, []string{"environment production would have 2 of 1", deployRole, "deploy.production.shop would have 3 of 3"}},
		"no spare":       {repository.EnvironmentSetOptions{Threshold: of(3)}, []string{"3 of 3", "--allow-no-spare"}},
		"nobody":         {repository.EnvironmentSetOptions{Remove: []string{"zoe"}}, []string{"0 keys match"}},
		"there already":  {repository.EnvironmentSetOptions{Add: f.public("ann")}, []string{"has it as ann"}},
		"an online key":  {repository.EnvironmentSetOptions{Add: f.public("online")}, []string{"it signs snapshot"}},
		"nothing":        {repository.EnvironmentSetOptions{}, []string{"nothing would change"}},
		"a second stop":  {repository.EnvironmentSetOptions{Emergency: f.public("dan")}, []string{"role set emergency.production --add-key"}},
		"without a word": {repository.EnvironmentSetOptions{Threshold: of(1), Reason: " "}, []string{"--reason"}},
	} {
		_, err := f.setEnvironment(c.o)
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
	if all, _ := f.r.Changes(); len(all) != 0 {
		t.Errorf("refusals left changes behind: %v", all)
	}
}

func TestWhatIsUnwiseIsWarnedOfOnce(t *testing.T) {
	t.Parallel()
	f := running(t)
	c, err := f.setEnvironment(repository.EnvironmentSetOptions{Remove: []string{"cem"}, NoSpare: "until monday", Add: nil})
	f.ok(err)
	list, err := f.r.Warnings(c)
	f.ok(err)
	if len(list) != 1 || !strings.Contains(list[0], "deploy.production.* has no spare key (2 of 2)") {
		t.Errorf("warnings %q", list)
	}
	f.sign(c, "alice", "bob")
	f.publish()
	c = f.set(deployRole, repository.RoleOptions{Add: f.public("ci", "alice")})
	list, err = f.r.Warnings(c)
	f.ok(err)
	if got := strings.Join(list, "\n"); len(list) != 2 || !strings.Contains(got, " signs for several offices (app.billing, "+deployRole+")") || !strings.Contains(got, "key alice ") {
		t.Errorf("warnings %q", list)
	}
}

// halt stops all of production for a day.
func (f *fixture) halt(reason string) *repository.Change {
	f.t.Helper()
	until := f.now.Add(24 * time.Hour).UTC().Truncate(time.Second)
	c, err := f.r.EditEmergency(context.Background(), production, repository.EmergencyOptions{
		Add: []release.EmergencyEntry{{Kind: "halt", Until: &until, Reason: reason}},
	})
	f.ok(err)
	return c
}

func TestAnEpochOnlyGrowsAndLapsedEntriesGo(t *testing.T) {
	t.Parallel()
	f := running(t)
	f.sign(f.halt("smoke"), "oncall")
	f.publish()
	f.now = f.now.Add(25 * time.Hour)
	c := f.halt("fire")
	if !strings.Contains(c.Summary, "epoch 2") || !strings.Contains(c.Summary, "lapsed and dropped: halt all apps") {
		t.Errorf("summary %q", c.Summary)
	}
	f.sign(c, "oncall")
	f.publish()
	doc, err := f.r.Emergency(production)
	f.ok(err)
	if doc.Epoch != 2 || len(doc.Entries) != 1 || doc.Entries[0].Reason != "fire" {
		t.Errorf("got %+v", doc)
	}
	f.verify()
}
