package integration

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/integration/lab"
)

const upgradedVersion = "0.1.0~story2"

// Story 17.
func TestAPackageUpgradeInTheMiddleOfATrialLosesNeitherTheAppNorTheTrial(t *testing.T) {
	s := newStage(t)
	next := lab.Packages(t, upgradedVersion, "")
	h := s.harborHost("upgraded", hostSpec{})
	s.publishHarbor(map[string]string{"1.1.0": "ok", "1.2.0": "unhealthy-after=8s"})

	mark := h.Mark(t)
	s.deploy("harbor", "1.1.0", deployment{minHealthy: "8s", deadline: "30s"})
	attempt, pid := h.waitTrial("harbor", "1.1.0").Trial.Attempt, h.mainPID("harbor.service")
	installDeb(t, h.Host, next.Deb)
	if got := slipwaydVersion(t, h.Host); got != upgradedVersion {
		t.Errorf("running version after the upgrade %q, want %s", got, upgradedVersion)
	}
	a := h.waitOutcome("harbor", api.ResultCommitted, "1.1.0", "1.1.0")
	if a.LastOutcome.Attempt != attempt {
		t.Errorf("the upgrade cost the trial: attempt %s was committed, %s was in flight", a.LastOutcome.Attempt, attempt)
	}
	if got := h.mainPID("harbor.service"); got != pid {
		t.Errorf("the app was restarted by the upgrade: main PID %s, was %s", got, pid)
	}
	h.JournalInOrder(t, 5*time.Second, lab.Filter{After: mark}, `harbor 1\.1\.0 is in trial`, `slipwayd runs`, `harbor 1\.1\.0 is committed`)
	h.nothingArmed("harbor")

	mark = h.Mark(t)
	s.deploy("harbor", "1.2.0", deployment{minHealthy: "12s", deadline: "40s"})
	h.waitTrial("harbor", "1.2.0")
	h.Run(t, "dpkg", "--install", "/root/"+filepath.Base(next.Deb))
	h.waitReverted("harbor", "1.2.0", "1.1.0")
	h.JournalInOrder(t, 5*time.Second, lab.Filter{After: mark},
		`harbor 1\.2\.0 is in trial`, `slipwayd runs`, `reverting harbor from 1\.2\.0 to 1\.1\.0`, `harbor is back on 1\.1\.0`)
	h.harborAnswers("1.1.0")
	h.nothingArmed("harbor")
}
