package integration

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/integration/lab"
)

// stageSlots bounds how many stories have hosts at the same time: most of a story is waiting for trials, the rest is work.
var stageSlots = make(chan struct{}, 3)

// stage is what a story plays on: a lab, and a signed repository served in it. Keys of root, app and approvers are different
// ones; production needs two of three approvers, staging one of two.
type stage struct {
	t      testing.TB
	lab    *lab.Lab
	server *lab.Server
	repo   string // the repository's directory
	keys   string // private keys, their public halves beside them as NAME.pub
	dir    string // scratch
}

// newStage makes a story parallel to others and opens its stage; it goes away when the test ends.
func newStage(t *testing.T) *stage {
	t.Helper()
	t.Parallel()
	if os.Geteuid() == 0 {
		stageSlots <- struct{}{}
		t.Cleanup(func() { <-stageSlots })
	}
	return openStage(t)
}

// openStage is newStage for what must not run beside others, as measurements.
func openStage(t testing.TB) *stage {
	t.Helper()
	began := time.Now()
	template := repositoryTemplate(t)
	made := time.Now()
	l := lab.New(t)
	s := &stage{t: t, lab: l, dir: t.TempDir()}
	t.Logf("stage: repository after %s, lab after another %s", made.Sub(began).Round(10*time.Millisecond), time.Since(made).Round(10*time.Millisecond))
	s.keys, s.repo = filepath.Join(template, "keys"), filepath.Join(s.dir, "repo")
	if err := os.CopyFS(s.repo, os.DirFS(filepath.Join(template, "repo"))); err != nil {
		t.Fatal(err)
	}
	s.server = l.Serve(t, s.repo)
	return s
}

var template struct {
	sync.Once
	dir string
	err error
}

// storyApps are the apps that the repository knows from the start.
var storyApps = []string{"harbor", "nats", "web"}

// repositoryTemplate makes programs, keys and an empty repository once per test binary; stages start from copies.
func repositoryTemplate(t testing.TB) string {
	t.Helper()
	template.Do(func() { template.dir, template.err = makeTemplate() })
	if template.err != nil {
		t.Fatal(template.err)
	}
	return template.dir
}

func makeTemplate() (string, error) {
	dir, err := os.MkdirTemp("", "slipway-stories-")
	if err != nil {
		return "", err
	}
	atExit = append(atExit, func() { os.RemoveAll(dir) })
	for _, pkg := range []string{"cmd/slipway-repo", "integration/apps/harbor"} {
		err := lab.GoBuild(context.Background(), "github.com/slipway-deploy/slipway/"+pkg, filepath.Join(dir, "bin", filepath.Base(pkg)))
		if err != nil {
			return "", err
		}
	}
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "keys"), 0o700), os.Mkdir(filepath.Join(dir, "repo"), 0o755)); err != nil {
		return "", err
	}
	key := func(name string) string { return filepath.Join(dir, "keys", name) }
	var steps [][]string
	for _, name := range []string{"root", "online", "app", "approver-1", "approver-2", "approver-3", "tester-1", "tester-2"} {
		steps = append(steps, []string{"key", "gen", key(name), "--unencrypted"})
	}
	steps = append(steps,
		[]string{"init", "--root-key", key("root.pub"), "--allow-no-spare", "a story", "--online-key", key("online.pub"), "--use-online", key("online"), "--sign", key("root")},
		[]string{"publish"},
		[]string{"env", "add", "production", "--key", key("approver-1.pub"), "--key", key("approver-2.pub"), "--key", key("approver-3.pub"), "--threshold", "2", "--sign", key("root")},
		[]string{"publish"},
		[]string{"env", "add", "staging", "--key", key("tester-1.pub"), "--key", key("tester-2.pub"), "--threshold", "1", "--sign", key("root")},
		[]string{"publish"})
	for _, app := range storyApps {
		steps = append(steps, []string{"app", "add", app, "--key", key("app.pub"), "--allow-no-spare", "a story", "--sign", key("root")}, []string{"publish"})
	}
	for _, args := range steps {
		if _, err := slipwayRepo(context.Background(), dir, filepath.Join(dir, "repo"), args...); err != nil {
			return "", err
		}
	}
	return dir, nil
}

func slipwayRepo(ctx context.Context, template, repo string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(template, "bin", "slipway-repo"), append([]string{"-C", repo}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("slipway-repo %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// publisher runs slipway-repo on the stage's repository, as the publisher's people do.
func (s *stage) publisher(args ...string) string {
	s.t.Helper()
	out, err := slipwayRepo(s.t.Context(), filepath.Dir(s.keys), s.repo, args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

func (s *stage) key(name string) string { return filepath.Join(s.keys, name) }

// tree is a release before it is packed: its files by path, and its release.toml.
type tree struct {
	files map[string]file
	toml  string
	flags []string // of release pack
}

type file struct {
	data []byte
	mode os.FileMode
}

func (tr tree) write(dir string) error {
	for name, f := range tr.files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, f.data, cmp.Or(f.mode, 0o644)); err != nil {
			return err
		}
	}
	return os.WriteFile(dir+".toml", []byte(tr.toml), 0o644)
}

// publishRelease packs, signs and publishes a release.
func (s *stage) publishRelease(app, version string, tr tree) {
	s.t.Helper()
	dir := filepath.Join(s.dir, "build", app, version)
	if err := tr.write(dir); err != nil {
		s.t.Fatal(err)
	}
	out := filepath.Join(s.dir, "packed", app, version)
	args := []string{"release", "pack", dir, "--app", app, "--version", version, "--platform", "linux/" + runtime.GOARCH, "--config", dir + ".toml", "--out", out}
	s.publisher(append(args, tr.flags...)...)
	s.publisher("release", "publish", out, "--sign", s.key("app"))
	s.publisher("publish")
}

// deployment says how to run a release; the zero value is production with a trial short enough for a story.
type deployment struct {
	env                  string
	minHealthy, deadline string
	flags                []string // further flags of deploy new
}

// deploy signs and publishes that an environment runs a version; the version "absent" takes the app away.
func (s *stage) deploy(app, version string, d deployment) {
	s.t.Helper()
	env := cmp.Or(d.env, "production")
	args := []string{"deploy", "new", "--env", env, "--app", app, "--min-healthy", cmp.Or(d.minHealthy, "3s"), "--deadline", cmp.Or(d.deadline, "20s"), "--reason", "a story"}
	if version == "absent" {
		args = append(args, "--absent")
	} else {
		args = append(args, "--release", version)
	}
	signers := map[string][]string{"production": {"approver-1", "approver-2"}, "staging": {"tester-1"}}[env]
	for _, k := range signers {
		args = append(args, "--sign", s.key(k))
	}
	s.publisher(append(args, d.flags...)...)
	s.publisher("publish")
}

// ship publishes a release and its deployment in one go.
func (s *stage) ship(app, version string, tr tree, d deployment) {
	s.t.Helper()
	s.publishRelease(app, version, tr)
	s.deploy(app, version, d)
}

// fleetHost is a booted host with the built package installed and initialised.
type fleetHost struct {
	*lab.Host
	t testing.TB
	s *stage
	// gone is set by stories that end without the package.
	gone bool
}

// hostSpec says what is special about a story's host; the zero value is a production host without apps.
type hostSpec struct {
	env  string
	apps []string
	lab  lab.HostOptions
	// tags are build tags of the installed package, such as "failpoints".
	tags string
	// toml is added to the host's configuration.
	toml string
	// repository is another mirror than the stage's server.
	repository string
	// rpm installs the rpm instead of the deb.
	rpm bool
}

// storyVersion is the version of the packages that stories install.
const storyVersion = "0.1.0~story1"

// packages are the built ones, or those in the directory SLIPWAY_TEST_PACKAGES names: then stories judge exactly these files.
func packages(t testing.TB, version, tags string) lab.PackageSet {
	t.Helper()
	if dir := os.Getenv("SLIPWAY_TEST_PACKAGES"); dir != "" && tags == "" {
		set, err := lab.FindPackages(dir)
		if err != nil {
			t.Fatal(err)
		}
		return set
	}
	return lab.Packages(t, version, tags)
}

// host boots a host, installs the deb with dpkg and initialises it the way the README tells a person to.
func (s *stage) host(name string, o hostSpec) *fleetHost {
	s.t.Helper()
	began := time.Now()
	set := packages(s.t, storyVersion, o.tags)
	built := time.Now()
	h := &fleetHost{Host: s.lab.Host(s.t, name, o.lab), t: s.t, s: s}
	h.install(set, o.rpm)
	h.configure(o)
	s.t.Logf("host %s: packages after %s, up and configured after another %s", name, built.Sub(began).Round(10*time.Millisecond), time.Since(built).Round(10*time.Millisecond))
	s.t.Cleanup(func() {
		if h.On() && !s.t.Failed() {
			h.soundBoot()
		}
	})
	return h
}

func (h *fleetHost) install(set lab.PackageSet, rpm bool) {
	h.t.Helper()
	var err error
	if rpm {
		_, err = h.InstallRPM(h.t.Context(), set.RPM, false)
	} else {
		_, err = h.InstallDeb(h.t.Context(), set.Deb)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *fleetHost) configure(o hostSpec) {
	h.t.Helper()
	if err := h.Push(filepath.Join(h.s.repo, "metadata", "1.root.json"), "/root/root.json"); err != nil {
		h.t.Fatal(err)
	}
	// nspawn hosts have no time service: without the option the daemon waits for a synchronised clock.
	h.Write(h.t, "/etc/slipway/slipway.d/story.toml",
		"[poll]\ninterval = \"1s\"\njitter = 0.0\n\n[space]\nreserve = \"16MiB\"\n\n[clock]\nunsafe_unsynchronised = true\n"+o.toml)
	h.Run(h.t, "slipway", "init", "--root", "/root/root.json", "--environment", cmp.Or(o.env, "production"), "--repository", cmp.Or(o.repository, h.s.server.URL), "--force")
	for _, app := range o.apps {
		h.Run(h.t, "slipway", "add", app)
	}
	h.Run(h.t, "systemctl", "restart", "slipwayd.socket", "slipwayd-ro.socket", "slipwayd.service")
	h.WaitFor(h.t, 15*time.Second, "slipwayd knows its apps", func(ctx context.Context) error {
		st, err := h.status(ctx)
		if err != nil {
			return err
		}
		if len(st.Apps) != len(o.apps) {
			return fmt.Errorf("it knows %d apps, not %d", len(st.Apps), len(o.apps))
		}
		return nil
	})
}

// MustBoot and MustReboot are the lab's, and the boot must be sound.
func (h *fleetHost) MustBoot(t testing.TB) {
	t.Helper()
	h.Host.MustBoot(t)
	h.soundBoot()
}

// MustReboot is MustBoot for a host that is on.
func (h *fleetHost) MustReboot(t testing.TB) {
	t.Helper()
	h.Host.MustReboot(t)
	h.soundBoot()
}

// soundBoot checks what must hold after every boot that has the package: no ordering cycle, and the sockets are up.
func (h *fleetHost) soundBoot() {
	if h.gone {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r, err := h.Exec(ctx, "systemd-analyze", "verify", "--man=no", "default.target")
	if err != nil || strings.Contains(r.Stdout+r.Stderr, "cycle") {
		h.t.Errorf("host %s has an ordering cycle: %v %s%s", h.Name, err, r.Stdout, r.Stderr)
	}
	for _, unit := range []string{"sockets.target", "slipwayd.socket", "slipwayd-ro.socket"} {
		if r, err := h.Exec(ctx, "systemctl", "is-active", unit); err != nil || strings.TrimSpace(r.Stdout) != "active" {
			h.t.Errorf("host %s: %s is %q, not active (%v)", h.Name, unit, strings.TrimSpace(r.Stdout), err)
		}
	}
	if r, err := h.Exec(ctx, "journalctl", "--no-pager", "-q", "-g", "ordering cycle", "_PID=1"); err == nil && r.Stdout != "" {
		h.t.Errorf("host %s: systemd broke an ordering cycle: %s", h.Name, r.Stdout)
	}
}

func (h *fleetHost) status(ctx context.Context) (api.Status, error) {
	var st api.Status
	r, err := h.Exec(ctx, "slipway", "status", "--json")
	if err == nil {
		err = r.Err()
	}
	if err != nil {
		return st, err
	}
	return st, json.Unmarshal([]byte(r.Stdout), &st)
}

func (h *fleetHost) appStatus(ctx context.Context, app string) (api.AppStatus, error) {
	st, err := h.status(ctx)
	if err != nil {
		return api.AppStatus{}, err
	}
	for _, a := range st.Apps {
		if a.App == app {
			return a, nil
		}
	}
	return api.AppStatus{}, fmt.Errorf("the daemon does not know %s", app)
}

// app is the status of an app now.
func (h *fleetHost) app(app string) api.AppStatus {
	h.t.Helper()
	a, err := h.appStatus(h.t.Context(), app)
	if err != nil {
		h.t.Fatal(err)
	}
	return a
}

// waitApp waits until an app's status is as wanted and returns it.
func (h *fleetHost) waitApp(app, what string, ok func(api.AppStatus) bool) api.AppStatus {
	h.t.Helper()
	var got api.AppStatus
	h.WaitFor(h.t, 60*time.Second, app+": "+what, func(ctx context.Context) error {
		a, err := h.appStatus(ctx, app)
		if err != nil {
			return err
		}
		if got = a; !ok(a) {
			return errors.New(brief(a))
		}
		return nil
	})
	return got
}

// brief is a status on one line, for the message of a failed wait.
func brief(a api.AppStatus) string {
	last := ""
	if o := a.LastOutcome; o != nil {
		last = fmt.Sprintf(", last %s %s", o.Result, o.Version)
	}
	return fmt.Sprintf("it is %s, current %q, fallback %q%s, %d quarantined; %s", a.Phase, a.Current, a.Fallback, last, len(a.Quarantine), a.Why)
}

// waitCommitted waits until a version has passed its trial.
func (h *fleetHost) waitCommitted(app, version string) api.AppStatus {
	h.t.Helper()
	return h.waitApp(app, version+" is committed", func(a api.AppStatus) bool {
		return a.Version == version && a.Phase == "idle" && a.LastOutcome != nil && a.LastOutcome.Result == api.ResultCommitted && a.LastOutcome.Version == version
	})
}

// waitTrial waits until a version is in trial.
func (h *fleetHost) waitTrial(app, version string) api.AppStatus {
	h.t.Helper()
	return h.waitApp(app, version+" is in trial", func(a api.AppStatus) bool { return a.Version == version && a.Phase == "trial" })
}

// waitReverted waits until bad was hauled back to good and is in quarantine.
func (h *fleetHost) waitReverted(app, bad, good string) api.AppStatus {
	h.t.Helper()
	return h.waitApp(app, bad+" is reverted to "+cmp.Or(good, "nothing"), func(a api.AppStatus) bool {
		return a.Version == good && !a.Busy && a.LastOutcome != nil && a.LastOutcome.Result == api.ResultReverted && a.LastOutcome.Version == bad && quarantined(a, bad) != nil
	})
}

func quarantined(a api.AppStatus, version string) *api.Quarantine {
	for i := range a.Quarantine {
		if a.Quarantine[i].Version == version {
			return &a.Quarantine[i]
		}
	}
	return nil
}

// waitWhy waits until slipway why holds all the words.
func (h *fleetHost) waitWhy(app string, words ...string) string {
	h.t.Helper()
	return h.waitApp(app, fmt.Sprintf("why says %q", words), func(a api.AppStatus) bool {
		for _, w := range words {
			if !strings.Contains(a.Why, w) {
				return false
			}
		}
		return true
	}).Why
}

// daemonLog selects what slipwayd said, in this boot.
var daemonLog = lab.Filter{Unit: "slipwayd.service", Boot: "0"}

// get asks a service of the host over the lab's network.
func (h *fleetHost) get(ctx context.Context, port int, path string) (string, error) {
	client := http.Client{Transport: &http.Transport{DialContext: h.s.lab.DialContext, DisableKeepAlives: true}, Timeout: 3 * time.Second}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s:%d%s", h.Address, port, path), nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s: %s", path, resp.Status, body)
	}
	return string(body), err
}

// currentIs is a condition: the link names a release of the version, whatever the daemon knows.
func (h *fleetHost) currentIs(app, version string) func(context.Context) error {
	return func(ctx context.Context) error {
		r, err := h.Exec(ctx, "readlink", "/opt/slipway/"+app+"/current")
		if err == nil && !strings.HasPrefix(r.Stdout, "releases/"+version+"-") {
			err = fmt.Errorf("`current` names %q", strings.TrimSpace(r.Stdout))
		}
		return err
	}
}

// mainPID is the main process of a unit; "0" if it has none.
func (h *fleetHost) mainPID(unit string) string {
	h.t.Helper()
	return strings.TrimSpace(h.Run(h.t, "systemctl", "show", "-P", "MainPID", unit))
}
