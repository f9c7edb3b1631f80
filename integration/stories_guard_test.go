package integration

import (
	"context"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/integration/lab"
)

// commitRaces are the ways in which a guard can meet a daemon that is committing: on each host the daemon stops at a
// failpoint, with the app's lock held, until its guard has fired.
var commitRaces = []struct {
	host, failpoint string
	resume          bool // the daemon goes on while the guard still waits for the lock
	result, runs    string
	want            []string
	never           string
}{
	{
		host: "hung-before", failpoint: "agent.commit.verdict", result: api.ResultReverted, runs: "1.0.0",
		want:  []string{`harbor 1\.1\.0 is in trial`, `guard of harbor did not get the lock .* ends slipwayd`, `reverting harbor from 1\.1\.0 to 1\.0\.0`, `harbor is back on 1\.0\.0`},
		never: `harbor 1\.1\.0 is committed`,
	},
	{
		host: "hung-after", failpoint: "agent.commit.saved", result: api.ResultCommitted, runs: "1.1.0",
		want:  []string{`harbor 1\.1\.0 is in trial`, `harbor 1\.1\.0 is committed`, `guard of harbor did not get the lock .* ends slipwayd`},
		never: `reverting harbor`,
	},
	{
		host: "slow", failpoint: "agent.commit.verdict", resume: true, result: api.ResultCommitted, runs: "1.1.0",
		want:  []string{`harbor 1\.1\.0 is in trial`, `Starting .*Slipway guard of harbor`, `harbor 1\.1\.0 is committed`},
		never: `reverting harbor|did not get the lock`,
	},
}

// Story 27.
func TestAGuardThatFiresDuringTheCommitLeavesExactlyOneOutcome(t *testing.T) {
	s := newStage(t)
	var hosts []*fleetHost
	s.publishHarbor(map[string]string{"1.0.0": "ok", "1.1.0": "ok"})
	s.deploy("harbor", "1.0.0", deployment{})
	for _, race := range commitRaces {
		h := s.host(race.host, hostSpec{apps: []string{"harbor"}, tags: "failpoints"})
		h.waitCommitted("harbor", "1.0.0")
		h.pauseAt(race.failpoint)
		hosts = append(hosts, h)
	}
	s.deploy("harbor", "1.1.0", deployment{minHealthy: "1s", deadline: "11s"})
	for i, race := range commitRaces {
		h := hosts[i]
		h.waitPaused()
		h.WaitFor(t, 45*time.Second, "the guard fires", func(ctx context.Context) error { return h.guardIs(ctx, "activating") })
		if race.resume {
			h.resume()
		}
	}
	for i, race := range commitRaces {
		h := hosts[i]
		h.JournalInOrder(t, 30*time.Second, lab.Filter{}, race.want...)
		h.waitOutcome("harbor", race.result, "1.1.0", race.runs)
		h.nothingArmed("harbor")
		h.neverSaid(lab.Filter{}, race.never)
		if got := h.outcomes("harbor", "1.1.0"); len(got) != 1 || got[0] != race.result {
			t.Errorf("%s: 1.1.0 ended as %q, want one %s", race.host, got, race.result)
		}
		h.harborAnswers(race.runs)
	}
}

// guardGrace is how long after the trial's own deadline its guard fires.
const guardGrace = 15 * time.Second

// Story 28.
func TestAGuardFiresOnTimeThroughADaemonReloadEveryTwoSeconds(t *testing.T) {
	s := newStage(t)
	h := s.harborHost("reloaded", hostSpec{})
	mark := h.Mark(t)
	s.ship("harbor", "1.1.0", s.harborTree("1.1.0", "ok"), deployment{minHealthy: "5s", deadline: "15s"})
	h.waitTrial("harbor", "1.1.0")
	due := h.deadline("harbor") + guardGrace
	sockets := []string{"slipwayd.socket", "slipwayd-ro.socket", "slipwayd.service"}
	h.Run(t, append([]string{"systemctl", "stop"}, sockets...)...)

	reloads := 0
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	h.WaitFor(t, 60*time.Second, "the guard reverts", func(ctx context.Context) error {
		select {
		case <-tick.C:
			h.Run(t, "systemctl", "daemon-reload")
			reloads++
		default:
		}
		got, err := h.ReadFile("/opt/slipway/harbor/current/bin/version")
		if err == nil && string(got) != "1.0.0\n" {
			err = errCurrent(got)
		}
		return err
	})
	if reloads < 8 {
		t.Errorf("only %d reloads during the trial", reloads)
	}
	fired := h.JournalInOrder(t, 10*time.Second, lab.Filter{After: mark},
		`harbor 1\.1\.0 is in trial`, `Starting .*Slipway guard of harbor`, `reverting harbor from 1\.1\.0 to 1\.0\.0[^:]*: .*deadline`)[1]
	if late := fired.Monotonic - due; late < -200*time.Millisecond || late > time.Second {
		t.Errorf("the guard fired %s after its deadline on the boot clock", late)
	}
	h.harborAnswers("1.0.0")
	h.Run(t, append([]string{"systemctl", "start"}, sockets...)...)
	a := h.waitOutcome("harbor", api.ResultReverted, "1.1.0", "1.0.0")
	if q := quarantined(a, "1.1.0"); q == nil || q.Cause != "guard" {
		t.Errorf("quarantine: %+v", q)
	}
	h.nothingArmed("harbor")
}

type errCurrent []byte

func (e errCurrent) Error() string { return "current is " + string(e) }

// Story 29.
func TestABootGuardianThatExitsWith1KeepsOnlyAnUntriedReleaseFromStarting(t *testing.T) {
	bootWithout(t, "[Service]\nExecStart=\nExecStart=/bin/false\n")
}

// Story 29.
func TestABootGuardianThatHangsKeepsOnlyAnUntriedReleaseFromStarting(t *testing.T) {
	bootWithout(t, "[Service]\nExecStart=\nExecStart=/bin/sleep infinity\nTimeoutStartSec=2s\n")
}

func bootWithout(t *testing.T, guardian string) {
	const dropIn = "/etc/systemd/system/slipway-boot.service.d/broken.conf"
	s := newStage(t)
	h := s.harborHost("broken", hostSpec{})
	h.Write(t, dropIn, guardian)
	h.crashAndBoot()
	h.harborAnswers("1.0.0")

	// No trial begins that nobody would settle at a boot, until the guardian works again.
	pid := h.mainPID("harbor.service")
	s.ship("harbor", "1.1.0", s.harborTree("1.1.0", "ok"), deployment{minHealthy: "60s", deadline: "120s"})
	h.waitWhy("harbor", "harbor 1.1.0 is staged but refused", "the boot guardian slipway-boot.service failed on this host", "restart slipwayd")
	if got := h.mainPID("harbor.service"); got != pid {
		t.Errorf("the running app was touched: main PID %s, was %s", got, pid)
	}
	h.Run(t, "rm", dropIn)
	h.Run(t, "systemctl", "daemon-reload")
	h.Run(t, "systemctl", "restart", "slipwayd.service")
	h.waitTrial("harbor", "1.1.0")
	h.harborAnswers("1.1.0")

	h.Write(t, dropIn, guardian)
	mark := h.Mark(t)
	h.crashAndBoot()
	// That a dependency of harbor failed is often said before the journal listens: what counts is that 1.1.0 never started.
	h.JournalInOrder(t, 30*time.Second, lab.Filter{After: mark}, `reverting harbor from 1\.1\.0 to 1\.0\.0`, `harbor 1\.0\.0 starts`)
	h.waitOutcome("harbor", api.ResultReverted, "1.1.0", "1.0.0")
	h.harborAnswers("1.0.0")
	h.neverSaid(lab.Filter{Boot: "0"}, `harbor 1\.1\.0 starts`)
}
