package integration

import (
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/integration/lab"
)

func (h *fleetHost) waitHealthyTrial(app, version string) {
	h.t.Helper()
	h.waitApp(app, version+" is in trial and healthy so far", func(a api.AppStatus) bool {
		return a.Version == version && a.Trial != nil && a.Trial.HealthyFor > 0
	})
}

// crash kills the host and boots it again; the boot must end well.
func (h *fleetHost) crash() {
	h.t.Helper()
	if err := h.KillLeader(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
	h.MustBoot(h.t)
}

// Story 7, first half.
func TestARebootBeforeTheFirstHealthRevertsBeforeTheAppStarts(t *testing.T) {
	s := newStage(t)
	h := s.harborHost("web1", hostSpec{})
	never := s.harborTree("1.1.0", "deaf", replaceIn("", `start_period = "1s"`, `start_period = "2m"`))
	s.ship("harbor", "1.1.0", never, deployment{deadline: "3m"})
	h.waitTrial("harbor", "1.1.0")
	h.MustReboot(t)
	h.JournalInOrder(t, 10*time.Second, lab.Filter{Boot: "0"}, `reverting harbor from 1\.1\.0 to 1\.0\.0-.*rebooted before the release was healthy once`,
		`Finished.*slipway-boot`, `Started.*harbor\.service`, `harbor is back on 1\.0\.0-`)
	h.waitReverted("harbor", "1.1.0", "1.0.0")
	h.harborAnswers("1.0.0")
	if started, err := h.Journal(t.Context(), lab.Filter{Boot: "0", Unit: "harbor.service"}); err != nil {
		t.Error(err)
	} else if _, err := lab.InOrder(started, `harbor 1\.1\.0 starts`); err == nil {
		t.Error("the untried release was started at the boot")
	}
}

// Story 7, second half.
func TestARebootOfAHealthyTrialContinuesItAndThenCommits(t *testing.T) {
	s := newStage(t)
	h := s.harborHost("web1", hostSpec{})
	s.ship("harbor", "1.1.0", s.harborTree("1.1.0", "ok"), deployment{minHealthy: "6s", deadline: "30s"})
	h.waitHealthyTrial("harbor", "1.1.0")
	h.MustReboot(t)
	h.waitCommitted("harbor", "1.1.0")
	h.harborAnswers("1.1.0")
	h.JournalInOrder(t, 10*time.Second, lab.Filter{Boot: "0"}, `the trial of harbor 1\.1\.0 goes on after a reboot`, `Started.*harbor\.service`, `harbor 1\.1\.0 is committed: healthy for 6s`)
	if drop := h.Run(t, "sh", "-c", "ls /etc/systemd/system/harbor.service.d"); drop != "10-slipway.conf\n" {
		t.Logf("drop-ins after the commit: %s", drop)
	}
}

// Story 8.
func TestATrialOnAHostThatCrashesAgainAndAgainIsReverted(t *testing.T) {
	s := newStage(t)
	h := s.harborHost("web1", hostSpec{})
	s.ship("harbor", "1.1.0", s.harborTree("1.1.0", "ok"), deployment{minHealthy: "60s", deadline: "120s"})
	h.waitHealthyTrial("harbor", "1.1.0")
	h.crash()
	h.waitTrial("harbor", "1.1.0")
	h.crash()
	a := h.waitReverted("harbor", "1.1.0", "1.0.0")
	if q := quarantined(a, "1.1.0"); q.Cause != "interrupted" {
		t.Errorf("quarantined as %s: %s", q.Cause, q.Reason)
	}
	h.harborAnswers("1.0.0")
	h.JournalInOrder(t, 10*time.Second, lab.Filter{Boot: "-1"}, `the trial of harbor 1\.1\.0 goes on after a reboot`)
	h.JournalInOrder(t, 10*time.Second, lab.Filter{Boot: "0"}, `reverting harbor from 1\.1\.0 to 1\.0\.0-.*the host rebooted 2 times during the trial`, `Started.*harbor\.service`)
}
