package integration

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-deploy/slipway/integration/lab"
)

// The way of the small hub in docs/fleet-hub.md, up to the first token.
func TestTheHubsPackageRunsAHubOnceConfiguredKeepsItsDataOverAnUpgradeAndIsPurgedWhole(t *testing.T) {
	takeSlot(t)
	l := lab.New(t)
	first, next := lab.Packages(t, firstVersion, ""), lab.Packages(t, nextVersion, "")
	h := l.Host(t, "hub1", lab.HostOptions{})
	installDeb(t, h, first.HubDeb)
	if got := state(t, h, "is-active", "slipway-hub.service"); got != "inactive" {
		t.Errorf("slipway-hub before it is configured: %s, want inactive", got)
	}
	if failed := h.Run(t, "systemctl", "--failed", "--no-legend", "--plain"); failed != "" {
		t.Errorf("failed units before it is configured: %s", failed)
	}
	configureHub(t, l, h)
	h.Run(t, "systemctl", "start", "slipway-hub.service")
	waitActive(t, h, "slipway-hub.service")
	if got := h.Run(t, "stat", "-c", "%a %U", "/var/lib/slipway-hub/ca/issuer.pem", "/run/slipway-hub/hub.sock"); got != "600 slipway-hub\n600 slipway-hub\n" {
		t.Errorf("the issuer and the socket: %q", got)
	}
	token := h.Run(t, "slipway-hub", "token", "create", "--environment", "staging", "--host", "web-01")
	if !strings.HasPrefix(token, "slipway1.") || strings.Count(token, "\n") != 1 {
		t.Errorf("the token is %q", token)
	}
	installDeb(t, h, next.HubDeb)
	waitActive(t, h, "slipway-hub.service")
	if list := h.Run(t, "slipway-hub", "token", "list"); !strings.Contains(list, "web-01") {
		t.Errorf("after the upgrade the hub knows the tokens\n%s", list)
	}
	pid := strings.TrimSpace(h.Run(t, "systemctl", "show", "-P", "MainPID", "slipway-hub"))
	if got := h.Run(t, "/proc/"+pid+"/exe", "--version"); got != "slipway-hub "+nextVersion+"\n" {
		t.Errorf("running after the upgrade: %q", got)
	}
	h.Run(t, "slipway-hub", "snapshot", "/root/hub.snap")
	if r := h.Try(t, "runuser", "-u", "nobody", "--", "slipway-hub", "token", "list"); r.Exit != 3 || !strings.Contains(r.Stderr, "only root") {
		t.Errorf("a user without rights: %+v", r)
	}
	h.Run(t, "dpkg", "--purge", "slipway-hub")
	for _, path := range []string{"/etc/slipway-hub", "/var/lib/slipway-hub", "/usr/lib/systemd/system/slipway-hub.service"} {
		if h.Try(t, "test", "-e", path).Exit == 0 {
			t.Errorf("purge left %s", path)
		}
	}
}

// configureHub does what an administrator does between the installation and the first start.
func configureHub(t *testing.T, l *lab.Lab, h *lab.Host) {
	t.Helper()
	dir := t.TempDir()
	tool := filepath.Join(dir, "slipway-repo")
	if err := lab.GoBuild(t.Context(), "../cmd/slipway-repo", tool); err != nil {
		t.Fatal(err)
	}
	p, err := lab.NewPublisher(t.Context(), tool, dir, "staging")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Push(p.Root(), "/etc/slipway-hub/root.json"); err != nil {
		t.Fatal(err)
	}
	h.Write(t, "/etc/slipway-hub/slipway-hub.toml", "fleet = \"acme\"\n[[repository.mirrors]]\nurl = \""+l.Serve(t, p.Repo).URL+"\"\n[roles]\nviewer = [\"*\"]\n")
	h.Write(t, "/root/passphrase", "a good passphrase\n")
	h.Run(t, "slipway-hub", "run", "--check-config")
	h.Run(t, "slipway-hub", "ca", "init", "--root-key", "/root/acme-root.key", "--passphrase-file", "/root/passphrase")
}
