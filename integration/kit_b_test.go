package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/integration/lab"
)

// publishHarbor publishes one harbor for each version and how it behaves.
func (s *stage) publishHarbor(behaviours map[string]string, edits ...func(*tree)) {
	s.t.Helper()
	for version, behaviour := range behaviours {
		s.publishRelease("harbor", version, s.harborTree(version, behaviour, edits...))
	}
}

// harborHost is a host that has committed harbor 1.0.0, which it publishes and deploys.
func (s *stage) harborHost(name string, o hostSpec, edits ...func(*tree)) *fleetHost {
	s.t.Helper()
	s.ship("harbor", "1.0.0", s.harborTree("1.0.0", "ok", edits...), deployment{})
	o.apps = []string{"harbor"}
	h := s.host(name, o)
	h.waitCommitted("harbor", "1.0.0")
	return h
}

// pauseFile is where a daemon with an armed failpoint says that it waits there, and what it waits for; its sandbox may write
// there and a boot forgets it.
const pauseFile = "/run/slipway/pause"

// pauseAt restarts slipwayd, built with failpoints, so that it stops at one until resume. A boot disarms it.
func (h *fleetHost) pauseAt(failpoint string) {
	h.t.Helper()
	h.Write(h.t, "/run/systemd/system/slipwayd.service.d/failpoint.conf",
		"[Service]\nEnvironment=SLIPWAY_FAILPOINT="+failpoint+"=pause:"+pauseFile+"\n")
	h.Run(h.t, "systemctl", "daemon-reload")
	h.Run(h.t, "systemctl", "restart", "slipwayd.service")
}

func (h *fleetHost) waitPaused() {
	h.t.Helper()
	h.WaitFor(h.t, 30*time.Second, "slipwayd stops at its failpoint", func(context.Context) error {
		_, err := h.ReadFile(pauseFile + ".reached")
		return err
	})
}

func (h *fleetHost) resume() {
	h.t.Helper()
	h.Write(h.t, pauseFile, "")
}

// deadline is when the attempt in flight ends, on the boot clock, which the machine shares with its hosts.
func (h *fleetHost) deadline(app string) time.Duration {
	h.t.Helper()
	var st struct {
		Attempt struct{ Deadline time.Duration }
	}
	if err := json.Unmarshal([]byte(h.Read(h.t, "/var/lib/slipway/apps/"+app+"/state.json")), &st); err != nil {
		h.t.Fatal(err)
	}
	return st.Attempt.Deadline
}

// waitOutcome waits until the attempt to run a version has ended as told and nothing is in flight any more.
func (h *fleetHost) waitOutcome(app, result, tried, runs string) api.AppStatus {
	h.t.Helper()
	return h.waitApp(app, tried+" is "+result, func(a api.AppStatus) bool {
		return a.Version == runs && a.Phase == "idle" && a.LastOutcome != nil && a.LastOutcome.Result == result && a.LastOutcome.Version == tried
	})
}

// outcomes are the ends of all attempts to run a version, oldest first.
func (h *fleetHost) outcomes(app, version string) []string {
	h.t.Helper()
	var entries []api.HistoryEntry
	out := h.Run(h.t, "slipway", "history", app, "--limit", "100", "--json")
	if err := json.Unmarshal([]byte(out), &entries); err != nil {
		h.t.Fatalf("slipway history: %v: %s", err, out)
	}
	var results []string
	for _, e := range slices.Backward(entries) {
		if strings.HasPrefix(e.Tried, version+"-") {
			results = append(results, e.Result)
		}
	}
	return results
}

// neverSaid fails the test if the selected part of the journal has a message that matches.
func (h *fleetHost) neverSaid(f lab.Filter, pattern string) {
	h.t.Helper()
	entries, err := h.Journal(h.t.Context(), f)
	if err != nil {
		h.t.Fatal(err)
	}
	re := regexp.MustCompile(pattern)
	for _, e := range entries {
		if re.MatchString(e.Message) {
			h.t.Errorf("host %s: the journal must not say %q: %s", h.Name, pattern, e)
		}
	}
}

// nothingArmed waits until no guard is left, neither its timer nor its service, and no marker of a trial.
func (h *fleetHost) nothingArmed(app string) {
	h.t.Helper()
	h.WaitFor(h.t, 15*time.Second, "guard and marker are cleared away", func(ctx context.Context) error {
		r, err := h.Exec(ctx, "systemctl", "list-units", "--all", "--plain", "--no-legend", "slipway-guard@*")
		if err != nil {
			return err
		}
		if left := strings.TrimSpace(r.Stdout); left != "" {
			return errors.New(left)
		}
		if _, err := h.ReadFile("/var/lib/slipway/apps/" + app + "/in-trial"); err == nil {
			return errors.New("the marker is there")
		}
		return nil
	})
}

// guardIs asks whether some guard's service is in a state.
func (h *fleetHost) guardIs(ctx context.Context, active string) error {
	r, err := h.Exec(ctx, "systemctl", "list-units", "--all", "--plain", "--no-legend", "slipway-guard@*.service")
	if err == nil && !strings.Contains(r.Stdout, " "+active+" ") {
		err = fmt.Errorf("guards: %q", r.Stdout)
	}
	return err
}

// wholeCurrent checks, on a host that is on or off, that `current` leads to the whole program of the release.
func (h *fleetHost) wholeCurrent(app string) {
	h.t.Helper()
	at := "/opt/slipway/" + app + "/current/bin/"
	want := h.s.harborTree("", "").files["bin/harbor"].data
	if got := h.Read(h.t, at+app); got != string(want) {
		h.t.Errorf("host %s: current holds a program of %d bytes, not of %d", h.Name, len(got), len(want))
	}
	if got := h.Read(h.t, at+"version"); strings.TrimSpace(got) == "" {
		h.t.Errorf("host %s: current holds an empty version file", h.Name)
	}
}

// crashAndBoot ends every process of the host at once and boots it, however systemd then calls the boot.
func (h *fleetHost) crashAndBoot() {
	h.t.Helper()
	if err := h.KillLeader(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
	if _, err := h.Boot(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
	h.soundBoot()
}
