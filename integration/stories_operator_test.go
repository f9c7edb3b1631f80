package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/api"
)

// post sends a request to the control socket as root, the way slipway does, and returns status and answer.
func (h *fleetHost) post(path, body string) (string, string) {
	h.t.Helper()
	out := h.Run(h.t, "curl", "-sS", "-m", "10", "--unix-socket", "/run/slipway/slipway.sock", "-w", "\n%{http_code}",
		"-H", "Content-Type: application/json", "-d", body, "http://"+api.SocketHost+path)
	at := strings.LastIndexByte(out, '\n')
	return out[at+1:], out[:at]
}

// Story 20.
func TestAnOperatorHoldsResumesAndRevertsAndAReplayDoesNothing(t *testing.T) {
	s := newStage(t)
	h := s.harborHost("web1", hostSpec{})
	h.Run(t, "slipway", "hold", "harbor", "--reason", "a look first")
	s.ship("harbor", "1.1.0", s.harborTree("1.1.0", "ok"), deployment{})
	h.waitWhy("harbor", "held", "a look first")
	if a := h.app("harbor"); a.Version != "1.0.0" || a.Hold == nil {
		t.Errorf("the hold did not hold: %s", brief(a))
	}
	h.Run(t, "slipway", "resume", "harbor")
	before := h.waitCommitted("harbor", "1.1.0")

	request := fmt.Sprintf(`{"expect_revision":%d,"reason":"it is slow"}`, before.Revision)
	if status, answer := h.post("/v1/apps/harbor/revert", request); status != "200" {
		t.Fatalf("the revert was refused: %s %s", status, answer)
	}
	a := h.waitReverted("harbor", "1.1.0", "1.0.0")
	if q := quarantined(a, "1.1.0"); q.Cause != "operator" || !strings.Contains(q.Reason, "it is slow") {
		t.Errorf("quarantined as %s: %s", q.Cause, q.Reason)
	}
	h.harborAnswers("1.0.0")
	status, answer := h.post("/v1/apps/harbor/revert", request)
	if status != "409" || !strings.Contains(answer, "revision") {
		t.Errorf("the replayed revert was answered %s %s", status, answer)
	}
	if now := h.app("harbor"); now.Revision != a.Revision || now.Current != a.Current {
		t.Errorf("the replay changed something: %s", brief(now))
	}
	h.Run(t, "slipway", "retry", "harbor")
	h.waitCommitted("harbor", "1.1.0")
	h.Run(t, "slipway", "revert", "harbor", "--reason", "by hand")
	h.waitReverted("harbor", "1.1.0", "1.0.0")

	// Also while the release hangs in its start, long before its deadline.
	hangs := replaceIn("units/harbor.service", "DynamicUser=yes", "DynamicUser=yes\nType=notify\nTimeoutStartSec=infinity")
	s.ship("harbor", "1.2.0", s.harborTree("1.2.0", "deaf", hangs), deployment{deadline: "10m"})
	h.waitApp("harbor", "1.2.0 is starting", func(a api.AppStatus) bool { return a.Version == "1.2.0" && a.Phase == "activating" })
	h.Run(t, "slipway", "revert", "harbor", "--reason", "it hangs")
	a = h.waitReverted("harbor", "1.2.0", "1.0.0")
	if q := quarantined(a, "1.2.0"); q.Cause != "operator" {
		t.Errorf("quarantined as %s: %s", q.Cause, q.Reason)
	}
	h.harborAnswers("1.0.0")
	h.JournalInOrder(t, 5*time.Second, daemonLog, `held|hold of harbor`, `resume`, `harbor 1\.1\.0 is committed`, `reverting harbor from 1\.1\.0 to 1\.0\.0-.*it is slow`,
		`harbor is back on 1\.0\.0-`, `retry`, `harbor 1\.1\.0 is committed`, `reverting harbor from 1\.1\.0 to 1\.0\.0-.*by hand`, `harbor is back on 1\.0\.0-`,
		`activating harbor 1\.2\.0`, `reverting harbor from 1\.2\.0 to 1\.0\.0-.*it hangs`, `harbor is back on 1\.0\.0-`)
}

// Story 21.
func TestAnUnprivilegedUserReadsTheStatusAndChangesNothing(t *testing.T) {
	s := newStage(t)
	h := s.harborHost("web1", hostSpec{})
	as := func(args ...string) (int, string) {
		r := h.Try(t, append([]string{"runuser", "-u", "visitor", "--", "slipway"}, args...)...)
		return r.Exit, r.Stdout + r.Stderr
	}
	if exit, out := as("status"); exit != 0 || !strings.Contains(out, "harbor") {
		t.Errorf("status: %d %s", exit, out)
	}
	if exit, out := as("why", "harbor"); exit != 0 || !strings.Contains(out, "runs, as signed") {
		t.Errorf("why: %d %s", exit, out)
	}
	before := h.app("harbor")
	for _, args := range [][]string{{"revert", "harbor", "--reason", "mischief"}, {"hold", "harbor"}, {"hold", "--all"}, {"apply", "harbor"}, {"refresh"}, {"retry", "harbor"}, {"remove", "harbor", "--yes"}} {
		if exit, out := as(args...); exit != 3 || !strings.Contains(out, "permission denied") {
			t.Errorf("slipway %s: exit %d, want 3: %s", strings.Join(args, " "), exit, out)
		}
	}
	r := h.Try(t, "runuser", "-u", "visitor", "--", "curl", "-sS", "--unix-socket", "/run/slipway/slipway-ro.sock", "-o", "/dev/null", "-w", "%{http_code}",
		"-H", "Content-Type: application/json", "-d", "{}", "http://"+api.SocketHost+"/v1/apps/harbor/hold")
	if strings.HasPrefix(r.Stdout, "2") {
		t.Errorf("the read-only socket took a hold: %+v", r)
	}
	// A member of the group may open the socket, but has no role until the configuration gives one.
	h.Run(t, "usermod", "-aG", "slipway", "visitor")
	if exit, out := as("hold", "harbor"); exit != 3 {
		t.Errorf("a member of the group without a role: %d %s", exit, out)
	}
	if after := h.app("harbor"); after.Revision != before.Revision || after.Hold != nil {
		t.Errorf("something changed: %s", brief(after))
	}
	h.Write(t, "/etc/slipway/slipway.d/roles.toml", "[roles.operator]\ngroups = [\"slipway\"]\n")
	h.WaitFor(t, 10*time.Second, "the role is in force", func(ctx ctxt) error {
		r, err := h.Exec(ctx, "runuser", "-u", "visitor", "--", "slipway", "hold", "harbor", "--reason", "allowed")
		if err == nil {
			err = r.Err()
		}
		return err
	})
	if a := h.app("harbor"); a.Hold == nil || !strings.Contains(a.Hold.By, "visitor") {
		t.Errorf("the hold of an operator: %+v", a.Hold)
	}
	h.JournalInOrder(t, 5*time.Second, daemonLog, `harbor 1\.0\.0 is committed`, `the configuration is in force`, `hold of harbor by visitor: allowed`)
	h.neverSaid(daemonLog, `mischief`)
}

// Story 23.
func TestVerifyNamesAFileEditedByHand(t *testing.T) {
	s := newStage(t)
	h := s.harborHost("web1", hostSpec{})
	mark := h.Mark(t)
	if out := h.Run(t, "slipway", "verify", "harbor"); strings.Contains(out, "bin/version") {
		t.Errorf("an intact release: %s", out)
	}
	h.Run(t, "sh", "-c", "echo 9.9.9 > /opt/slipway/harbor/current/bin/version; touch /opt/slipway/harbor/current/extra")
	r := h.Try(t, "slipway", "verify", "harbor")
	if r.Exit != 1 || !strings.Contains(r.Stdout, "bin/version") || !strings.Contains(r.Stdout, "extra") {
		t.Errorf("verify of an edited release: exit %d\n%s%s", r.Exit, r.Stdout, r.Stderr)
	}
	if a := h.app("harbor"); a.Version != "1.0.0" {
		t.Errorf("verify changed something: %s", brief(a))
	}
	h.JournalInOrder(t, 5*time.Second, daemonLog, `activating harbor 1\.0\.0`, `harbor 1\.0\.0 is in trial`, `harbor 1\.0\.0 is committed`)
	h.neverSaid(filterAfter(mark), `activating|reverting`)
}

// Story 24.
func TestAnEditWithAnErrorLeavesTheOldConfigurationInForce(t *testing.T) {
	s := newStage(t)
	h := s.harborHost("web1", hostSpec{})
	pid := h.mainPID("slipwayd.service")
	good := h.Read(t, "/etc/slipway/slipway.toml")
	line := strings.Count(good, "\n") + 1
	h.Write(t, "/etc/slipway/slipway.toml", good+"intervall = \"1s\"\n")
	named := fmt.Sprintf("/etc/slipway/slipway.toml:%d", line)
	h.JournalInOrder(t, 10*time.Second, daemonLog, `harbor 1\.0\.0 is committed`, `an edit of the configuration is refused.*`+strings.ReplaceAll(named, ".", `\.`))
	if out := h.Run(t, "slipway", "status"); !strings.Contains(out, named) || !strings.Contains(out, "intervall") {
		t.Errorf("status does not name %s:\n%s", named, out)
	}
	if r := h.Try(t, "slipwayd", "--check-config"); r.Exit != 1 || !strings.Contains(r.Stderr, named) {
		t.Errorf("--check-config: %+v", r)
	}
	// The old configuration works, also for a daemon that starts anew.
	s.ship("harbor", "1.1.0", s.harborTree("1.1.0", "ok"), deployment{})
	h.waitCommitted("harbor", "1.1.0")
	if got := h.mainPID("slipwayd.service"); got != pid {
		t.Errorf("the daemon was restarted: %s, was %s", got, pid)
	}
	h.Run(t, "systemctl", "restart", "slipwayd.service")
	s.ship("harbor", "1.2.0", s.harborTree("1.2.0", "ok"), deployment{})
	h.waitCommitted("harbor", "1.2.0")
	h.Write(t, "/etc/slipway/slipway.toml", good)
	h.JournalInOrder(t, 10*time.Second, daemonLog, `harbor 1\.2\.0 is committed`, `the configuration is in force`)
	if out := h.Run(t, "slipway", "status"); strings.Contains(out, "intervall") {
		t.Errorf("the mended edit is still blamed:\n%s", out)
	}
}
