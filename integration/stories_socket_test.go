package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/integration/lab"
)

const (
	loadClients       = 8
	socketActivations = 20
	socketReverts     = 5
)

// behindSocket puts harbor behind a socket that systemd keeps open. Its units do nothing against a release that dies: that is
// Slipway's work.
func behindSocket(tr *tree) {
	tr.files["units/harbor.socket"] = file{data: fmt.Appendf(nil,
		"[Unit]\nDescription=Harbor's socket\n\n[Socket]\nListenStream=0.0.0.0:%d\n\n[Install]\nWantedBy=sockets.target\n", harborPort)}
	tr.files["units/harbor.service"] = file{data: []byte(
		"[Unit]\nDescription=Harbor\n\n[Service]\nType=notify\nDynamicUser=yes\nExecStart=@current@/bin/harbor\n")}
	tr.toml = strings.Replace(tr.toml, `restart = "restart"`,
		"restart = \"socket\"\n\n[[units]]\nname = \"harbor.socket\"\npath = \"units/harbor.socket\"\n", 1)
}

// Story 14.
func TestSocketModeLosesNoRequestOverTwentyActivationsAndFiveReverts(t *testing.T) {
	s := newStage(t)
	h := s.harborHost("busy", hostSpec{}, behindSocket)
	s.publishHarbor(map[string]string{"1.1.0": "ok", "2.0.0": "exit-at-start"}, behindSocket)
	mark := h.Mark(t)

	crowd := startLoad(t, s.lab, fmt.Sprintf("http://%s:%d/version", h.Address, harborPort), loadClients)
	runs, quick := "1.0.0", deployment{minHealthy: "1s"}
	for n := 1; n <= socketActivations; n++ {
		runs = map[string]string{"1.0.0": "1.1.0", "1.1.0": "1.0.0"}[runs]
		s.deploy("harbor", runs, quick)
		h.waitCommitted("harbor", runs)
		if n%(socketActivations/socketReverts) == 0 {
			s.deploy("harbor", "2.0.0", quick)
			h.waitOutcome("harbor", api.ResultReverted, "2.0.0", runs)
		}
	}
	answers, slowest, failures := crowd.end()
	t.Logf("%d requests answered, the slowest took %s, %d failed", answers, slowest, len(failures))
	if len(failures) > 0 {
		t.Errorf("%d of %d requests failed:\n%s", len(failures), answers+len(failures), strings.Join(failures[:min(len(failures), 10)], "\n"))
	}
	if answers < 1000 {
		t.Errorf("only %d requests: that is no load", answers)
	}
	if got := h.outcomes("harbor", "2.0.0"); len(got) != socketReverts {
		t.Errorf("2.0.0 ended as %q, want %d reverts", got, socketReverts)
	}
	h.JournalInOrder(t, 5*time.Second, lab.Filter{After: mark}, `activating harbor 1\.1\.0 \(was 1\.0\.0-`, `harbor 1\.1\.0 is committed`,
		`activating harbor 2\.0\.0`, `reverting harbor from 2\.0\.0 to 1\.0\.0-`, `harbor is back on 1\.0\.0-`, `activating harbor 1\.1\.0`)
	h.neverSaid(lab.Filter{After: mark}, `harbor\.socket: Failed|Closed .*Harbor's socket`)
	h.harborAnswers(runs)
}
