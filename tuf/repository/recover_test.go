package repository_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/client"
	"github.com/slipway-deploy/slipway/tuf/repository"
)

// mind is a host with the memory of agent: the highest number it accepted and the keys that signed that, given up when one
// of them is no longer a key of the role. The agent's own tests hold its machine to the same rule.
type mind struct {
	*host
	number int64
	keys   []string
}

func (f *fixture) mind() *mind { return &mind{host: f.host()} }

// accepts looks at the repository and at one document in it.
func (m *mind) accepts(path string) error {
	m.f.t.Helper()
	ctx := context.Background()
	c, err := client.Open(client.Config{Dir: m.dir, Root: m.root, RootProbe: -1, Clock: client.Clock{Now: func() time.Time { return m.f.now }},
		Mirrors: []client.Mirror{{Metadata: filepath.Join(m.published, "metadata"), Targets: filepath.Join(m.published, "targets")}}})
	m.f.ok(err)
	if _, err := c.Refresh(ctx); err != nil {
		return err
	}
	t, err := c.Lookup(ctx, path)
	if err != nil {
		return err
	}
	raw, err := c.Read(ctx, t)
	if err != nil {
		return err
	}
	number := int64(0)
	if e, err := release.ParseEmergency(raw); err == nil {
		number = e.Epoch
	} else if d, err := release.ParseDeployment(raw); err == nil {
		number = d.Sequence
	}
	forgets := slices.ContainsFunc(m.keys, func(id string) bool { return !slices.Contains(t.MayIDs, id) })
	if number < m.number && !forgets {
		return fmt.Errorf("number %d after %d", number, m.number)
	}
	if number != m.number {
		m.number, m.keys = number, t.KeyIDs
	}
	return nil
}

func (f *fixture) accepted(path string, number int64, hosts ...*mind) {
	f.t.Helper()
	for i, h := range append(hosts, f.mind()) {
		if err := h.accepts(path); err != nil || h.number != number {
			f.t.Errorf("host %d has number %d, want %d: %v", i+1, h.number, number, err)
		}
	}
	f.verify()
}

func (f *fixture) diagnose(o repository.DiagnoseOptions) []repository.Finding {
	f.t.Helper()
	out, err := f.r.Diagnose(context.Background(), o)
	f.ok(err)
	return out
}

// finding is the one of this kind and role.
func (f *fixture) finding(o repository.DiagnoseOptions, kind, role string) repository.Finding {
	f.t.Helper()
	list := f.diagnose(o)
	for _, x := range list {
		if x.Kind == kind && x.Role == role {
			return x
		}
	}
	f.t.Fatalf("no %s of %s in %+v", kind, role, list)
	return repository.Finding{}
}

func (f *fixture) says(x repository.Finding, urgent bool, want ...string) {
	f.t.Helper()
	text := x.What + "\n" + x.Hosts + "\n" + strings.Join(x.Remedy, "\n")
	for _, w := range want {
		if !strings.Contains(text, w) {
			f.t.Errorf("no %q in %s", w, text)
		}
	}
	if x.Urgent != urgent || x.Hosts == "" {
		f.t.Errorf("urgent is %v: %+v", x.Urgent, x)
	}
}

const deploymentPath, emergencyPath = "deployments/production/billing.json", "emergency/production.json"

func TestAHealthyRepositoryHasNoFindings(t *testing.T) {
	t.Parallel()
	f := running(t)
	if list := f.diagnose(repository.DiagnoseOptions{Within: 30 * days}); len(list) != 0 {
		t.Errorf("got %+v", list)
	}
}

func TestOneRootKeyIsLost(t *testing.T) {
	t.Parallel()
	f := running(t)
	old := f.mind()
	f.ok(old.accepts(deploymentPath))
	lost := repository.DiagnoseOptions{Lost: []string{"carol"}}
	f.says(f.finding(lost, "lost", "root"), false, "root has 2 of its 3 keys left and needs 2", "revoke carol --replace-with NEW.pub")
	f.says(f.finding(lost, "lost", "targets"), false, "2 of its 3 keys left")
	c := f.revoke(repository.RevokeOptions{Key: "carol", Replace: f.key("dora").Public()})
	f.sign(c, "alice", "bob")
	f.publish(c.ID)
	f.accepted(deploymentPath, 1, old)

	two := repository.DiagnoseOptions{Lost: []string{"alice", "bob"}}
	f.says(f.finding(two, "root-lost", "root"), true, "root needs 2 signatures and 1 of its keys are left", "new repository", "by hand")
	f.says(f.finding(two, "lost", "targets"), true, "only root could name other keys")
}

func TestTheTellingOfStolenKeysNamesPowerAndRemedy(t *testing.T) {
	t.Parallel()
	f := running(t)
	f.says(f.finding(repository.DiagnoseOptions{Stolen: []string{"ben"}}, "stolen", deployRole), false, "alone the thief can do nothing", "revoke ben")
	f.says(f.finding(repository.DiagnoseOptions{Stolen: []string{"ann", "ben"}}, "stolen", deployRole), true,
		"leap ahead with the sequence", "revoke ben --change ID", "recover sequence production billing --change ID")
	f.says(f.finding(repository.DiagnoseOptions{Stolen: []string{"online"}}, "stolen", "timestamp"), true, "hold news back", "--use-online NEW", "publish --online-key NEW")
	f.says(f.finding(repository.DiagnoseOptions{Stolen: []string{"alice", "carol"}}, "root-stolen", "root"), true, "by hand")
	f.says(f.finding(repository.DiagnoseOptions{Stolen: []string{"oncall"}}, "stolen", "emergency.production"), true, "recover epoch production --change ID")
	f.says(f.finding(repository.DiagnoseOptions{Lost: []string{"online"}}, "lost", "timestamp"), true, "go on until it expires", "--use-online NEW")
	if _, err := f.r.Diagnose(context.Background(), repository.DiagnoseOptions{Lost: []string{"zoe"}}); kindOf(err) != "refused" {
		t.Errorf("an unknown key: %v", err)
	}
}

// leapt is running after a thief with two approvers' keys got a deployment with a high sequence published. One host has seen
// it, one has looked away since before, and one is new.
func leapt(t *testing.T) (f *fixture, saw, away, late *mind) {
	t.Helper()
	f = running(t)
	f.sign(f.deploy("1.0.0", release.Deployment{State: release.StatePaused}), "ann", "ben")
	f.publish()
	saw, away, late = f.mind(), f.mind(), f.mind()
	f.ok(saw.accepts(deploymentPath))
	f.ok(away.accepts(deploymentPath))
	c, err := f.r.RecoverSequence(context.Background(), production, billing, repository.NumberOptions{Above: 900_000, Reason: "trust me"})
	f.ok(err)
	f.sign(c, "ann", "ben")
	f.publish()
	f.ok(saw.accepts(deploymentPath))
	if saw.number != 900_001 {
		t.Fatalf("the host is at %d", saw.number)
	}
	return f, saw, away, late
}

func TestADeployKeyIsStolenAndTheSequenceFastForwarded(t *testing.T) {
	t.Parallel()
	f, saw, away, late := leapt(t)
	ctx := context.Background()
	f.says(f.finding(repository.DiagnoseOptions{}, "leap", deployRole), true, "leapt from 2 to 900001", "signed by ann", "revoke ann", "revoke ben --change ID", "recover sequence production billing --change ID")
	if _, err := f.r.RecoverSequence(ctx, production, billing, repository.NumberOptions{Reason: "back"}); kindOf(err) != "refused" || !strings.Contains(err.Error(), "still sign the role") {
		t.Errorf("back while the thief's keys count: %v", err)
	}
	c := f.revoke(repository.RevokeOptions{Key: "ann", Replace: f.key("ann2").Public()})
	c = f.revoke(repository.RevokeOptions{Key: "ben", Replace: f.key("ben2").Public(), Origin: repository.Origin{Into: c.ID}})
	c, err := f.r.RecoverSequence(ctx, production, billing, repository.NumberOptions{Reason: "back", Origin: repository.Origin{Into: c.ID}})
	f.ok(err)
	if !strings.Contains(c.Summary, "sequence 3 again as in version 2, back from 900001") || !strings.Contains(c.Summary, "1.0.0 → 1.0.0, paused") {
		t.Errorf("summary %q", c.Summary)
	}
	f.sign(c, "alice", "bob", "cem", "ann2")
	f.publish(c.ID)
	f.accepted(deploymentPath, 3, saw, away, late)
	f.sign(f.deploy("1.0.0", release.Deployment{}), "ann2", "ben2")
	f.publish()
	f.accepted(deploymentPath, 4, saw, away, late)
	if list := f.diagnose(repository.DiagnoseOptions{}); len(list) != 0 {
		t.Errorf("after the recovery: %+v", list)
	}
}

func TestALeapThatWasSignedAgainIsNotTakenBackWhileAHostMayKeepIt(t *testing.T) {
	t.Parallel()
	f, saw, _, late := leapt(t)
	c := f.revoke(repository.RevokeOptions{Key: "ann", Replace: f.key("ann2").Public()})
	f.sign(c, "alice", "bob", "cem", "ben")
	f.publish(c.ID)
	f.ok(late.accepts(deploymentPath))
	c, err := f.r.RecoverSequence(context.Background(), production, billing, repository.NumberOptions{Reason: "too late"})
	if kindOf(err) != "refused" || !strings.Contains(err.Error(), "hosts keep that number") {
		t.Fatalf("the late host keeps 900001, got %v %v", c, err)
	}
	c = f.revoke(repository.RevokeOptions{Key: "ben", Replace: f.key("ben2").Public()})
	c, err = f.r.RecoverSequence(context.Background(), production, billing, repository.NumberOptions{Reason: "back", Origin: repository.Origin{Into: c.ID}})
	f.ok(err)
	f.sign(c, "alice", "bob", "cem", "ann2")
	f.publish(c.ID)
	f.accepted(deploymentPath, 3, saw, late)
}

func TestAnEmergencyKeyIsStolenAndTheEpochFastForwarded(t *testing.T) {
	t.Parallel()
	f := running(t)
	ctx := context.Background()
	f.sign(f.halt("ours"), "oncall")
	f.publish()
	saw, away := f.mind(), f.mind()
	f.ok(away.accepts(emergencyPath))
	c, err := f.r.RecoverEpoch(ctx, production, repository.NumberOptions{Above: 500_000, Reason: "trust me"})
	f.ok(err)
	f.sign(c, "oncall")
	f.publish()
	f.sign(f.halt("theirs"), "oncall")
	f.publish()
	f.ok(saw.accepts(emergencyPath))
	f.says(f.finding(repository.DiagnoseOptions{}, "leap", "emergency.production"), true, "leapt from 1 to 500001", "recover epoch production --change ID")
	c = f.revoke(repository.RevokeOptions{Key: "oncall", Replace: f.key("oncall2").Public()})
	c, err = f.r.RecoverEpoch(ctx, production, repository.NumberOptions{Reason: "back", Origin: repository.Origin{Into: c.ID}})
	f.ok(err)
	f.sign(c, "alice", "bob", "oncall2")
	f.publish(c.ID)
	f.accepted(emergencyPath, 2, saw, away)
	doc, err := f.r.Emergency(production)
	f.ok(err)
	if len(doc.Entries) != 1 || doc.Entries[0].Reason != "ours" {
		t.Errorf("in force is %+v", doc.Entries)
	}
}

func TestAPublisherThatLostItsHistoryOvertakesWhatHostsHaveSeen(t *testing.T) {
	t.Parallel()
	f := running(t)
	backup := filepath.Join(t.TempDir(), "backup")
	f.ok(os.CopyFS(backup, os.DirFS(f.dir)))
	for range 3 {
		f.sign(f.deploy("1.0.0", release.Deployment{State: release.StatePaused}), "ann", "ben")
		f.publish()
	}
	old := f.mind()
	f.ok(old.accepts(deploymentPath))
	f.ok(os.RemoveAll(f.dir))
	f.ok(os.CopyFS(f.dir, os.DirFS(backup)))
	if err := old.accepts(deploymentPath); err == nil {
		t.Fatal("the host went back")
	}
	seen := func(texts ...string) (o repository.DiagnoseOptions) {
		for _, text := range texts {
			o.Seen = append(o.Seen, must(repository.ParseSighting(text)))
		}
		return o
	}
	o := seen("timestamp=8", "sequence:production/billing=4", "root=1", "epoch:production=1")
	f.says(f.finding(o, "fast-forward", "timestamp"), true, "published is 5", "revoke online --replace-with NEW.pub --use-online NEW")
	f.says(f.finding(o, "fast-forward", deployRole), true, "sequence 4", "recover sequence production billing --above 4")
	f.says(f.finding(o, "fine", "root"), false, "accept what is published")
	f.says(f.finding(o, "fast-forward", "emergency.production"), true, "revoke KEY")
	c := f.revoke(repository.RevokeOptions{Key: "online", Replace: f.key("online2").Public()})
	c, err := f.r.RecoverSequence(context.Background(), production, billing, repository.NumberOptions{Above: 4, Reason: "restored", Origin: repository.Origin{Into: c.ID}})
	f.ok(err)
	f.sign(c, "alice", "bob", "ann", "cem")
	f.publishOnline("online2", c.ID)
	f.accepted(deploymentPath, 5, old)
}

func TestRootIsAboutToExpireAndAHolderIsOnHoliday(t *testing.T) {
	t.Parallel()
	f := running(t)
	old, asleep := f.mind(), f.mind()
	f.ok(old.accepts(deploymentPath))
	f.ok(asleep.accepts(deploymentPath))
	f.now = f.now.Add(340 * 24 * time.Hour)
	o := repository.DiagnoseOptions{Within: 30 * days}
	f.says(f.finding(o, "expires", "root"), false, "2 of alice", "holidays included", "role renew root")
	f.says(f.finding(o, "expired", deployRole), true, "start nothing for production/billing", "role renew "+deployRole)
	f.says(f.finding(o, "expired", "timestamp"), true, "refresh")
	c, err := f.r.Renew(context.Background(), nil, 30*days, repository.Origin{})
	f.ok(err)
	f.sign(c, "bob", "carol", "ann", "cem", "ci")
	f.publish(c.ID)
	f.accepted(deploymentPath, 1, old)

	f.now = f.now.Add(400 * 24 * time.Hour)
	f.says(f.finding(o, "expired", "root"), true, "root expired on", "hosts follow a new root although theirs has expired")
	if err := old.accepts(deploymentPath); err == nil {
		t.Error("an expired root is believed")
	}
	c, err = f.r.Renew(context.Background(), nil, 30*days, repository.Origin{})
	f.ok(err)
	f.sign(c, "alice", "carol", "ann", "ben", "ci")
	f.publish(c.ID)
	f.accepted(deploymentPath, 1, old, asleep)
}

func TestAnInterruptedPublishAndAMissingFileAreTold(t *testing.T) {
	t.Parallel()
	f := running(t)
	c := f.revoke(repository.RevokeOptions{Key: "online", Replace: f.key("online2").Public()})
	f.sign(c, "alice", "bob")
	whole := &fixture{t: t, dir: filepath.Join(t.TempDir(), "whole"), now: f.now, people: f.people}
	f.ok(os.CopyFS(whole.dir, os.DirFS(f.dir)))
	whole.r = must(repository.Open(whole.dir))
	whole.publishOnline("online2", c.ID)
	data, err := os.ReadFile(filepath.Join(whole.dir, "metadata", "2.root.json"))
	f.ok(err)
	f.ok(os.WriteFile(filepath.Join(f.dir, "metadata", "2.root.json"), data, 0o644))
	f.says(f.finding(repository.DiagnoseOptions{}, "interrupted", "root"), true, "slipway-repo publish "+c.ID)
	f.says(f.finding(repository.DiagnoseOptions{}, "unsigned", "timestamp"), true, "complete the interrupted publish first")
	f.publishOnline("online2", c.ID)
	if list := f.diagnose(repository.DiagnoseOptions{}); len(list) != 0 {
		t.Errorf("after it was completed: %+v", list)
	}
	found, err := filepath.Glob(filepath.Join(f.dir, "targets", "releases", "billing", "1.0.0", "*release.json"))
	f.ok(err)
	f.ok(os.Remove(found[0]))
	f.says(f.finding(repository.DiagnoseOptions{}, "client-refuses", ""), true, "bring it back")
}

func TestNumbersAreNotUsedUp(t *testing.T) {
	t.Parallel()
	f := running(t)
	ctx := context.Background()
	for name, c := range map[string]struct {
		o    repository.NumberOptions
		want string
	}{
		"no leap":     {repository.NumberOptions{Reason: "x"}, "nobody leapt"},
		"too far":     {repository.NumberOptions{Reason: "x", Above: 2_000_000}, "hosts then forget the number"},
		"far too far": {repository.NumberOptions{Reason: "x", Above: 1<<63 - 1}, "at most 1000000"},
		"below":       {repository.NumberOptions{Reason: "x", Above: -1}, "is published"},
		"no reason":   {repository.NumberOptions{}, "--reason"},
	} {
		if _, err := f.r.RecoverSequence(ctx, production, billing, c.o); kindOf(err) != "refused" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := f.r.RecoverEpoch(ctx, production, repository.NumberOptions{Reason: "x"}); kindOf(err) != "refused" {
		t.Errorf("an epoch that never was: %v", err)
	}
	for _, bad := range []string{"", "timestamp", "timestamp=", "timestamp=0", "timestamp=1x", "sequence:production=1", "epoch:a/b/c=1", "era:production=1", "nobody=1"} {
		if s, err := repository.ParseSighting(bad); err == nil {
			t.Errorf("%q is read as %+v", bad, s)
		}
	}
}

func TestAnOnlineKeyRotatesInSnapshotAndTimestampAtOnce(t *testing.T) {
	t.Parallel()
	f := running(t)
	ctx := context.Background()
	old := f.mind()
	f.ok(old.accepts(deploymentPath))
	w, err := f.r.Rotation(repository.OnlineRoles)
	f.ok(err)
	if w.Change != nil || w.Steps[0].State != "now" || !strings.Contains(strings.Join(w.Steps[1].Details, " "), "timestamp is signed by 1 of online") {
		t.Errorf("before: %+v", w)
	}
	_, err = f.r.Rotate(ctx, repository.OnlineRoles, repository.RoleOptions{Remove: []string{"online"}, Add: f.public("online2"), Reason: "once a year"})
	f.ok(err)
	w, err = f.r.Rotation(repository.OnlineRoles)
	f.ok(err)
	if w.Complete || w.Steps[2].State != "now" || !strings.Contains(strings.Join(w.Steps[2].Details, " "), "root: 0 of 2") {
		t.Errorf("unsigned: %+v", w.Steps)
	}
	f.sign(w.Change, "alice", "bob")
	if w, err = f.r.Rotation(repository.OnlineRoles); err != nil || !w.Complete || w.Steps[3].State != "now" {
		t.Errorf("signed: %+v %v", w, err)
	}
	f.publishOnline("online2", w.Change.ID)
	f.accepted(deploymentPath, 1, old)
}

// forge gives the deployment in an open change another sequence, as somebody may who makes the folder by hand.
func (f *fixture) forge(c *repository.Change, sequence int64) {
	f.t.Helper()
	path := filepath.Join(c.Dir(), "files", deploymentPath)
	was, err := os.ReadFile(path)
	f.ok(err)
	doc, err := release.ParseDeployment(was)
	f.ok(err)
	doc.Sequence = sequence
	now, err := release.Encode(doc)
	f.ok(err)
	f.ok(os.WriteFile(path, now, 0o644))
	payload := filepath.Join(c.Dir(), "payloads", deployRole+".json")
	text, err := os.ReadFile(payload)
	f.ok(err)
	edited := strings.ReplaceAll(string(text), release.Sum(was).String(), release.Sum(now).String())
	edited = strings.ReplaceAll(edited, fmt.Sprintf(`"length": %d`, len(was)), fmt.Sprintf(`"length": %d`, len(now)))
	f.ok(os.WriteFile(payload, []byte(edited), 0o644))
	f.ok(f.r.Retell(c.ID))
}

func TestAForgedSequenceIsNotPublished(t *testing.T) {
	t.Parallel()
	f := running(t)
	f.sign(f.deploy("1.0.0", release.Deployment{State: release.StatePaused}), "ann", "ben")
	f.publish()
	for sequence, want := range map[int64]string{
		1: "still sign the role", 2: "2 does not follow 2", 1_000_003: "more than 1000000 after 2", 1<<63 - 1: "more than 1000000 after 2",
	} {
		c := f.deploy("1.0.0", release.Deployment{})
		f.forge(c, sequence)
		c = must(f.r.Change(c.ID))
		f.sign(c, "ann", "ben")
		if _, err := f.tryPublish(c.ID); kindOf(errors.Unwrap(err)) != "refused" || !strings.Contains(err.Error(), want) {
			t.Errorf("sequence %d: %v", sequence, err)
		}
		_, err := f.r.Abandon(context.Background(), c.ID)
		f.ok(err)
	}
	c := f.deploy("1.0.0", release.Deployment{})
	f.forge(c, 1_000_002)
	f.sign(must(f.r.Change(c.ID)), "ann", "ben")
	f.publish()
	f.accepted(deploymentPath, 1_000_002)
}
