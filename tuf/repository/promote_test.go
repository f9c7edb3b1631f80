package repository_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/repository"
)

var staging = must(release.ParseEnvironment("staging"))

// soaking is the standard repository with a staging environment that runs 1.0.0, and the rule that production takes releases
// that two hosts of staging have had committed for a day.
func soaking(t *testing.T, rule *repository.PromotionRule) *fixture {
	t.Helper()
	f := standard(t)
	c, err := f.r.AddEnvironment(t.Context(), staging, repository.EnvironmentOptions{Template: repository.Template{Keys: f.public("ann", "ci"), Threshold: 1}})
	f.ok(err)
	f.sign(c, "alice", "bob")
	f.publish()
	p := must(f.r.Policy())
	p.Environments[production].Promotion = rule
	f.ok(f.r.SetPolicy(p))
	f.release("1.0.0")
	f.publish()
	f.stage("1.0.0", release.Deployment{})
	return f
}

func dayOnTwo() *repository.PromotionRule {
	return &repository.PromotionRule{From: staging, Committed: must(repository.ParsePeriod("24h")), Hosts: 2}
}

func (f *fixture) stage(v string, doc release.Deployment) {
	f.t.Helper()
	c, err := f.r.NewDeployment(context.Background(), repository.Wish{App: billing, Environment: staging, Version: version(v), Document: doc})
	f.ok(err)
	f.sign(c, "ann")
	f.publish()
}

// said is what a host of staging says of a release that it committed so long ago.
func (f *fixture) said(host, v string, ago time.Duration, edit ...func(*release.Evidence)) []byte {
	f.t.Helper()
	found := must(filepath.Glob(filepath.Join(f.dir, "targets", "releases", "billing", v, "*.release.json")))
	digest := release.Sum(must(os.ReadFile(found[0])))
	now := f.now.UTC().Truncate(time.Second)
	e := &release.Evidence{Host: host, Environment: staging, App: billing, Release: release.NewID(version(v), digest).String(), Sequence: 1, Attempt: "a1",
		Committed: now.Add(-ago), Observed: now}
	for _, x := range edit {
		x(e)
	}
	return must(release.EncodeEvidence(e))
}

func (f *fixture) promote(v string, evidence ...[]byte) (*repository.Change, error) {
	return f.r.Promote(context.Background(), repository.PromoteWish{
		Wish: repository.Wish{App: billing, Environment: production, Version: version(v), Origin: repository.Origin{RequestedBy: "dora"}, Document: release.Deployment{Reason: "month end"}},
		From: staging, Evidence: evidence,
	})
}

func (f *fixture) deployed() *release.Deployment {
	f.t.Helper()
	found := must(filepath.Glob(filepath.Join(f.dir, "targets", "deployments", "production", "*.billing.json")))
	var newest *release.Deployment
	for _, path := range found {
		if d := must(release.ParseDeployment(must(os.ReadFile(path)))); newest == nil || d.Sequence > newest.Sequence {
			newest = d
		}
	}
	return newest
}

func TestAPromotionCarriesTheSameDigestWithNewSignaturesAndNoUpload(t *testing.T) {
	f := soaking(t, dayOnTwo())
	one, two := f.said("s1", "1.0.0", 25*time.Hour), f.said("s2", "1.0.0", 30*time.Hour)
	c, err := f.promote("1.0.0", one, two)
	f.ok(err)
	if entries, err := os.ReadDir(filepath.Join(c.Dir(), "files")); err != nil || len(entries) != 1 || entries[0].Name() != "deployments" {
		t.Error("something was uploaded again", entries, err)
	}
	if c.RequestedBy != "dora" || !strings.Contains(c.Summary, "promoted from staging (sequence 1), evidence ") {
		t.Errorf("%+v", c)
	}
	words := strings.Join(c.Promotions[0].Words(), "\n")
	for _, want := range []string{"host s1 says", "for 25h0m0s when asked (not signed; sha256 " + release.Sum(one).String(), "host s2 says"} {
		if !strings.Contains(words, want) {
			t.Errorf("no %q in %s", want, words)
		}
	}
	if _, err := f.tryPublish(c.ID); kindOf(err) != "unsigned" {
		t.Error(err)
	}
	f.sign(c, "ann", "ben")
	f.publish(c.ID)
	d := f.deployed()
	if d.RequestedBy != "dora" || d.Reason != "month end; promoted from staging (sequence 1), evidence "+c.Promotions[0].Digest().String() {
		t.Errorf("%+v", d)
	}
	if v := f.verify(); len(v.Deployments) != 2 || v.Releases != 1 {
		t.Errorf("%+v", v)
	}
	if _, err := f.promote("1.0.0", one, two); !strings.Contains(err.Error(), "production runs it already") {
		t.Error(err)
	}
}

func TestAPromotionIsRefusedByTheRuleThatItBreaksAndWithTheRemedy(t *testing.T) {
	for name, c := range map[string]struct {
		evidence func(f *fixture) [][]byte
		version  string
		want     string
	}{
		"no evidence":    {func(f *fixture) [][]byte { return nil }, "1.0.0", "0 of 2 hosts of staging say that they have had it committed for at least 24h0m0s"},
		"one host":       {func(f *fixture) [][]byte { return [][]byte{f.said("s1", "1.0.0", 25*time.Hour)} }, "1.0.0", "1 of 2 hosts"},
		"one host twice": {func(f *fixture) [][]byte { e := f.said("s1", "1.0.0", 25*time.Hour); return [][]byte{e, e} }, "1.0.0", "1 of 2 hosts"},
		"too young": {func(f *fixture) [][]byte {
			return [][]byte{f.said("s1", "1.0.0", 25*time.Hour), f.said("s2", "1.0.0", 23*time.Hour)}
		}, "1.0.0", "1 of 2 hosts"},
		"not staged":      {func(f *fixture) [][]byte { return nil }, "2.0.0", "staging runs 1.0.0; run deploy new --env staging --app billing --release 2.0.0"},
		"another release": {func(f *fixture) [][]byte { return [][]byte{f.said("s1", "2.0.0", 25*time.Hour)} }, "1.0.0", "is about release 2.0.0-"},
		"another place": {func(f *fixture) [][]byte {
			return [][]byte{f.said("s1", "1.0.0", 25*time.Hour, func(e *release.Evidence) { e.Environment = production })}
		}, "1.0.0", "is about billing in production, not billing in staging"},
		"from the future": {func(f *fixture) [][]byte {
			return [][]byte{f.said("s1", "1.0.0", 25*time.Hour, func(e *release.Evidence) { e.Observed = e.Observed.Add(time.Hour) })}
		}, "1.0.0", "yet to come"},
		"not evidence":      {func(f *fixture) [][]byte { return [][]byte{[]byte(`{"schema":"x"}`)} }, "1.0.0", "cannot accept evidence"},
		"more than anybody": {func(f *fixture) [][]byte { return make([][]byte, 33) }, "1.0.0", "at most 32 are shown"},
	} {
		t.Run(name, func(t *testing.T) {
			f := soaking(t, dayOnTwo())
			f.release("2.0.0")
			f.publish()
			_, err := f.promote(c.version, c.evidence(f)...)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want %q", err, c.want)
			}
			var refused *repository.RefusedError
			if name != "not evidence" && (!errors.As(err, &refused) || refused.Rule == "" || refused.Remedy == "") {
				t.Errorf("%#v names no rule or remedy", err)
			}
			if open := must(f.r.Changes()); len(open) > 0 {
				t.Error("a refused promotion leaves a change")
			}
		})
	}
}

func TestARuleOfHostsAloneAsksThatTheyHaveCommittedItAtAll(t *testing.T) {
	f := soaking(t, &repository.PromotionRule{From: staging, Hosts: 1})
	if _, err := f.promote("1.0.0"); err == nil || !strings.Contains(err.Error(), "0 of 1 hosts of staging") {
		t.Error(err)
	}
	_, err := f.promote("1.0.0", f.said("s1", "1.0.0", 0))
	f.ok(err)
}

func TestWhatIsHaltedWhereItComesFromIsNotPromoted(t *testing.T) {
	f := soaking(t, nil)
	f.stage("1.0.0", release.Deployment{State: release.StateHalted, Reason: "errors at checkout"})
	if _, err := f.promote("1.0.0"); err == nil || !strings.Contains(err.Error(), "its deployment in staging is halted (errors at checkout)") {
		t.Error(err)
	}
}

func TestWithoutARuleAPromotionNeedsNoEvidenceAndSaysSo(t *testing.T) {
	f := soaking(t, nil)
	c, err := f.promote("1.0.0")
	f.ok(err)
	f.sign(c, "ann", "ben")
	f.publish()
	if d := f.deployed(); d.Reason != "month end; promoted from staging (sequence 1) without evidence" {
		t.Error(d.Reason)
	}
}

func TestWithARuleNewReleasesComeByPromotionOrForAReasonAndStopsNeedNeither(t *testing.T) {
	f := soaking(t, dayOnTwo())
	wish := repository.Wish{App: billing, Environment: production, Version: version("1.0.0")}
	_, err := f.r.NewDeployment(t.Context(), wish)
	if err == nil || !strings.Contains(err.Error(), "releases come there by promotion from staging; run deploy promote billing 1.0.0 --from staging --to production") {
		t.Fatal(err)
	}
	wish.Bypass = "the site is down"
	c, err := f.r.NewDeployment(t.Context(), wish)
	f.ok(err)
	f.sign(c, "ann", "ben")
	f.publish()
	if d := f.deployed(); d.Reason != "not by promotion: the site is down" {
		t.Error(d.Reason)
	}
	for _, state := range []release.DeploymentState{release.StateHalted, release.StateActive, release.StatePaused} {
		f.sign(f.deploy("1.0.0", release.Deployment{State: state}), "ann", "ben")
		f.publish()
	}
}

// The change's folder travels: what it says there counts only if it was signed and still holds.
func TestPublishChecksThePromotionAgainstWhatWasSigned(t *testing.T) {
	edit := func(c *repository.Change, old, new string) {
		path := filepath.Join(c.Dir(), "change.json")
		data := string(must(os.ReadFile(path)))
		if !strings.Contains(data, old) {
			t.Fatalf("no %q in %s", old, data)
		}
		if err := os.WriteFile(path, []byte(strings.Replace(data, old, new, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct{ old, new, want string }{
		"another host":  {`\"host\": \"s1\"`, `\"host\": \"s9\"`, "was changed since it was recorded"},
		"no record":     {`"promotions"`, `"base_note"`, "unknown field"},
		"another app":   {`"to": "production"`, `"to": "staging"`, "releases come there by promotion"},
		"a bypass":      {`"evidence": [`, `"bypass": "because", "evidence": [`, "releases come there by promotion"},
		"less evidence": {`"sequence": 1`, `"sequence": 2`, "releases come there by promotion"},
	} {
		f := soaking(t, dayOnTwo())
		change, err := f.promote("1.0.0", f.said("s1", "1.0.0", 25*time.Hour), f.said("s2", "1.0.0", 25*time.Hour))
		f.ok(err)
		f.sign(change, "ann", "ben")
		edit(change, c.old, c.new)
		if _, err := f.tryPublish(change.ID); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	f := soaking(t, nil)
	c := f.sign(f.deploy("1.0.0", release.Deployment{}), "ann", "ben")
	p := must(f.r.Policy())
	p.Environments[production].Promotion = dayOnTwo()
	f.ok(f.r.SetPolicy(p))
	if _, err := f.tryPublish(c.ID); err == nil || !strings.Contains(err.Error(), "releases come there by promotion") {
		t.Error("the rule came after the change:", err)
	}
}

func TestAPromotionRuleThatMeansNothingIsRefused(t *testing.T) {
	f := standard(t)
	for _, rule := range []repository.PromotionRule{{}, {From: production}, {From: staging, Hosts: -1}} {
		p := must(f.r.Policy())
		p.Environments[production].Promotion = &rule
		if err := f.r.SetPolicy(p); err == nil {
			t.Errorf("%+v was taken", rule)
		}
	}
}
