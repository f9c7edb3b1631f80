package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/integration/lab"
)

// fleetStory is a fleet of real hosts with a hub on a host of its own.
type fleetStory struct {
	*stage
	hubs  []*hubHost
	hosts []*fleetHost
}

// hubHost is a booted host with the package of the hub installed.
type hubHost struct {
	*lab.Host
	f *fleetStory
}

// newFleet boots hubs and hosts side by side; the hosts are enrolled when it returns. Tags are build tags of the hosts' package.
func newFleet(t *testing.T, tags string, hubs, hosts int, apps ...string) *fleetStory {
	t.Helper()
	f := &fleetStory{stage: newStage(t)}
	set := packages(t, storyVersion, tags)
	names := []string{}
	for i := range hubs {
		names = append(names, fmt.Sprintf("hub%d", i+1))
	}
	for i := range hosts {
		names = append(names, fmt.Sprintf("h%d", i+1))
	}
	booted := f.boot(names, set)
	for i := range hubs {
		f.hubs = append(f.hubs, &hubHost{booted[i], f})
	}
	f.hubs[0].first()
	for _, h := range f.hubs[1:] {
		h.join(f.hubs[0])
	}
	for _, h := range booted[hubs:] {
		f.hosts = append(f.hosts, &fleetHost{Host: h, t: t, s: f.stage})
	}
	for _, h := range f.hosts {
		f.enroll(h, apps)
	}
	return f
}

// boot makes hosts and installs what belongs on them.
func (f *fleetStory) boot(names []string, set lab.PackageSet) []*lab.Host {
	f.t.Helper()
	hosts, errs := make([]*lab.Host, len(names)), make([]error, len(names))
	done := make(chan int)
	slots := make(chan struct{}, 3)
	for i, name := range names {
		go func() {
			defer func() { done <- i }()
			slots <- struct{}{}
			defer func() { <-slots }()
			hosts[i], errs[i] = f.bootOne(name, set)
		}()
	}
	for range names {
		<-done
	}
	if err := errors.Join(errs...); err != nil {
		f.t.Fatal(err)
	}
	return hosts
}

func (f *fleetStory) bootOne(name string, set lab.PackageSet) (*lab.Host, error) {
	ctx := f.t.Context()
	h, err := f.lab.NewHost(ctx, name, lab.HostOptions{})
	if err != nil {
		return nil, err
	}
	if state, err := h.Boot(ctx); err != nil || state != "running" {
		return nil, fmt.Errorf("host %s booted %s: %w", name, state, err)
	}
	deb := set.Deb
	if strings.HasPrefix(name, "hub") {
		deb = set.HubDeb
	}
	_, err = h.InstallDeb(ctx, deb)
	return h, err
}

func (h *hubHost) url() string { return "https://" + h.Address + ":7443" }

// configure writes the hub's configuration; store is its [store] table, empty for the embedded one.
func (h *hubHost) configure(store string) {
	h.f.t.Helper()
	h.Write(h.f.t, "/etc/slipway-hub/slipway-hub.toml", fmt.Sprintf(`fleet = "acme"
names = [%q]
[repository]
root = "/etc/slipway-hub/root.json"
[[repository.mirrors]]
url = %q
[poll]
interval = "1s"
jitter = 0.0
[roles]
operator = ["otto"]
maintainer = ["mia"]
%s`, h.Address, h.f.server.URL, store))
}

// first sets up the fleet's first hub, with the fleet's authority and its operators, as the fleet guide tells.
func (h *hubHost) first() {
	t := h.f.t
	t.Helper()
	h.configure("")
	if err := h.Push(filepath.Join(h.f.repo, "metadata", "1.root.json"), "/etc/slipway-hub/root.json"); err != nil {
		t.Fatal(err)
	}
	h.Write(t, "/root/passphrase", "a good passphrase\n")
	h.Run(t, "slipway-hub", "ca", "init", "--root-key", "/root/root.key", "--passphrase-file", "/root/passphrase")
	for _, name := range []string{"otto", "mia"} {
		h.Run(t, "slipway-hub", "ca", "operator", name, "--out", "/root/"+name+".pem")
	}
	h.Run(t, "systemctl", "enable", "--now", "slipway-hub.service")
	h.answers()
}

// join sets up another hub of the same fleet: an issuer of its own, made where the root's key is.
func (h *hubHost) join(first *hubHost) {
	t := h.f.t
	t.Helper()
	h.configure("")
	if err := h.Push(filepath.Join(h.f.repo, "metadata", "1.root.json"), "/etc/slipway-hub/root.json"); err != nil {
		t.Fatal(err)
	}
	dir := "/root/ca-" + h.Name
	first.Run(t, "install", "-d", "-m", "0700", dir)
	first.Run(t, "cp", "/var/lib/slipway-hub/ca/root.pem", dir)
	first.Run(t, "slipway-hub", "ca", "issuer", "--root-key", "/root/root.key", "--passphrase-file", "/root/passphrase", "--dir", dir)
	h.Run(t, "install", "-d", "-m", "0700", "-o", "slipway-hub", "-g", "slipway-hub", "/var/lib/slipway-hub", "/var/lib/slipway-hub/ca")
	for _, name := range strings.Fields(first.Run(t, "ls", dir)) {
		to := "/var/lib/slipway-hub/ca/" + name
		if err := h.WriteFile(to, []byte(first.Read(t, dir+"/"+name)), 0o600); err != nil {
			t.Fatal(err)
		}
		h.Run(t, "chown", "slipway-hub:slipway-hub", to)
	}
}

// answers waits until the hub has read its store and its repository.
func (h *hubHost) answers() {
	h.f.t.Helper()
	h.WaitFor(h.f.t, 30*time.Second, "the hub answers", func(ctx context.Context) error {
		r, err := h.Exec(ctx, "curl", "-sSkf", "-m", "3", "https://127.0.0.1:7443/v1/health")
		if err == nil {
			err = r.Err()
		}
		return err
	})
}

// restart starts the hub anew with another store.
func (h *hubHost) restart(store string) {
	h.f.t.Helper()
	h.configure(store)
	h.Run(h.f.t, "systemctl", "restart", "slipway-hub.service")
	h.answers()
}

// enroll gives a host its identity by a one-time token, and puts it to work.
func (f *fleetStory) enroll(h *fleetHost, apps []string) {
	f.t.Helper()
	hub := f.hubs[0]
	h.Write(f.t, "/root/token", hub.Run(f.t, "slipway-hub", "token", "create", "--environment", "production", "--host", h.Name, "--label", "site=lab"))
	command := []string{"slipway", "enroll", "--token-file", "/root/token"}
	for _, hub := range f.hubs {
		command = append(command, "--hub", hub.url())
	}
	h.Run(f.t, command...)
	h.configure(hostSpec{apps: apps, toml: "\n[fleet]\npoll = \"1s\"\n"})
}

// as runs slipway fleet as one of the operators, on a host that is not the hub.
func (f *fleetStory) as(name string, args ...string) lab.Result {
	f.t.Helper()
	h := f.hosts[0]
	cert := "/root/" + name + ".pem"
	if err := h.WriteFile(cert, []byte(f.hubs[0].Read(f.t, cert)), 0o600); err != nil {
		f.t.Fatal(err)
	}
	command := []string{"slipway", "fleet"}
	for _, hub := range f.hubs {
		command = append(command, "--hub", hub.url())
	}
	return h.Try(f.t, append(append(command, "--certificate", cert), args...)...)
}

// must is as for what has to succeed.
func (f *fleetStory) must(name string, args ...string) string {
	f.t.Helper()
	r := f.as(name, args...)
	if err := r.Err(); err != nil {
		f.t.Fatal(err)
	}
	return r.Stdout
}

func (f *fleetStory) rollout(app string) (fleet.RolloutStatus, error) {
	f.t.Helper()
	r := f.as("mia", "status", "--json")
	if err := r.Err(); err != nil {
		return fleet.RolloutStatus{}, err
	}
	var st fleet.Status
	if err := json.Unmarshal([]byte(r.Stdout), &st); err != nil {
		return fleet.RolloutStatus{}, err
	}
	i := slices.IndexFunc(st.Rollouts, func(r fleet.RolloutStatus) bool { return r.App.String() == app })
	if i < 0 {
		return fleet.RolloutStatus{}, fmt.Errorf("the hub knows no rollout of %s", app)
	}
	return st.Rollouts[i], nil
}

// waitRollout waits until the hub shows what is wanted, and insists that it never shows more slots in use than there are.
func (f *fleetStory) waitRollout(app, what string, ok func(fleet.RolloutStatus) bool) fleet.RolloutStatus {
	f.t.Helper()
	var last fleet.RolloutStatus
	f.hosts[0].WaitFor(f.t, 2*time.Minute, app+": "+what, func(context.Context) error {
		r, err := f.rollout(app)
		if err != nil {
			return err
		}
		last = r
		for _, c := range r.Cells {
			if c.Held+c.Lost > c.Limit {
				f.t.Fatalf("%d slots of %s in use, %d lost among them; there are %d", c.Held+c.Lost, c.Cell, c.Lost, c.Limit)
			}
		}
		if !ok(r) {
			return fmt.Errorf("%s %s is %s: %+v, %s", app, r.Version, r.State, r.Counts, r.Why)
		}
		return nil
	})
	return last
}

func (f *fleetStory) waitDone(app, version string) fleet.RolloutStatus {
	f.t.Helper()
	return f.waitRollout(app, version+" is everywhere", func(r fleet.RolloutStatus) bool {
		return r.Version.String() == version && r.State == fleet.StateDone
	})
}

// plan is a deployment that a hub paces.
type plan struct {
	budget  int
	canary  string // host id of a first wave
	limit   int    // failures that halt
	onHalt  string
	healthy string
	back    string // the signed fallback, if it is not what the deployment before names
}

// deployPlan signs a deployment of a version that goes through the hubs.
func (f *fleetStory) deployPlan(app, version string, p plan) {
	f.t.Helper()
	urls := []string{}
	for _, hub := range f.hubs {
		urls = append(urls, fmt.Sprintf("%q", hub.url()))
	}
	text := fmt.Sprintf("[coordinator]\nkind = \"hub\"\nurls = [%s]\n[budget]\ncount = %d\n[halt]\nmax_failures = %d\nupdate_deadline = \"30s\"\n",
		strings.Join(urls, ", "), max(1, p.budget), max(1, p.limit))
	if p.onHalt != "" {
		text += "on_halt = \"" + p.onHalt + "\"\n"
	}
	if p.canary != "" {
		text += fmt.Sprintf("[[waves]]\nname = \"canary\"\nhosts = [%q]\nadvance = \"auto\"\nmin_hosts = 1\n", p.canary)
		text += "[[waves]]\nname = \"all\"\npercent_bp = 10000\nadvance = \"auto\"\n"
	}
	file := filepath.Join(f.dir, app+"-"+version+".toml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		f.t.Fatal(err)
	}
	flags := []string{"--file", file}
	if p.back != "" {
		flags = append(flags, "--fallback", p.back)
	}
	f.deploy(app, version, deployment{minHealthy: p.healthy, flags: flags})
}

// runs counts the hosts on which `current` names the version.
func (f *fleetStory) runs(app, version string) (n int) {
	f.t.Helper()
	for _, h := range f.hosts {
		if h.On() && h.app(app).Version == version {
			n++
		}
	}
	return n
}

// everywhere insists that all hosts run a version.
func (f *fleetStory) everywhere(app, version string) {
	f.t.Helper()
	for _, h := range f.hosts {
		h.waitApp(app, version+" runs", func(a api.AppStatus) bool { return a.Version == version && !a.Busy })
	}
}

// untouched insists that a host never tried a version.
func (h *fleetHost) untouched(app, version string) {
	h.t.Helper()
	entries, err := h.Journal(h.t.Context(), daemonLog)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, e := range entries {
		if strings.Contains(e.Message, "activating "+app+" "+version+" ") {
			h.t.Errorf("%s tried %s: %s", h.Name, version, e.Message)
		}
	}
}
