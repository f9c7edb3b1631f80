package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/tuftest"
)

type ctxt = context.Context

// forger is a publisher that has every key and abuses them: what slipway-repo refuses to sign, it signs.
type forger struct {
	*tuftest.Repository
	s   *stage
	dir string
	seq int64
}

// forge replaces the stage's repository by a forger's. Hosts made afterwards pin its root.
func (s *stage) forge() *forger {
	s.t.Helper()
	f := &forger{Repository: tuftest.New(s.t), s: s, dir: filepath.Join(s.dir, "forged")}
	f.Delegate("app.harbor", "targets", []string{"releases/harbor/*/*"}, 1, tuftest.NewKey(s.t))
	f.Delegate("deploy.production.harbor", "targets", []string{"deployments/production/harbor.json"}, 1, tuftest.NewKey(s.t))
	f.publish()
	s.repo, s.server = f.dir, s.lab.Serve(s.t, f.dir)
	return f
}

// publish signs what changed and puts the files where the server has them, the timestamp last.
func (f *forger) publish() {
	f.s.t.Helper()
	f.Publish()
	write := func(name string, data []byte) {
		path := filepath.Join(f.dir, filepath.FromSlash(name))
		err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path+".new", data, 0o644))
		if err = errors.Join(err, os.Rename(path+".new", path)); err != nil {
			f.s.t.Fatal(err)
		}
	}
	files := f.Files()
	for name, data := range files {
		if name != "metadata/timestamp.json" {
			write(name, data)
		}
	}
	write("metadata/timestamp.json", files["metadata/timestamp.json"])
}

// release packs a tree and signs its release.json after the edits of its text.
func (f *forger) release(version string, tr tree, edits ...string) release.Digest {
	f.s.t.Helper()
	dir := filepath.Join(f.s.dir, "forge", version)
	if err := tr.write(dir); err != nil {
		f.s.t.Fatal(err)
	}
	out := dir + ".packed"
	f.s.publisher(append([]string{"release", "pack", dir, "--app", "harbor", "--version", version, "--config", dir + ".toml", "--out", out}, tr.flags...)...)
	doc := strings.NewReplacer(edits...).Replace(string(mustRead(f.s.t, filepath.Join(out, "release.json"))))
	base := "releases/harbor/" + version + "/"
	for _, pattern := range []string{"*.tar.zst", "*.manifest.json"} {
		found, err := filepath.Glob(filepath.Join(out, pattern))
		if err != nil || len(found) != 1 {
			f.s.t.Fatal(found, err)
		}
		f.AddFile(base+filepath.Base(found[0]), mustRead(f.s.t, found[0]))
	}
	f.AddTarget("app.harbor", base+"release.json", []byte(doc))
	return release.Sum([]byte(doc))
}

// deploy signs that production runs a release, after the edits of the document's text, and publishes.
func (f *forger) deploy(version string, digest release.Digest, edits ...string) {
	f.s.t.Helper()
	f.seq++
	doc := fmt.Sprintf(`{"schema":%q,"app":"harbor","environment":"production","sequence":%d,"rollout_id":"r%d","state":"active","release":{"path":"releases/harbor/%s/release.json","sha256":%q},`+
		`"created":%q,"health":{"min_healthy_time":"3s","healthy_deadline":"20s"}}`,
		release.DeploymentSchema, f.seq, f.seq, version, digest, time.Now().UTC().Format(time.RFC3339))
	f.AddTarget("deploy.production.harbor", "deployments/production/harbor.json", []byte(strings.NewReplacer(edits...).Replace(doc)))
	f.publish()
}

// Story 11.
func TestAnUnreachableAndThenExpiredRepositoryStopsChangesAndNothingElse(t *testing.T) {
	s := newStage(t)
	f := s.forge()
	h := s.host("web1", hostSpec{apps: []string{"harbor"}})
	f.deploy("1.0.0", f.release("1.0.0", s.harborTree("1.0.0", "ok")))
	h.waitCommitted("harbor", "1.0.0")
	f.EditOnline(func(_ *metadata.SnapshotType, ts *metadata.TimestampType) {
		ts.Expires = time.Now().UTC().Add(15 * time.Second).Truncate(time.Second)
	})
	f.deploy("1.1.0", f.release("1.1.0", s.harborTree("1.1.0", "ok")))
	h.waitCommitted("harbor", "1.1.0")
	pid := h.mainPID("harbor.service")

	s.server.Down(0)
	h.waitRepository(api.RepositoryUnreachable)
	h.harborAnswers("1.1.0")
	h.waitRepository(api.RepositoryExpired)
	h.waitWhy("harbor", "timestamp", "expired")
	h.harborAnswers("1.1.0")
	if got := h.mainPID("harbor.service"); got != pid {
		t.Errorf("harbor was restarted: %s, was %s", got, pid)
	}
	h.Run(t, "slipway", "revert", "harbor", "--reason", "also without a repository")
	h.waitReverted("harbor", "1.1.0", "1.0.0")
	h.harborAnswers("1.0.0")
	h.JournalInOrder(t, 5*time.Second, daemonLog, `harbor 1\.1\.0 is committed`, `metadata could not be refreshed`, `expired`, `reverting harbor from 1\.1\.0 to 1\.0\.0-`, `harbor is back on 1\.0\.0-`)
}

func (h *fleetHost) waitRepository(want api.RepositoryState) {
	h.t.Helper()
	h.WaitFor(h.t, 30*time.Second, "the repository counts as "+string(want), func(ctx context.Context) error {
		st, err := h.status(ctx)
		if err == nil && st.Repository.State != want {
			err = fmt.Errorf("it is %s: %s", st.Repository.State, st.Repository.Error)
		}
		return err
	})
}

// Story 12, first half: what a server can do.
func TestWhatAServerTampersWithIsRefusedByName(t *testing.T) {
	s := newStage(t)
	h := s.harborHost("web1", hostSpec{})
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	mark := h.Mark(t)
	s.server.Tamper("*.tar.zst", flip)
	s.ship("harbor", "1.1.0", s.harborTree("1.1.0", "ok"), deployment{})
	h.waitWhy("harbor", "cannot stage harbor 1.1.0", "tar.zst", "was signed")
	s.server.Honest()
	s.server.Tamper("*.manifest.json", flip)
	s.ship("harbor", "1.2.0", s.harborTree("1.2.0", "ok"), deployment{})
	h.waitWhy("harbor", "cannot stage harbor 1.2.0", "manifest")
	s.server.Honest()

	// An older timestamp, signed properly: the repository of before.
	old := filepath.Join(s.dir, "old-timestamp")
	if err := os.WriteFile(old, mustRead(t, filepath.Join(s.repo, "metadata", "timestamp.json")), 0o644); err != nil {
		t.Fatal(err)
	}
	s.deploy("harbor", "1.0.0", deployment{})
	h.waitApp("harbor", "the newest deployment", func(a api.AppStatus) bool {
		return a.Deployment != nil && a.Deployment.Version == "1.0.0" && a.Deployment.Sequence == 4
	})
	s.server.Tamper("timestamp.json", func([]byte) []byte { return mustRead(t, old) })
	h.waitRepository(api.RepositoryRefused)
	h.JournalInOrder(t, 10*time.Second, filterAfter(mark), `cannot stage harbor 1\.1\.0.*tar\.zst.*was signed`, `cannot stage harbor 1\.2\.0.*manifest`, `metadata could not be refreshed.*timestamp`)
	if a := h.app("harbor"); a.Version != "1.0.0" || a.LastOutcome.Version != "1.0.0" {
		t.Errorf("something of it was activated: %s", brief(a))
	}
	if left := h.Run(t, "sh", "-c", "ls -A /opt/slipway/harbor/releases | grep -v '^1.0.0-' || true"); left != "" {
		t.Errorf("left behind: %s", left)
	}
	h.harborAnswers("1.0.0")
}

// Story 12, second half: what signers can do, by mistake or on purpose.
func TestWrongEnvironmentsOldSequencesAndOldNewsAreRefusedByName(t *testing.T) {
	s := newStage(t)
	f := s.forge()
	h := s.host("web1", hostSpec{apps: []string{"harbor"}})
	f.deploy("1.0.0", f.release("1.0.0", s.harborTree("1.0.0", "ok")))
	h.waitCommitted("harbor", "1.0.0")
	next := f.release("1.1.0", s.harborTree("1.1.0", "ok"))

	f.deploy("1.1.0", next, `"environment":"production"`, `"environment":"staging"`)
	h.waitWhy("harbor", "refused", "staging")
	f.deploy("1.1.0", next, `"app":"harbor"`, `"app":"nats"`)
	h.waitWhy("harbor", "refused", "nats")
	f.deploy("1.1.0", next, `"sequence":4`, `"sequence":9`, `"created"`, `"not_before":"2099-01-01T00:00:00Z","created"`)
	h.waitWhy("harbor", "2099")
	f.deploy("1.1.0", next)
	h.waitWhy("harbor", "refused", "sequence 5", "already accepted 9")

	// News that are older than the deployment allows: the timestamp's signed time of issue stays, time goes on.
	h.Run(t, "slipway", "hold", "harbor", "--reason", "until the news are old")
	f.seq = 9
	f.deploy("1.1.0", next, `"created"`, `"freshness":"5s","created"`)
	h.waitWhy("harbor", "held")
	h.WaitFor(t, 20*time.Second, "the news are old", func(ctx context.Context) error {
		st, err := h.status(ctx)
		if age := time.Since(st.Repository.Issued); err == nil && age < 6*time.Second {
			err = fmt.Errorf("they are %s old", age)
		}
		return err
	})
	h.Run(t, "slipway", "resume", "harbor")
	h.waitWhy("harbor", "issued", "5s")
	if a := h.app("harbor"); a.Version != "1.0.0" || len(a.Quarantine) > 0 {
		t.Errorf("something of it was activated: %s", brief(a))
	}
	h.harborAnswers("1.0.0")
	f.PublishTimestamp()
	f.publish()
	h.waitCommitted("harbor", "1.1.0")
	h.JournalInOrder(t, 5*time.Second, daemonLog, `harbor 1\.0\.0 is committed`, `refused: .* is for harbor in staging`, `refused: .*is a release of harbor, not of nats`,
		`refused: .*sequence 5, this host has already accepted 9`, `held here`, `issued .*5s`, `harbor 1\.1\.0 is committed`)
}

// Story 25.
func TestUnitsBeyondTheAppsRightsAreRefused(t *testing.T) {
	s := newStage(t)
	f := s.forge()
	h := s.host("web1", hostSpec{apps: []string{"harbor"}})
	f.deploy("1.0.0", f.release("1.0.0", s.harborTree("1.0.0", "ok")))
	h.waitCommitted("harbor", "1.0.0")
	ssh := strings.TrimSpace(h.Try(t, "sh", "-c", "sha256sum /lib/systemd/system/ssh.service; systemctl is-enabled ssh.service").Stdout)

	f.deploy("1.1.0", f.release("1.1.0", s.harborTree("1.1.0", "ok"), `"name": "harbor.service"`, `"name": "ssh.service"`))
	h.waitWhy("harbor", "refused", "ssh.service")
	noUser := s.harborTree("1.2.0", "ok", replaceIn("units/harbor.service", "DynamicUser=yes\n", ""))
	noUser.flags = []string{"--allow-root"}
	f.deploy("1.2.0", f.release("1.2.0", noUser))
	h.waitWhy("harbor", "harbor 1.2.0 is staged but refused", "neither User=harbor nor DynamicUser=yes")
	asRoot := s.harborTree("1.3.0", "ok", replaceIn("units/harbor.service", "DynamicUser=yes\n", "User=root\n"))
	asRoot.flags = []string{"--allow-root"}
	f.deploy("1.3.0", f.release("1.3.0", asRoot))
	h.waitWhy("harbor", "harbor 1.3.0 is staged but refused", "root", "allow_root")
	if a := h.app("harbor"); a.Version != "1.0.0" || a.LastOutcome.Version != "1.0.0" {
		t.Errorf("something of it was activated: %s", brief(a))
	}
	if now := strings.TrimSpace(h.Try(t, "sh", "-c", "sha256sum /lib/systemd/system/ssh.service; systemctl is-enabled ssh.service").Stdout); now != ssh {
		t.Errorf("ssh.service was touched: %s, was %s", now, ssh)
	}
	if h.Try(t, "test", "-e", "/etc/systemd/system/ssh.service").Exit == 0 {
		t.Error("an ssh.service was written")
	}
	h.harborAnswers("1.0.0")
	// With the host's leave the root unit runs.
	h.Write(t, "/etc/slipway/apps.d/harbor.toml", "allow_root = true\n")
	h.waitCommitted("harbor", "1.3.0")
	h.JournalInOrder(t, 5*time.Second, daemonLog, `harbor 1\.0\.0 is committed`, `refused: .*ssh\.service`, `harbor 1\.2\.0 is staged but refused.*User=harbor`,
		`harbor 1\.3\.0 is staged but refused.*allow_root`, `harbor 1\.3\.0 is committed`)
}
