package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/integration/lab"
)

// Story 9. The table of every failpoint is package agent's; here a whole host loses its power at the steps of an activation, a
// commit and a revert.
func TestAPowerCutAtAnyStepLeavesACompleteReleaseRunning(t *testing.T) {
	s := newStage(t)
	h := s.harborHost("cut", hostSpec{tags: "failpoints", lab: lab.HostOptions{Loop: true}})
	// What the test itself wrote to the host is not what is to be shown.
	h.Run(t, "sync")
	good := "1.0.0"
	for i, cut := range []struct {
		failpoint, behaviour string
		// result is how the attempt that was cut ends; an aborted one never touched the app and is made again.
		result string
		// says is what the next boot tells of VERSION, in order.
		says []string
	}{
		{"agent.activate.attempt-saved", "ok", "aborted",
			[]string{`harbor VERSION was given up before the swap`, `harbor VERSION is in trial`, `harbor VERSION is committed`}},
		{"agent.activate.swapped", "ok", api.ResultReverted,
			[]string{`reverting harbor from VERSION to GOOD-`, `Finished.*slipway-boot`, `harbor is back on GOOD-`}},
		{"agent.activate.units-written", "ok", api.ResultReverted,
			[]string{`reverting harbor from VERSION to GOOD-`, `Finished.*slipway-boot`, `harbor is back on GOOD-`}},
		{"agent.commit.saved", "ok", api.ResultCommitted, []string{`Finished.*slipway-boot`, `slipwayd runs`}},
		{"agent.revert.saved", "exit-at-start", api.ResultReverted, []string{`Finished.*slipway-boot`, `harbor is back on GOOD-`}},
		{"agent.revert.swapped", "exit-at-start", api.ResultReverted, []string{`Finished.*slipway-boot`, `harbor is back on GOOD-`}},
	} {
		version := fmt.Sprintf("1.%d.0", i+1)
		s.publishRelease("harbor", version, s.harborTree(version, cut.behaviour))
		h.pauseAt(cut.failpoint)
		s.deploy("harbor", version, deployment{})
		h.waitPaused()
		// Makes ext4 commit its journal: names become durable, and what is behind them only if somebody synced that.
		h.Run(t, "sh", "-c", "echo x >/root/unrelated && sync /root/unrelated")
		if err := h.PowerCut(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.wholeCurrent("harbor")
		h.MustBoot(t)
		if cut.result != api.ResultReverted {
			good = version
		} else {
			h.neverSaid(lab.Filter{Boot: "0"}, "harbor "+strings.ReplaceAll(version, ".", `\.`)+" starts")
		}
		h.waitApp("harbor", good+" runs after a power cut at "+cut.failpoint, func(a api.AppStatus) bool {
			return a.Version == good && a.Phase == "idle"
		})
		if got := h.outcomes("harbor", version); len(got) == 0 || got[0] != cut.result {
			t.Errorf("cut at %s: the attempt ended as %q, want %s", cut.failpoint, got, cut.result)
		}
		h.harborAnswers(good)
		h.Run(t, "slipway", "verify", "harbor")
		h.nothingArmed("harbor")
		says := strings.NewReplacer("VERSION", strings.ReplaceAll(version, ".", `\.`), "GOOD", strings.ReplaceAll(good, ".", `\.`))
		for n := range cut.says {
			cut.says[n] = says.Replace(cut.says[n])
		}
		h.JournalInOrder(t, 10*time.Second, lab.Filter{Boot: "0"}, cut.says...)
	}
}
