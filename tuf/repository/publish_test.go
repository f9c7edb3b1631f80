package repository_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/repository"
)

func TestAReleaseAndItsDeploymentMayBePublishedTogether(t *testing.T) {
	t.Parallel()
	f := standard(t)
	f.release("1.0.0")
	f.sign(f.deploy("1.0.0", release.Deployment{}), "ann", "cem")
	out := f.publish()
	if len(out.Changes) != 2 || out.Roles["app.billing"] != 1 || out.Roles["deploy.production.billing"] != 1 {
		t.Errorf("got %+v", out)
	}
	v := f.verify()
	if len(v.Deployments) != 1 || v.Releases != 1 || v.Files != 2 {
		t.Errorf("got %+v", v)
	}
}

func TestPartialSignaturesAreNormalAndNeverPublished(t *testing.T) {
	t.Parallel()
	f := standard(t)
	f.release("1.0.0")
	f.publish()
	c := f.sign(f.deploy("1.0.0", release.Deployment{}), "ann")
	out := f.publish()
	if len(out.Changes) != 0 || !reflect.DeepEqual(out.Waiting, []string{c.ID}) {
		t.Errorf("got %+v", out)
	}
	_, err := f.tryPublish(c.ID)
	var un *repository.UnsignedError
	if !errors.As(err, &un) || !strings.Contains(err.Error(), "deploy.production.billing: 1 of 2, missing one of ben") {
		t.Errorf("got %v", err)
	}
	f.sign(c, "ann", "ann")
	if _, err := f.tryPublish(c.ID); !errors.As(err, &un) {
		t.Errorf("one person signed three times and it counted: %v", err)
	}
	f.sign(c, "ben")
	f.publish(c.ID)
}

func TestAChangeThatNeedsTheKeysOfAWaitingOneWaitsToo(t *testing.T) {
	t.Parallel()
	f := empty(t)
	app, err := f.r.AddApp(context.Background(), billing, repository.AppOptions{Keys: f.public("ci"), Threshold: 1})
	f.ok(err)
	f.sign(app, "alice")
	_, err = f.r.PublishRelease(context.Background(), packed(t, "1.0.0"), repository.Origin{})
	if kindOf(err) != "unknown-role" {
		t.Fatalf("got %v", err)
	}
	both, err := f.r.PublishRelease(context.Background(), packed(t, "1.0.0"), repository.Origin{Into: app.ID})
	f.ok(err)
	f.sign(both, "ci", "alice")
	if out := f.publish(); len(out.Waiting) != 1 || len(out.Changes) != 0 {
		t.Errorf("got %+v", out)
	}
	f.sign(both, "carol")
	if out := f.publish(); out.Roles["app.billing"] != 1 || out.Roles["targets"] != 2 {
		t.Errorf("got %+v", out)
	}
	f.verify()
}

func TestOnlyTheKeysOfARoleMaySignIt(t *testing.T) {
	t.Parallel()
	f := standard(t)
	f.release("1.0.0")
	f.publish()
	c := f.deploy("1.0.0", release.Deployment{})
	for _, name := range []string{"ci", "alice", "oncall", "stranger"} {
		_, err := f.r.Sign(context.Background(), c, f.key(name))
		var no *repository.NotASignerError
		if !errors.As(err, &no) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheSequenceGrowsAndTheFallbackIsWhatRanBefore(t *testing.T) {
	t.Parallel()
	f := standard(t)
	for _, v := range []string{"1.0.0", "1.1.0"} {
		f.release(v)
		f.sign(f.deploy(v, release.Deployment{}), "ann", "ben")
		f.publish()
	}
	c := f.deploy("1.1.0", release.Deployment{State: release.StatePaused})
	doc := deployment(t, c)
	if doc.Sequence != 3 || doc.State != release.StatePaused || doc.Fallback == nil || doc.Fallback.Path != "releases/billing/1.0.0/release.json" {
		t.Errorf("got %+v", doc)
	}
	if !strings.Contains(c.Summary, "production/billing: 1.1.0 → 1.1.0, paused") {
		t.Errorf("summary %q", c.Summary)
	}
}

func deployment(t *testing.T, c *repository.Change) *release.Deployment {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(c.Dir(), "files", "deployments", "production", "billing.json"))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := release.ParseDeployment(raw)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestRulesRefuseWithARemedy(t *testing.T) {
	t.Parallel()
	f := standard(t)
	f.release("1.0.0")
	f.publish()
	ctx := context.Background()
	shop := must(release.ParseApp("shop"))
	stay := must(release.ParseEnvironment("staging"))
	cases := map[string]func() error{
		"a version twice": func() error {
			_, err := f.r.PublishRelease(ctx, packed(t, "1.0.0"), repository.Origin{})
			return err
		},
		"an unpublished release": func() error {
			_, err := f.r.NewDeployment(ctx, repository.Wish{App: billing, Environment: production, Version: version("9.9.9")})
			return err
		},
		"an app twice": func() error {
			_, err := f.r.AddApp(ctx, billing, repository.AppOptions{Keys: f.public("ci"), Threshold: 1})
			return err
		},
		"an environment twice": func() error {
			_, err := f.r.AddEnvironment(ctx, production, repository.EnvironmentOptions{Template: repository.Template{Keys: f.public("ann"), Threshold: 1}})
			return err
		},
		"no key to lose": func() error {
			_, err := f.r.AddEnvironment(ctx, stay, repository.EnvironmentOptions{Template: repository.Template{Keys: f.public("ann", "ben"), Threshold: 2}})
			return err
		},
		"one key under two ids": func() error {
			twin := must(keysFromTUF("other-id", f.key("ben").Public()))
			_, err := f.r.AddApp(ctx, shop, repository.AppOptions{Keys: append(f.public("ben"), twin), Threshold: 1})
			return err
		},
		"no key": func() error {
			_, err := f.r.AddApp(ctx, shop, repository.AppOptions{Threshold: 1})
			return err
		},
		"a second repository": func() error {
			_, _, err := repository.Create(f.dir, repository.CreateOptions{})
			return err
		},
		"an online key that is a root key": func() error {
			_, _, err := repository.Create(t.TempDir(), repository.CreateOptions{Root: f.public("alice"), RootThreshold: 1,
				Targets: f.public("alice"), TargetsThreshold: 1, Online: f.public("alice")})
			return err
		},
	}
	for name, try := range cases {
		err := try()
		if kindOf(err) != "refused" || !strings.Contains(err.Error(), "; ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	c, err := f.r.AddEnvironment(ctx, stay, repository.EnvironmentOptions{Template: repository.Template{
		Keys: f.public("ann", "ben"), Threshold: 2, NoSpare: "two people exist"}})
	if err != nil {
		t.Errorf("a reason was given and still: %v", err)
	}
	if all, _ := f.r.Changes(); len(all) != 1 || all[0].ID != c.ID {
		t.Errorf("refusals left changes behind: %v", all)
	}
}

func TestTwoOpenChangesNeverEditOneRole(t *testing.T) {
	t.Parallel()
	f := standard(t)
	ctx := context.Background()
	shop := must(release.ParseApp("shop"))
	first, err := f.r.AddApp(ctx, shop, repository.AppOptions{Keys: f.public("ci"), Threshold: 1})
	f.ok(err)
	o := repository.AppOptions{Keys: f.public("ci"), Threshold: 1}
	_, err = f.r.AddApp(ctx, must(release.ParseApp("mail")), o)
	var conflict *repository.ConflictError
	if !errors.As(err, &conflict) || conflict.Change != first.ID {
		t.Fatalf("got %v", err)
	}
	f.sign(first, "alice")
	o.Origin.Into = first.ID
	both, err := f.r.AddApp(ctx, must(release.ParseApp("mail")), o)
	f.ok(err)
	if both.ID != first.ID || !strings.Contains(both.Summary, "; add app mail") {
		t.Errorf("got %+v", both)
	}
	progress, err := f.r.Progress(both)
	f.ok(err)
	if len(progress) != 1 || len(progress[0].Signed) != 0 {
		t.Errorf("a signature outlived the payload it was made for: %v", progress)
	}
	f.sign(both, "alice", "bob")
	f.publish()
}

func TestAChangeWhoseBaseMovedIsStale(t *testing.T) {
	t.Parallel()
	f := standard(t)
	c := f.release("1.0.0")
	away := filepath.Join(t.TempDir(), c.ID)
	f.ok(os.CopyFS(away, os.DirFS(c.Dir())))
	_, err := f.r.Abandon(context.Background(), c.ID)
	f.ok(err)
	f.release("1.1.0")
	f.publish()
	f.ok(os.CopyFS(filepath.Join(f.dir, "changes", c.ID), os.DirFS(away)))
	_, err = f.tryPublish(c.ID)
	var stale *repository.StaleError
	if !errors.As(err, &stale) || stale.Published != 1 || stale.Base != 0 {
		t.Errorf("got %v", err)
	}
}

func TestWhatWasTamperedWithInAChangeIsRefused(t *testing.T) {
	t.Parallel()
	for name, file := range map[string]string{
		"archive":  "files/releases/billing/1.0.0/linux-amd64.tar.zst",
		"document": "files/releases/billing/1.0.0/release.json",
		"payload":  "payloads/app.billing.json",
		"change":   "change.json",
	} {
		t.Run(name, func(t *testing.T) {
			f := standard(t)
			c := f.release("1.0.0")
			path := filepath.Join(c.Dir(), file)
			data := must(os.ReadFile(path))
			data[len(data)/2] ^= 1
			f.ok(os.Remove(path))
			f.ok(os.WriteFile(path, data, 0o644))
			before := must(os.ReadFile(filepath.Join(f.dir, "metadata", "timestamp.json")))
			if _, err := f.tryPublish(c.ID); err == nil {
				t.Error("it was published")
			}
			if after := must(os.ReadFile(filepath.Join(f.dir, "metadata", "timestamp.json"))); string(after) != string(before) {
				t.Error("the timestamp moved")
			}
		})
	}
}

func TestWhatLastsLongerThanThePolicySaysIsRefused(t *testing.T) {
	t.Parallel()
	f := standard(t)
	policy := must(f.r.Policy())
	usual := policy.Expiry["app"]
	policy.Expiry["app"] = 10 * usual
	f.ok(f.r.SetPolicy(policy))
	c := f.release("1.0.0")
	policy.Expiry["app"] = usual
	f.ok(f.r.SetPolicy(policy))
	if _, err := f.tryPublish(c.ID); kindOf(err) != "refused" || !strings.Contains(err.Error(), "app.billing: it expires") {
		t.Errorf("got %v", err)
	}
	policy.Expiry["app"] = 10 * usual
	f.ok(f.r.SetPolicy(policy))
	f.publish(c.ID)
}

func TestASecondPublisherIsTurnedAway(t *testing.T) {
	t.Parallel()
	f := standard(t)
	f.release("1.0.0")
	lock, err := durable.TryLock(filepath.Join(f.dir, ".lock"))
	f.ok(err)
	defer lock.Release()
	if _, err := f.tryPublish(); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("got %v", err)
	}
}

func TestRefreshIsDueAfterAThirdOfTheStrictestFreshness(t *testing.T) {
	t.Parallel()
	f := standard(t)
	f.release("1.0.0")
	f.sign(f.deploy("1.0.0", release.Deployment{Freshness: release.Duration(3 * time.Hour)}), "ann", "ben")
	f.publish()
	refresh := func() *repository.Refreshed {
		t.Helper()
		out, err := f.r.Refresh(context.Background(), repository.RefreshOptions{Online: f.online()})
		f.ok(err)
		return out
	}
	f.now = f.now.Add(59 * time.Minute)
	if out := refresh(); len(out.Signed) != 0 || out.Freshness != release.Duration(3*time.Hour) {
		t.Errorf("got %+v", out)
	}
	f.now = f.now.Add(2 * time.Minute)
	out := refresh()
	if !reflect.DeepEqual(out.Signed, []string{"timestamp"}) || out.Issued.Unix() != f.now.Unix() {
		t.Errorf("got %+v", out)
	}
	f.now = f.now.Add(4 * 24 * time.Hour)
	if out := refresh(); !reflect.DeepEqual(out.Signed, []string{"snapshot", "timestamp"}) {
		t.Errorf("got %+v", out)
	}
	f.verify()
}

func TestTimestampCarriesIssuedInWholeSeconds(t *testing.T) {
	t.Parallel()
	f := empty(t)
	var ts struct {
		Signed struct{ Issued, Expires string }
	}
	f.ok(json.Unmarshal(must(os.ReadFile(filepath.Join(f.dir, "metadata", "timestamp.json"))), &ts))
	for _, s := range []string{ts.Signed.Issued, ts.Signed.Expires} {
		if at, err := time.Parse("2006-01-02T15:04:05Z", s); err != nil || at.IsZero() {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestARenewedRootIsSignedByTheRootBeforeIt(t *testing.T) {
	t.Parallel()
	f := standard(t)
	f.now = f.now.Add(350 * 24 * time.Hour)
	_, err := f.r.Verify(context.Background(), repository.VerifyOptions{})
	if err == nil {
		t.Error("an expired timestamp verifies")
	}
	c, err := f.r.Renew(context.Background(), nil, repository.Period(30*24*time.Hour), repository.Origin{})
	f.ok(err)
	if !reflect.DeepEqual(c.Roles(), []string{"root", "targets"}) {
		t.Fatalf("renews %v", c.Roles())
	}
	f.sign(c, "carol")
	if _, err := f.tryPublish(c.ID); kindOf(err) != "unsigned" {
		t.Errorf("got %v", err)
	}
	f.sign(c, "alice")
	f.publish()
	if v := f.verify(); v.Root != 2 || v.Targets != 4 {
		t.Errorf("got %+v", v)
	}
}

func TestDelegationsAreTerminatingAndExact(t *testing.T) {
	t.Parallel()
	f := standard(t)
	var targets struct {
		Signed struct {
			Targets     map[string]any
			Delegations struct {
				Roles []struct {
					Name        string
					Paths       []string
					Terminating bool
					Threshold   int
				}
			}
		}
	}
	f.ok(json.Unmarshal(must(os.ReadFile(filepath.Join(f.dir, "metadata", "3.targets.json"))), &targets))
	want := map[string]string{"app.billing": "releases/billing/*/*", "deploy.production.billing": "deployments/production/billing.json",
		"emergency.production": "emergency/production.json"}
	for _, d := range targets.Signed.Delegations.Roles {
		if len(d.Paths) != 1 || d.Paths[0] != want[d.Name] || !d.Terminating {
			t.Errorf("got %+v", d)
		}
		delete(want, d.Name)
	}
	if len(want) != 0 || len(targets.Signed.Targets) != 0 {
		t.Errorf("missing %v, targets itself lists %v", want, targets.Signed.Targets)
	}
}

func TestStatusTellsWhatWaitsAndWhatExpires(t *testing.T) {
	t.Parallel()
	f := standard(t)
	f.release("1.0.0")
	f.publish()
	f.sign(f.deploy("1.0.0", release.Deployment{}), "ann")
	s, err := f.r.Status(context.Background())
	f.ok(err)
	if len(s.Roles) != 7 || len(s.Changes) != 1 || s.Changes[0].Problem != "" || s.Changes[0].Progress[0].Done() {
		t.Errorf("got %+v", s)
	}
	for _, role := range s.Roles {
		if signed := role.Role != "emergency.production" && role.Role != "deploy.production.billing"; signed != (role.Version > 0) {
			t.Errorf("got %+v", role)
		}
	}
}
