package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/integration/lab"
)

// Story 1.
func TestAFreshHostInstallsItsFirstDeploymentAndCommitsIt(t *testing.T) {
	s := newStage(t)
	h := s.host("web1", hostSpec{apps: []string{"nats"}})
	h.waitWhy("nats", "no deployment of nats is signed for production")
	s.ship("nats", "2.15.1", natsTree(t, "2.15.1"), deployment{})
	h.waitCommitted("nats", "2.15.1")
	h.natsAnswers("2.15.1")
	if user := strings.TrimSpace(h.Run(t, "ps", "-o", "user=", "-p", h.mainPID("nats.service"))); user != "nats" {
		t.Errorf("nats-server runs as %q", user)
	}
	h.JournalInOrder(t, 5*time.Second, daemonLog, `staging nats 2\.15\.1`, `activating nats 2\.15\.1 \(was nothing\)`, `nats 2\.15\.1 is in trial`, `nats 2\.15\.1 is committed: healthy for 3s`)
}

// Story 2.
func TestAnUpgradeCommitsAndKeepsTheOldRelease(t *testing.T) {
	s := newStage(t)
	s.ship("nats", "2.15.1", natsTree(t, "2.15.1"), deployment{})
	h := s.host("web1", hostSpec{apps: []string{"nats"}})
	old := h.waitCommitted("nats", "2.15.1")
	s.ship("nats", "2.15.2", natsTree(t, "2.15.2"), deployment{})
	now := h.waitCommitted("nats", "2.15.2")
	h.natsAnswers("2.15.2")
	if now.Fallback != old.Current {
		t.Errorf("the fallback is %q, not %q", now.Fallback, old.Current)
	}
	h.Run(t, "test", "-x", "/opt/slipway/nats/releases/"+old.Current+"/bin/nats-server")
	h.JournalInOrder(t, 5*time.Second, daemonLog, `nats 2\.15\.1 is committed`, `staging nats 2\.15\.2`, `activating nats 2\.15\.2 \(was 2\.15\.1-`, `nats 2\.15\.2 is in trial`, `nats 2\.15\.2 is committed`)
	h.MustReboot(t)
	h.natsAnswers("2.15.2")
	h.waitCommitted("nats", "2.15.2")
}

// Story 18. The package leaves; what it deployed stays and runs.
func TestADeployedAppOutlivesRemovalPurgeAndReinstallationOfThePackage(t *testing.T) {
	s := newStage(t)
	h := s.harborHost("web1", hostSpec{})
	pid, mark := h.mainPID("harbor.service"), h.Mark(t)
	h.Run(t, "dpkg", "--remove", "slipway")
	h.harborAnswers("1.0.0")
	h.reinstall(storyVersion)
	h.waitCommitted("harbor", "1.0.0")
	h.Run(t, "dpkg", "--purge", "slipway")
	h.gone = true
	h.harborAnswers("1.0.0")
	h.wholeCurrent("harbor")
	if got := h.mainPID("harbor.service"); got != pid {
		t.Errorf("harbor was restarted on the way: main PID %s, was %s", got, pid)
	}
	h.MustReboot(t)
	h.harborAnswers("1.0.0")
	h.reinstall(storyVersion)
	h.gone = false
	h.configure(hostSpec{apps: []string{"harbor"}})
	s.ship("harbor", "1.1.0", s.harborTree("1.1.0", "ok"), deployment{})
	h.waitCommitted("harbor", "1.1.0")
	h.harborAnswers("1.1.0")
	h.JournalInOrder(t, 5*time.Second, lab.Filter{After: mark}, `Stopped.*slipwayd\.service`, `slipwayd runs`, `Stopped.*slipwayd\.service`,
		`slipwayd runs`, `activating harbor 1\.1\.0 \(was 1\.0\.0-`, `harbor 1\.1\.0 is committed`)
}

func (h *fleetHost) reinstall(version string) {
	h.t.Helper()
	if _, err := h.InstallDeb(h.t.Context(), packages(h.t, version, "").Deb); err != nil {
		h.t.Fatal(err)
	}
}

// Story 19. The same with rpm.
func TestAnRPMHostDeploysUpgradesAndErasesAroundALivingApp(t *testing.T) {
	s := newStage(t)
	s.ship("harbor", "1.0.0", s.harborTree("1.0.0", "ok"), deployment{})
	h := s.host("web1", hostSpec{apps: []string{"harbor"}, rpm: true})
	h.Run(t, "systemctl", "start", "slipwayd.socket", "slipwayd-ro.socket")
	h.waitCommitted("harbor", "1.0.0")
	pid, mark := h.mainPID("harbor.service"), h.Mark(t)
	if _, err := h.InstallRPM(t.Context(), packages(t, storyVersion, "").RPM, true); err == nil || !strings.Contains(err.Error(), "already installed") {
		t.Errorf("the same version upgraded itself: %v", err)
	}
	if _, err := h.InstallRPM(t.Context(), lab.Packages(t, upgradedVersion, "").RPM, true); err != nil {
		t.Fatal(err)
	}
	if got := slipwaydVersion(t, h.Host); got != upgradedVersion {
		t.Errorf("running version after the upgrade %q, want %s", got, upgradedVersion)
	}
	h.waitCommitted("harbor", "1.0.0")
	if got := h.mainPID("harbor.service"); got != pid {
		t.Errorf("harbor was restarted by the upgrade: main PID %s, was %s", got, pid)
	}
	s.ship("harbor", "1.1.0", s.harborTree("1.1.0", "ok"), deployment{})
	h.waitCommitted("harbor", "1.1.0")
	pid = h.mainPID("harbor.service")
	h.Run(t, "rpm", "--erase", "--nodeps", "slipway")
	h.gone = true
	h.harborAnswers("1.1.0")
	h.wholeCurrent("harbor")
	if got := h.mainPID("harbor.service"); got != pid {
		t.Errorf("harbor was restarted by the removal: main PID %s, was %s", got, pid)
	}
	h.JournalInOrder(t, 5*time.Second, lab.Filter{After: mark}, `Stopped.*slipwayd\.service`, `slipwayd runs`, `harbor 1\.1\.0 is committed`, `Stopped.*slipwayd\.service`)
	h.MustReboot(t)
	h.harborAnswers("1.1.0")
}

// Story 13.
func TestEachEnvironmentRunsOnlyWhatItsOwnApproversSigned(t *testing.T) {
	s := newStage(t)
	for _, v := range []string{"1.0.0", "2.0.0"} {
		s.publishRelease("harbor", v, s.harborTree(v, "ok"))
	}
	production := s.host("prod1", hostSpec{apps: []string{"harbor"}})
	staging := s.host("stage1", hostSpec{apps: []string{"harbor"}, env: "staging"})
	s.deploy("harbor", "2.0.0", deployment{env: "staging"})
	staging.waitCommitted("harbor", "2.0.0")
	if a := production.app("harbor"); a.Current != "" || !strings.Contains(a.Why, "no deployment of harbor is signed for production") {
		t.Errorf("production followed staging: %s", brief(a))
	}
	s.deploy("harbor", "1.0.0", deployment{})
	production.waitCommitted("harbor", "1.0.0")
	production.Run(t, "slipway", "refresh")
	staging.Run(t, "slipway", "refresh")
	for h, want := range map[*fleetHost]string{production: "1.0.0", staging: "2.0.0"} {
		h.waitApp("harbor", "settled on "+want, func(a api.AppStatus) bool {
			return strings.Contains(a.Why, fmt.Sprintf("harbor %s runs, as signed", want))
		})
		h.harborAnswers(want)
	}
	production.JournalInOrder(t, 5*time.Second, daemonLog, `no deployment of harbor is signed for production`, `activating harbor 1\.0\.0`, `harbor 1\.0\.0 is committed`)
	staging.JournalInOrder(t, 5*time.Second, daemonLog, `no deployment of harbor is signed for staging`, `activating harbor 2\.0\.0`, `harbor 2\.0\.0 is committed`)
	production.neverSaid(daemonLog, `(staging|activating) harbor 2\.0\.0`)
	staging.neverSaid(daemonLog, `(staging|activating) harbor 1\.0\.0`)
	for _, r := range s.server.Requests() {
		foreign := map[string]string{production.Address: "/deployments/staging/", staging.Address: "/deployments/production/"}[r.From]
		if foreign != "" && strings.Contains(r.Path, foreign) {
			t.Errorf("a host asked for another environment's %s", r.Path)
		}
	}
}

// Story 16.
func TestABrokenAppNeverDisturbsItsNeighbour(t *testing.T) {
	s := newStage(t)
	s.ship("harbor", "1.0.0", s.harborTree("1.0.0", "ok"), deployment{})
	s.ship("nats", "2.15.1", natsTree(t, "2.15.1"), deployment{})
	h := s.host("web1", hostSpec{apps: []string{"harbor", "nats"}})
	h.waitCommitted("nats", "2.15.1")
	h.waitCommitted("harbor", "1.0.0")
	pid := h.mainPID("nats.service")
	mark := h.Mark(t)
	s.ship("harbor", "1.1.0", s.harborTree("1.1.0", "exit-at-start"), deployment{})
	h.waitReverted("harbor", "1.1.0", "1.0.0")
	if got := h.mainPID("nats.service"); got != pid {
		t.Errorf("nats noticed: main PID %s, was %s", got, pid)
	}
	h.natsAnswers("2.15.1")
	// A state that cannot be read is one app's trouble too.
	h.Write(t, "/var/lib/slipway/apps/harbor/state.json", "{")
	s.ship("nats", "2.15.2", natsTree(t, "2.15.2"), deployment{})
	h.waitCommitted("nats", "2.15.2")
	if pid == h.mainPID("nats.service") {
		t.Error("the upgrade of nats did not restart it")
	}
	entries := h.JournalInOrder(t, 5*time.Second, filterAfter(mark), `reverting harbor from 1\.1\.0`, `harbor is back on 1\.0\.0`, `activating nats 2\.15\.2`, `nats 2\.15\.2 is committed`)
	for _, e := range entries[:2] {
		if e.Fields["SLIPWAY_APP"] != "harbor" {
			t.Errorf("not marked as harbor's: %s", e)
		}
	}
}
