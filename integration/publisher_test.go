package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/integration/lab"
)

const refreshTimer, refreshService = "slipway-repo-refresh.timer", "slipway-repo-refresh.service"

// repositoryOn makes a repository on the host, owned by the package's user, with its online key where the service finds it.
func repositoryOn(t *testing.T, h *lab.Host) {
	t.Helper()
	as := func(line string) {
		t.Helper()
		h.Run(t, "runuser", "-u", "slipway-repo", "--", "sh", "-c", "cd /tmp/keys && "+line)
	}
	h.Run(t, "install", "-d", "-o", "slipway-repo", "/tmp/keys", "/var/lib/slipway-repo", "/srv/www")
	for _, key := range []string{"alice", "bob", "online"} {
		as("slipway-repo key gen " + key + " --unencrypted")
	}
	as("slipway-repo init -C /var/lib/slipway-repo/repository --root-key alice.pub --root-key bob.pub --root-threshold 1 --online-key online.pub --sign alice")
	as("slipway-repo publish -C /var/lib/slipway-repo/repository --online-key online")
	h.Run(t, "install", "-m", "600", "/tmp/keys/online", "/etc/slipway-repo/credentials/online-key")
	h.Run(t, "rm", "-r", "/tmp/keys")
}

func TestThePublishersTimerKeepsARepositoryFreshOnceConfigured(t *testing.T) {
	takeSlot(t)
	l := lab.New(t)
	set := lab.Packages(t, firstVersion, "")
	h := l.Host(t, "publisher", lab.HostOptions{})
	installDeb(t, h, set.PublisherDeb)
	if enabled := state(t, h, "is-enabled", refreshTimer); enabled != "disabled" {
		t.Errorf("the timer of a package that nobody configured is %s", enabled)
	}
	wantQuiet(t, h)
	repositoryOn(t, h)
	h.Run(t, "sh", "-c", "sed -i 's|^{|{\"destinations\": [\"/srv/www\"],|' /var/lib/slipway-repo/repository/policy.json")
	h.Run(t, "sh", "-c", "mkdir -p /etc/systemd/system/"+refreshService+".d; printf '[Service]\\nReadWritePaths=/srv/www\\n' > /etc/systemd/system/"+refreshService+".d/www.conf")
	h.Run(t, "systemctl", "daemon-reload")
	h.Run(t, "systemctl", "start", refreshService)
	if got := state(t, h, "show", "-PConditionResult "+refreshService); got == "yes" {
		t.Error("it runs without refresh.conf")
	}

	h.Run(t, "cp", "/usr/share/doc/slipway-repo/examples/refresh.conf", "/etc/slipway-repo/")
	h.Run(t, "systemctl", "enable", "--now", refreshTimer)
	h.Run(t, "systemctl", "start", refreshService)
	if got := h.Run(t, "slipway-repo", "verify", "-C", "/var/lib/slipway-repo/repository", "--from", "/srv/www"); !strings.Contains(got, "timestamp 1") {
		t.Errorf("the destination: %s", got)
	}
	h.WaitFor(t, 20*time.Second, "figures", func(ctx context.Context) error {
		figures, err := h.ReadFile("/var/lib/slipway-repo/metrics/slipway-repo.prom")
		if err == nil && !strings.Contains(string(figures), `slipway_repo_destination_current{destination="/srv/www"} 1`) {
			err = fmt.Errorf("got %s", figures)
		}
		return err
	})

	// People publish through a service too: the key is not theirs. There is nothing to publish.
	h.Run(t, "systemctl", "start", "slipway-repo-publish.service")

	// The credential is for the services alone, and it signs with it when something is due.
	if r := h.Try(t, "runuser", "-u", "slipway-repo", "--", "cat", "/etc/slipway-repo/credentials/online-key"); r.Exit == 0 {
		t.Error("everything that runs as slipway-repo can read the online key")
	}
	h.Run(t, "sh", "-c", "printf '[Service]\\nExecStart=\\nExecStart=/usr/bin/slipway-repo refresh --force --online-key ${SLIPWAY_ONLINE_KEY}\\n' > /etc/systemd/system/"+refreshService+".d/force.conf")
	h.Run(t, "systemctl", "daemon-reload")
	h.Run(t, "systemctl", "start", refreshService)
	if got := h.Run(t, "slipway-repo", "verify", "-C", "/var/lib/slipway-repo/repository", "--from", "/srv/www"); !strings.Contains(got, "timestamp 2") {
		t.Errorf("after a forced refresh: %s", got)
	}

	installDeb(t, h, lab.Packages(t, nextVersion, "").PublisherDeb)
	if active := state(t, h, "is-active", refreshTimer); active != "active" {
		t.Errorf("the timer after an upgrade is %s", active)
	}
	h.Run(t, "dpkg", "--purge", "slipway-repo")
	if active := state(t, h, "is-active", refreshTimer); active != "inactive" {
		t.Errorf("the timer after a purge is %s", active)
	}
	for _, kept := range []string{"/var/lib/slipway-repo/repository/policy.json", "/etc/slipway-repo/credentials/online-key"} {
		if h.Try(t, "test", "-e", kept).Exit != 0 {
			t.Errorf("a purge took %s", kept)
		}
	}
	if failed := h.Run(t, "systemctl", "--failed", "--no-legend", "--plain"); failed != "" {
		t.Errorf("failed units: %s", failed)
	}
}
