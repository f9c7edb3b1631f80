package integration

import (
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/integration/lab"
)

func filterAfter(mark string) lab.Filter { return lab.Filter{After: mark} }

// Story 3. The real program with a flag it does not know.
func TestAReleaseThatExitsAtStartIsReverted(t *testing.T) {
	s := newStage(t)
	s.ship("nats", "2.15.1", natsTree(t, "2.15.1"), deployment{})
	h := s.host("web1", hostSpec{apps: []string{"nats"}})
	h.waitCommitted("nats", "2.15.1")
	s.ship("nats", "2.15.2", natsTree(t, "2.15.2", "--no-such-flag"), deployment{})
	a := h.waitReverted("nats", "2.15.2", "2.15.1")
	if q := quarantined(a, "2.15.2"); q.Cause != "unhealthy" {
		t.Errorf("quarantined as %s: %s", q.Cause, q.Reason)
	}
	h.natsAnswers("2.15.1")
	h.JournalInOrder(t, 5*time.Second, daemonLog, `nats 2\.15\.2 is in trial`, `reverting nats from 2\.15\.2 to 2\.15\.1-`, `nats is back on 2\.15\.1-`)
	// What failed here is not tried again by itself, and says so.
	h.waitWhy("nats", "2.15.2", "quarantine")
	// A new deployment of the mended release is.
	s.ship("nats", "2.15.2-1", natsTree(t, "2.15.2"), deployment{})
	h.waitCommitted("nats", "2.15.2-1")
	h.natsAnswers("2.15.2")
}

// Story 4.
func TestAReleaseThatTurnsUnhealthyDuringTheTrialIsReverted(t *testing.T) {
	s := newStage(t)
	h := s.harborHost("web1", hostSpec{})
	s.ship("harbor", "1.1.0", s.harborTree("1.1.0", "unhealthy-after=3s"), deployment{minHealthy: "8s", deadline: "30s"})
	h.waitTrial("harbor", "1.1.0")
	h.waitApp("harbor", "healthy for a while", func(a api.AppStatus) bool { return a.Trial != nil && a.Trial.HealthyFor > 0 })
	a := h.waitReverted("harbor", "1.1.0", "1.0.0")
	if q := quarantined(a, "1.1.0"); q.Cause != "unhealthy" || !strings.Contains(q.Reason, "503") {
		t.Errorf("quarantined as %s: %s", q.Cause, q.Reason)
	}
	h.harborAnswers("1.0.0")
	h.JournalInOrder(t, 5*time.Second, daemonLog, `harbor 1\.1\.0 is in trial`, `reverting harbor from 1\.1\.0 to 1\.0\.0-`, `harbor is back on 1\.0\.0-`)
	if guards := h.Run(t, "systemctl", "list-units", "--all", "--plain", "--no-legend", "slipway-guard*"); guards != "" {
		t.Errorf("guards are left: %s", guards)
	}
}

// Story 5. Twice: a start that never ends, and a process that runs and never answers.
func TestAReleaseThatHangsIsRevertedAtTheDeadline(t *testing.T) {
	for name, edit := range map[string]func(*tree){
		"in its start": replaceIn("units/harbor.service", "DynamicUser=yes", "DynamicUser=yes\nType=notify\nTimeoutStartSec=infinity"),
		"in its work":  replaceIn("", `start_period = "1s"`, `start_period = "1m"`),
	} {
		t.Run(strings.ReplaceAll(name, " ", ""), func(t *testing.T) {
			s := newStage(t)
			h := s.harborHost("web1", hostSpec{})
			s.ship("harbor", "1.1.0", s.harborTree("1.1.0", "deaf", edit), deployment{minHealthy: "1s", deadline: "11s"})
			h.waitApp("harbor", "being tried", func(a api.AppStatus) bool { return a.Version == "1.1.0" })
			began := time.Now()
			a := h.waitReverted("harbor", "1.1.0", "1.0.0")
			if took := time.Since(began); took < 5*time.Second {
				t.Errorf("reverted after %s, long before its deadline", took)
			}
			if q := quarantined(a, "1.1.0"); q.Cause != "unhealthy" {
				t.Errorf("quarantined as %s: %s", q.Cause, q.Reason)
			}
			h.harborAnswers("1.0.0")
			h.JournalInOrder(t, 5*time.Second, daemonLog, `activating harbor 1\.1\.0`, `reverting harbor from 1\.1\.0 to 1\.0\.0-.*(not healthy for 1s within 11s|did not start within)`, `harbor is back on 1\.0\.0-`)
		})
	}
}

// Story 6.
func TestTheGuardRevertsWhenTheDaemonIsKilledOrStopped(t *testing.T) {
	for name, take := range map[string]func(h *fleetHost){
		"Killed": func(h *fleetHost) {
			h.Run(h.t, "systemctl", "mask", "--runtime", "slipwayd.service")
			h.Run(h.t, "systemctl", "kill", "--kill-whom=main", "--signal=KILL", "slipwayd.service")
		},
		"Stopped": func(h *fleetHost) {
			h.Run(h.t, "systemctl", "kill", "--kill-whom=main", "--signal=STOP", "slipwayd.service")
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			h := s.harborHost("web1", hostSpec{})
			// The watchdog would be faster than the guard, which has to do without it here.
			h.Write(t, "/etc/systemd/system/slipwayd.service.d/story.conf", "[Service]\nWatchdogSec=0\n")
			h.Run(t, "systemctl", "daemon-reload")
			h.Run(t, "systemctl", "restart", "slipwayd.service")
			s.ship("harbor", "1.1.0", s.harborTree("1.1.0", "ok"), deployment{minHealthy: "5s", deadline: "15s"})
			h.waitTrial("harbor", "1.1.0")
			take(h)
			h.WaitFor(t, 60*time.Second, "the guard reverts", h.currentIs("harbor", "1.0.0"))
			h.harborAnswers("1.0.0")
			h.JournalInOrder(t, 20*time.Second, lab.Filter{Boot: "0"}, `harbor 1\.1\.0 is in trial`, `Start.*slipway-guard@harbor:`,
				`reverting harbor from 1\.1\.0 to 1\.0\.0-.*the deadline passed and slipwayd did not end the trial`)
			if name == "Killed" {
				h.Run(t, "systemctl", "unmask", "--runtime", "slipwayd.service")
				h.Run(t, "systemctl", "start", "slipwayd.service")
			} else {
				h.Run(t, "systemctl", "kill", "--kill-whom=main", "--signal=CONT", "slipwayd.service")
			}
			a := h.waitReverted("harbor", "1.1.0", "1.0.0")
			if q := quarantined(a, "1.1.0"); q.Cause != "guard" {
				t.Errorf("quarantined as %s: %s", q.Cause, q.Reason)
			}
		})
	}
}

// Story 15.
func TestAFirstInstallationThatFailsLeavesNothingRunningAndSaysSo(t *testing.T) {
	s := newStage(t)
	s.ship("harbor", "1.0.0", s.harborTree("1.0.0", "unhealthy"), deployment{})
	h := s.host("web1", hostSpec{apps: []string{"harbor"}})
	h.waitReverted("harbor", "1.0.0", "")
	if r := h.Try(t, "readlink", "/opt/slipway/harbor/current"); r.Exit == 0 {
		t.Errorf("`current` names %s", r.Stdout)
	}
	if r := h.Try(t, "systemctl", "is-active", "harbor.service"); strings.TrimSpace(r.Stdout) == "active" {
		t.Error("harbor still runs")
	}
	if left := h.Run(t, "find", "/etc/systemd/system", "-name", "harbor*"); left != "" {
		t.Errorf("unit files are left: %s", left)
	}
	h.JournalInOrder(t, 5*time.Second, daemonLog, `harbor 1\.0\.0 is in trial`, `reverting harbor from 1\.0\.0 to nothing`,
		`harbor 1\.0\.0 failed and there is nothing to go back to: its units are stopped and .current. is absent`)
	s.ship("harbor", "1.0.1", s.harborTree("1.0.1", "ok"), deployment{})
	h.waitCommitted("harbor", "1.0.1")
}

// Story 22.
func TestADamagedFallbackIsFoundBeforeTheActivation(t *testing.T) {
	s := newStage(t)
	h := s.harborHost("web1", hostSpec{})
	h.Run(t, "sh", "-c", "echo damage >> /opt/slipway/harbor/current/bin/version")
	pid := h.mainPID("harbor.service")
	s.ship("harbor", "1.1.0", s.harborTree("1.1.0", "ok"), deployment{})
	why := h.waitWhy("harbor", "damaged", "bin/version")
	a := h.app("harbor")
	if a.Version != "1.0.0" || h.mainPID("harbor.service") != pid {
		t.Errorf("it was touched although it could not be gone back to: %s", brief(a))
	}
	t.Log(why)
	h.JournalInOrder(t, 5*time.Second, daemonLog, `harbor 1\.0\.0 is committed`, `1\.0\.0-[0-9a-f]+ is damaged: 1 differences.*bin/version`)
}

// Story 26.
func TestAnAppThatWasAlreadyFailingIsNotCommittedByItself(t *testing.T) {
	s := newStage(t)
	h := s.harborHost("web1", hostSpec{})
	h.Run(t, "systemctl", "stop", "harbor.service")
	s.ship("harbor", "1.1.0", s.harborTree("1.1.0", "ok"), deployment{})
	h.waitApp("harbor", "1.1.0 ends as failed-before", func(a api.AppStatus) bool {
		return a.Phase == "idle" && a.LastOutcome != nil && a.LastOutcome.Result == api.ResultFailedBefore
	})
	h.harborAnswers("1.1.0")
	h.JournalInOrder(t, 5*time.Second, daemonLog, `activating harbor 1\.1\.0`, `harbor 1\.1\.0 is healthy and stays, but 1\.0\.0 was already failing before the swap`)
	if got, err := h.Journal(t.Context(), daemonLog); err != nil || strings.Contains(join(got), "harbor 1.1.0 is committed") {
		t.Errorf("it was committed (%v)", err)
	}
	h.waitWhy("harbor", "not recorded as known good")
	h.Run(t, "slipway", "retry", "harbor")
	h.waitTrial("harbor", "1.1.0")
}

func join(entries []lab.Entry) string {
	var b strings.Builder
	for _, e := range entries {
		b.WriteString(e.Message + "\n")
	}
	return b.String()
}
