package integration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/integration/lab"
)

// Story 10, first half.
func TestADiskThatIsFullWhileStagingIsSaidClearlyAndLeavesTheAppAlone(t *testing.T) {
	s := newStage(t)
	h := s.harborHost("full", hostSpec{lab: lab.HostOptions{DiskMiB: 400}})
	pid := h.mainPID("harbor.service")
	mark := h.Mark(t)

	h.fillDisk(18)
	s.ship("harbor", "1.1.0", s.harborTree("1.1.0", "ok"), deployment{})
	h.waitWhy("harbor", "cannot stage harbor 1.1.0", "not enough space in /opt/slipway/harbor", "MiB are needed and 16 MiB kept in reserve", "more")
	for _, r := range s.server.Requests() {
		if strings.Contains(r.Path, "1.1.0") && strings.HasSuffix(r.Path, ".tar.zst") {
			t.Errorf("an archive that cannot fit was fetched: %+v", r)
		}
	}

	h.freeDisk()
	s.server.Throttle(1 << 20)
	h.Run(t, "slipway", "apply", "--no-wait", "harbor")
	h.waitIncoming(true)
	h.fillDisk(0)
	s.server.Throttle(0)
	h.waitWhy("harbor", "cannot stage harbor 1.1.0", "no space left on device")
	h.waitIncoming(false)
	if got := h.mainPID("harbor.service"); got != pid {
		t.Errorf("the running app was touched: main PID %s, was %s", got, pid)
	}
	h.harborAnswers("1.0.0")

	h.freeDisk()
	h.Run(t, "slipway", "apply", "--no-wait", "harbor")
	h.waitCommitted("harbor", "1.1.0")
	h.JournalInOrder(t, 5*time.Second, lab.Filter{After: mark}, `cannot stage harbor 1\.1\.0: not enough space`, `staging harbor 1\.1\.0`,
		`cannot stage harbor 1\.1\.0.*no space left on device`, `staging harbor 1\.1\.0`, `harbor 1\.1\.0 is committed`)
}

// Story 10, second half.
func TestARevertWorksOnADiskThatFilledUpDuringTheTrial(t *testing.T) {
	s := newStage(t)
	h := s.harborHost("full", hostSpec{lab: lab.HostOptions{DiskMiB: 400}})
	mark := h.Mark(t)
	s.ship("harbor", "1.1.0", s.harborTree("1.1.0", "unhealthy-after=6s"), deployment{minHealthy: "15s", deadline: "30s"})
	h.waitTrial("harbor", "1.1.0")
	h.fillDisk(0)
	h.waitOutcome("harbor", api.ResultReverted, "1.1.0", "1.0.0")
	h.harborAnswers("1.0.0")
	h.wholeCurrent("harbor")
	h.nothingArmed("harbor")
	h.JournalInOrder(t, 5*time.Second, lab.Filter{After: mark}, `harbor 1\.1\.0 is in trial`, `reverting harbor from 1\.1\.0 to 1\.0\.0`, `harbor is back on 1\.0\.0`)

	h.freeDisk()
	s.ship("harbor", "1.2.0", s.harborTree("1.2.0", "ok"), deployment{})
	h.waitCommitted("harbor", "1.2.0")

	// What fills the disk after its trial is taken back by its signers.
	h.fillDisk(0)
	s.deploy("harbor", "1.2.0", deployment{flags: []string{"--state", "revert", "--fallback", "1.0.0"}})
	h.waitOutcome("harbor", api.ResultReverted, "1.2.0", "1.0.0")
	h.harborAnswers("1.0.0")
	h.JournalInOrder(t, 5*time.Second, lab.Filter{After: mark}, `harbor 1\.2\.0 is committed`, `reverting harbor from 1\.2\.0 to 1\.0\.0`, `harbor is back on 1\.0\.0`)
	h.freeDisk()
}

// fillDisk leaves so many MiB of the host's disk, or not one byte.
func (h *fleetHost) fillDisk(leave int) {
	h.t.Helper()
	script := fmt.Sprintf(`sync -f /root; free=$(($(stat -f -c '%%a*%%S' /root) - %d * 1048576)); fallocate -l $free /root/filler || true`, leave)
	if leave == 0 {
		script += `; dd if=/dev/zero of=/root/filler.rest bs=4k 2>/dev/null || true`
	}
	h.Run(h.t, "sh", "-c", script+"; sync -f /root")
}

func (h *fleetHost) freeDisk() {
	h.t.Helper()
	h.Run(h.t, "sh", "-c", "rm -f /root/filler /root/filler.rest && sync -f /root")
}

// waitIncoming waits until there is, or no longer is, a half-staged release.
func (h *fleetHost) waitIncoming(there bool) {
	h.t.Helper()
	h.WaitFor(h.t, 20*time.Second, fmt.Sprintf("there is a half-staged release: %v", there), func(ctx context.Context) error {
		r, err := h.Exec(ctx, "find", "/opt/slipway/harbor/releases", "-maxdepth", "1", "-name", ".incoming-*")
		if err == nil && (strings.TrimSpace(r.Stdout) != "") != there {
			err = errors.New("half staged: " + r.Stdout)
		}
		return err
	})
}
