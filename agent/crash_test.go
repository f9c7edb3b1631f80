package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/state"
)

// The environment of a child that lives the life below: the host's directory, and the directory of what outlives the daemon.
const (
	lifeEnv    = "SLIPWAY_TEST_LIFE"
	outsideEnv = "SLIPWAY_TEST_OUTSIDE"
	rebootEnv  = "SLIPWAY_TEST_REBOOTED"
	keptEnv    = "SLIPWAY_TEST_KEPT" // the child lives keptLife
)

// notOfTheLife are the failpoints that no ordinary life passes, and what tests them instead.
var notOfTheLife = map[string]string{
	"durable.reserve.before-free":     "a full disk: agent/durable, and TestADiskThatFillsUpDuringATrialDoesNotStopTheRevert",
	"durable.reserve.before-recreate": "a full disk: agent/durable, and TestADiskThatFillsUpDuringATrialDoesNotStopTheRevert",
	"store.swap.before-last-resort":   "a full disk: agent/store",
	"agent.revert.kept":               "a first installation: TestKillWhileAFailedFirstInstallationIsKept",
}

// life takes a host from nothing to 1.0, and with slots of a hub to 1.1, tries 1.2 which turns unhealthy, and takes the app off
// again. It can be started again wherever it was killed: what it wants next follows from the sequence the state remembers.
func life(w *world) {
	w.settings.Keep, w.settings.KeepFor = 1, time.Minute
	w.temper(v12(), temper{DiesAfter: 5 * time.Second})
	chapters := []struct {
		ship *ship
		hub  bool
		done func() bool
	}{
		{v10(), false, w.rests(v10())},
		{v11(), true, w.rests(v11())},
		{v12(), true, func() bool {
			q, bad := w.quarantine(v12())
			return w.phase(state.Idle)() && w.current() == v11().id && bad && q.Cause == state.CauseUnhealthy
		}},
		{nil, true, func() bool { return w.phase(state.Idle)() && w.current().IsZero() }},
	}
	if w.fresh() {
		must(w.t, os.MkdirAll(filepath.Join(w.tree.Root(), "releases", ".incoming-"+v13().digest.String()), 0o755))
		w.src.flaky = 1
	}
	w.start()
	for i := max(1, w.read().Sequence); i <= int64(len(chapters)); i++ {
		c := chapters[i-1]
		if c.hub {
			w.deploy(i, c.ship, underHub(nil))
		} else {
			w.deploy(i, c.ship)
		}
		w.until(fmt.Sprintf("chapter %d is done", i), func() bool { return w.read().Sequence >= i && c.done() })
		w.pass(20 * time.Minute) // old releases are pruned
		w.nothingInFlight()
		if cur := w.current(); w.sup.running(billing) != name(cur) {
			w.t.Errorf("chapter %d: current is %s, %q runs", i, cur, w.sup.running(billing))
		}
	}
	w.halt()
}

func name(id release.ID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}

func (w *world) fresh() bool {
	_, err := os.Stat(w.tree.Root())
	return err != nil
}

// TestLifeOfAChild is the child of the crash table and nothing by itself.
func TestLifeOfAChild(t *testing.T) {
	dir, outside := os.Getenv(lifeEnv), os.Getenv(outsideEnv)
	if dir == "" {
		return
	}
	for _, f := range []func() *ship{v10, v11, v12, v13} {
		f()
	}
	synctest.Test(t, func(t *testing.T) {
		seen := filepath.Join(outside, "clock")
		if data, err := os.ReadFile(seen); err == nil {
			last, err := time.Parse(time.RFC3339Nano, string(data))
			must(t, err)
			time.Sleep(time.Until(last) + time.Second)
		}
		began := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
		w := newWorld(t, dir, filepath.Join(outside, "supervisor"))
		w.clock.seen, w.clock.bootedAt = seen, began.Add(-time.Hour)
		w.hub = newDesk(filepath.Join(outside, "hub"))
		if os.Getenv(rebootEnv) != "" {
			w.bootAfterPowerCut()
		}
		if os.Getenv(keptEnv) != "" {
			keptLife(w)
			return
		}
		life(w)
	})
}

// keptLife is a first installation that fails and is kept for inspection, until a later release is installed.
func keptLife(w *world) {
	w.temper(v12(), temper{DiesAfter: 5 * time.Second})
	w.start()
	if w.read().Sequence < 2 {
		w.deploy(1, v12(), onFirstFailure("keep"))
		w.until("it is kept", func() bool { return w.phase(state.Idle)() && w.read().Keeps(w.current()) })
		w.keptStopped(v12())
	}
	w.deploy(2, v10())
	w.until("the next release is installed", w.rests(v10()))
	w.settledOn(v10())
	w.halt()
}

func TestKillWhileAFailedFirstInstallationIsKept(t *testing.T) {
	h, trace := host{t.TempDir(), t.TempDir()}, filepath.Join(t.TempDir(), "trace")
	if out, err := h.live(keptEnv+"=yes", "SLIPWAY_FAILPOINT_TRACE="+trace); err != nil {
		t.Fatalf("%v: %s", err, tail(out))
	}
	data, err := os.ReadFile(trace)
	must(t, err)
	points := strings.Fields(string(data))
	begins, ends := slices.Index(points, "agent.revert.saved"), len(points)
	for i, name := range points {
		if i > begins && name == "agent.activate.attempt-saved" {
			ends = i + 1
			break
		}
	}
	rows := steps(points)[begins:ends]
	t.Logf("crash table: %d kills", len(rows))
	inTurns(t, rows, func(t *testing.T, row string) {
		h := host{t.TempDir(), t.TempDir()}
		h.crash(t, fmt.Sprintf(row, "kill"), keptEnv+"=yes")
		h.checkPromises(t)
		if out, err := h.live(keptEnv + "=yes"); err != nil {
			t.Fatalf("the life cannot be finished: %v: %s", err, tail(out))
		}
		h.checkPromises(t)
	})
}

// bootAfterPowerCut is early boot: the guardian first, then the app. A release whose trial had not been healthy once may not
// start.
func (w *world) bootAfterPowerCut() {
	w.t.Helper()
	untried := w.read().Attempt
	w.sup.powerOff()
	w.clock.reboot()
	time.Sleep(30 * time.Second)
	ran := len(w.sup.Starts)
	must(w.t, w.newMachine().Boot(context.Background()))
	w.sup.powerOn()
	if started := w.sup.Starts[ran:]; untried != nil && !untried.WasHealthy && slices.Contains(started, untried.To.String()) {
		w.t.Errorf("%s was never healthy and started at boot in phase %s", untried.To, w.read().Phase)
	}
}

var failpointDir string

// failpointBinary is this test binary with the failpoints in it, built once.
var failpointBinary = sync.OnceValues(func() (string, error) {
	if durable.FailpointsBuilt {
		return os.Executable()
	}
	dir, err := os.MkdirTemp("", "agent-failpoints-")
	if err != nil {
		return "", err
	}
	failpointDir = dir
	cmd := exec.Command("go", "test", "-c", "-tags", "failpoints", "-o", filepath.Join(dir, "life"), ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return filepath.Join(dir, "life"), nil
})

// host is where one life takes place: dir is what a power cut hits, outside is what the daemon's death does not touch.
type host struct{ dir, outside string }

func (h host) live(env ...string) ([]byte, error) {
	path, err := failpointBinary()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, "-test.run=^TestLifeOfAChild$", "-test.timeout=60s")
	cmd.Env = append(append(os.Environ(), lifeEnv+"="+h.dir, outsideEnv+"="+h.outside, "GOMAXPROCS=2"), env...)
	return cmd.CombinedOutput()
}

func (h host) crash(t *testing.T, arm string, env ...string) {
	t.Helper()
	if !h.crashes(t, arm, env...) {
		t.Fatalf("%s was not reached", arm)
	}
}

// crashes reports whether the life came to the armed failpoint, and died of it; otherwise it came to its end.
func (h host) crashes(t *testing.T, arm string, env ...string) bool {
	t.Helper()
	out, err := h.live(append(env, "SLIPWAY_FAILPOINT="+arm)...)
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL) {
		t.Fatalf("%s: %v: %s", arm, err, tail(out))
	}
	return err != nil
}

// crashAt crashes a host at a row of the table. How often a host asks its hub depends on how long things take, so one life has a
// few passings less than the one that made the table: then the row stands for that life's last ones. Fresh makes a new host, and
// says how it crashes.
func crashAt(t *testing.T, row string, fresh func() (h host, how string)) host {
	t.Helper()
	const fewer = 10
	name, hit := strings.TrimSuffix(row[:strings.Index(row, ",hit=")], "=%s"), 0
	if _, err := fmt.Sscanf(row[strings.Index(row, ",hit="):], ",hit=%d", &hit); err != nil {
		t.Fatal(row, err)
	}
	for n := hit; n > max(0, hit-fewer); n-- {
		if h, how := fresh(); h.crashes(t, fmt.Sprintf("%s=%s,hit=%d", name, how, n)) {
			return h
		}
	}
	t.Fatalf("%s was not reached, nor the %d passings before", row, fewer)
	return host{}
}

// finish lives the life to its end after a crash and asserts the promises before and after.
func (h host) finish(t *testing.T, env ...string) {
	t.Helper()
	h.checkPromises(t)
	if out, err := h.live(env...); err != nil {
		t.Fatalf("the life cannot be finished: %v: %s", err, tail(out))
	}
	h.checkPromises(t)
	h.checkEnd(t)
}

func tail(out []byte) []byte { return out[:min(len(out), 3000)] }

// checkPromises asserts what must hold at every moment, from the disk alone.
func (h host) checkPromises(t *testing.T) {
	t.Helper()
	w := newWorld(t, h.dir, "")
	defer w.log.Close()
	for name, id := range map[string]release.ID{"current": w.current(), "fallback": w.fallback()} {
		if id.IsZero() {
			continue
		}
		if diffs, err := w.tree.Verify(context.Background(), id, false); err != nil || len(diffs) > 0 {
			t.Errorf("%s names %s, which is not whole: %v %v", name, id, err, diffs)
		}
	}
	st := w.read()
	for _, q := range st.Quarantine {
		if q.Cause == state.CauseUnhealthy && q.Digest != v12().digest {
			t.Errorf("%s is innocent and quarantined: %+v", q.ID, q)
		}
	}
	if a := st.Attempt; a != nil && w.current() == a.To && !a.Fallback.IsZero() {
		if diffs, err := w.tree.Verify(context.Background(), a.Fallback, false); err != nil || len(diffs) > 0 {
			t.Errorf("%s runs in phase %s and its fallback %s is not whole: %v %v", a.To, st.Phase, a.Fallback, err, diffs)
		}
	}
	if a := st.Attempt; a != nil && w.current() == a.To && (st.Phase == state.Activating || st.Phase == state.Trial) && w.fallback() != a.Fallback {
		t.Errorf("%s is on trial and the fallback link names %q, not %s", a.To, w.fallback(), a.Fallback)
	}
	h.checkWiring(t, w, st)
	if a := st.Attempt; a != nil && w.current() == a.To && st.Phase == state.Activating && w.state.Marker(billing) == nil {
		t.Errorf("%s is current, untried and not marked", a.To)
	}
}

// checkWiring asserts that no unit of an app can start an untried release at a boot whose guardian fails.
func (h host) checkWiring(t *testing.T, w *world, st *state.App) {
	t.Helper()
	a := st.Attempt
	if a == nil || w.current() != a.To || st.Phase != state.Activating && st.Phase != state.Trial {
		return
	}
	names, err := w.units.Owned(billing)
	must(t, err)
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(w.units.Path, name+".d", "20-slipway-trial.conf")); err != nil {
			t.Errorf("%s is untried in phase %s and %s does not require the boot guardian: %v", a.To, st.Phase, name, err)
		}
	}
}

// checkEnd asserts the end of the life: one outcome an attempt, no leftovers, the bad release blamed, the app off the host.
func (h host) checkEnd(t *testing.T) {
	t.Helper()
	w := newWorld(t, h.dir, filepath.Join(h.outside, "supervisor"))
	defer w.log.Close()
	w.nothingInFlight()
	st := w.read()
	if st.Phase != state.Idle || !w.current().IsZero() || st.Sequence != 4 || st.Last == nil || st.Last.Result != "removed" {
		t.Errorf("at the end: phase %s, current %s, sequence %d, last %+v", st.Phase, w.current(), st.Sequence, st.Last)
	}
	if q, _ := w.quarantine(v12()); q.Cause != state.CauseUnhealthy {
		t.Errorf("1.2 was unhealthy: %+v", q)
	}
	if names, err := w.units.Owned(billing); err != nil || len(names) > 0 {
		t.Errorf("units are left: %v %v", names, err)
	}
	if got := w.sup.running(billing); got != "" {
		t.Errorf("%s runs on a host it was taken off", got)
	}
	left, _ := filepath.Glob(filepath.Join(w.tree.Root(), "releases", ".[a-z]*"))
	if len(left) > 0 {
		t.Errorf("garbage is left: %v", left)
	}
	h.checkHub(t)
}

// checkHub asserts that every slot came back with the report of how it was used.
func (h host) checkHub(t *testing.T) {
	t.Helper()
	hub, ended := newDesk(filepath.Join(h.outside, "hub")), map[fleet.Result]int{}
	for fence := int64(1); fence <= hub.Last; fence++ {
		ended[hub.Reports[fence].Result]++
	}
	if hub.Holder != nil || ended[fleet.Committed] != 2 || ended[fleet.Reverted] < 1 || ended[""] > 0 {
		t.Errorf("held: %+v, reports: %v", hub.Holder, hub.Reports)
	}
}

// passed lists every failpoint of an undisturbed life, in order.
func passed(t *testing.T) []string {
	t.Helper()
	h, trace := host{t.TempDir(), t.TempDir()}, filepath.Join(t.TempDir(), "trace")
	if out, err := h.live("SLIPWAY_FAILPOINT_TRACE=" + trace); err != nil {
		t.Fatalf("%v: %s", err, tail(out))
	}
	h.checkPromises(t)
	h.checkEnd(t)
	data, err := os.ReadFile(trace)
	must(t, err)
	return strings.Fields(string(data))
}

// steps are the rows of the table: every passing of every failpoint, as "name" and how often it was passed before.
func steps(points []string) (rows []string) {
	seen := map[string]int{}
	for _, name := range points {
		seen[name]++
		rows = append(rows, fmt.Sprintf("%s=%%s,hit=%d", name, seen[name]))
	}
	return rows
}

func TestEveryFailpointIsPassedByTheLifeOrListed(t *testing.T) {
	points := passed(t)
	for _, name := range durable.Failpoints() {
		_, listed := notOfTheLife[name]
		if hit := slices.Contains(points, name); hit == listed {
			t.Errorf("failpoint %s: passed by the life is %v, listed as not is %v", name, hit, listed)
		}
	}
	for name := range notOfTheLife {
		if !slices.Contains(durable.Failpoints(), name) {
			t.Errorf("%s is listed and does not exist", name)
		}
	}
	distinct := slices.Compact(slices.Sorted(slices.Values(points)))
	t.Logf("a life passes %d durable steps under %d names; %d names are tested elsewhere", len(points), len(distinct), len(notOfTheLife))
}

// inTurns runs f for every row, two at a time.
//
// The rows run in parallel to each other and never to other tests.
func inTurns(t *testing.T, rows []string, f func(t *testing.T, row string)) {
	t.Helper()
	turns := make(chan struct{}, 2)
	t.Run("table", func(t *testing.T) {
		for _, row := range rows {
			t.Run(row, func(t *testing.T) {
				t.Parallel()
				turns <- struct{}{}
				defer func() { <-turns }()
				f(t, row)
			})
		}
	})
}

func TestKillAtEveryDurableStepKeepsThePromises(t *testing.T) {
	rows := steps(passed(t))
	t.Logf("crash table: %d kills", len(rows))
	inTurns(t, rows, func(t *testing.T, row string) {
		crashAt(t, row, func() (host, string) { return host{t.TempDir(), t.TempDir()}, "kill" }).finish(t)
	})
}

// TestPowerCutAtEveryFailpointKeepsThePromises cuts at the first and at the last passing of every name: installing and
// upgrading differ, and so do upgrading and reverting.
func TestPowerCutAtEveryFailpointKeepsThePromises(t *testing.T) {
	needRoot(t)
	var rows []string
	all := steps(passed(t))
	for _, name := range durable.Failpoints() {
		of := slices.DeleteFunc(slices.Clone(all), func(row string) bool { return !strings.HasPrefix(row, name+"=") })
		if len(of) > 0 {
			rows = append(rows, slices.Compact([]string{of[0], of[len(of)/2], of[len(of)-1]})...)
		}
	}
	t.Logf("crash table: %d power cuts", len(rows))
	inTurns(t, rows, func(t *testing.T, row string) {
		var d *disk
		h := crashAt(t, row, func() (host, string) {
			d = newDisk(t)
			h := host{filepath.Join(d.mount, "host"), t.TempDir()}
			must(t, os.Mkdir(h.dir, 0o755))
			must(t, durable.SyncFS(d.mount))
			return h, "powercut:" + d.mount
		})
		must(t, unix.Unmount(d.mount, 0))
		d.attach()
		h.finish(t, rebootEnv+"=yes")
	})
}

// TestKillDuringARecoveryKeepsThePromises kills a second time, at every durable step of what the restart after the first kill
// does first.
func TestKillDuringARecoveryKeepsThePromises(t *testing.T) {
	const stepsOfARecovery = 18
	for name, first := range map[string]string{
		"before the swap": "agent.activate.guard-armed=kill,hit=2",
		"after the swap":  "agent.activate.swapped=kill,hit=2",
		"committed":       "agent.commit.saved=kill,hit=2",
		"reverting":       "agent.revert.saved=kill,hit=1",
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			h, trace := host{t.TempDir(), t.TempDir()}, filepath.Join(t.TempDir(), "trace")
			h.crash(t, first)
			if out, err := h.live("SLIPWAY_FAILPOINT_TRACE=" + trace); err != nil {
				t.Fatalf("%v: %s", err, tail(out))
			}
			data, err := os.ReadFile(trace)
			must(t, err)
			rows := steps(strings.Fields(string(data))[:stepsOfARecovery])
			t.Logf("crash table: %d double kills", len(rows))
			inTurns(t, rows, func(t *testing.T, row string) {
				h := host{t.TempDir(), t.TempDir()}
				h.crash(t, first)
				h.crash(t, fmt.Sprintf(row, "kill"))
				h.finish(t)
			})
		})
	}
}

// disk is a small ext4 in a file, made once and copied.
type disk struct {
	t            *testing.T
	image, mount string
}

var emptyDisk = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "disk-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	image := filepath.Join(dir, "image")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 24<<20)); err != nil {
		return nil, err
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-m", "0", image).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("mkfs.ext4: %w: %s", err, bytes.TrimSpace(out))
	}
	return os.ReadFile(image)
})

func newDisk(t *testing.T) *disk {
	t.Helper()
	data, err := emptyDisk()
	must(t, err)
	d := &disk{t, filepath.Join(t.TempDir(), "image"), t.TempDir()}
	must(t, os.WriteFile(d.image, data, 0o600))
	d.attach()
	t.Cleanup(func() { unix.Unmount(d.mount, unix.MNT_DETACH) })
	return d
}

func (d *disk) attach() {
	d.t.Helper()
	if out, err := exec.Command("mount", "-o", "loop,noauto_da_alloc", d.image, d.mount).CombinedOutput(); err != nil {
		d.t.Fatalf("mount: %v: %s", err, out)
	}
}
