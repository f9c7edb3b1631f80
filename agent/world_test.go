package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/slipway-deploy/slipway/agent"
	"github.com/slipway-deploy/slipway/agent/audit"
	"github.com/slipway-deploy/slipway/agent/gate"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/state"
	"github.com/slipway-deploy/slipway/agent/store"
	"github.com/slipway-deploy/slipway/agent/units"
)

// world is a host: real store, state, unit directory and audit log in a temporary directory, and a supervisor, a repository
// and a clock that tests can trouble.
type world struct {
	t     *testing.T
	dir   string
	app   release.App
	src   *source
	sup   *supervisor
	clock *clock
	store *store.Store
	tree  *store.App
	state *state.Dir
	units units.Dir
	log   *audit.File
	gates []gate.Gate
	slots chan struct{}
	hub   *desk // nil: no coordinator

	settings agent.Settings
	machine  *agent.Machine
	stop     func()

	mu     sync.Mutex
	events []audit.Event
}

// story runs f in a bubble of fake time on a new host.
func story(t *testing.T, f func(w *world)) {
	t.Helper()
	prebuild()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, t.TempDir(), "")
		defer w.halt()
		f(w)
	})
}

func newWorld(t *testing.T, dir, supervisorFile string) *world {
	t.Helper()
	must(t, os.MkdirAll(filepath.Join(dir, "units"), 0o755))
	st, err := state.Open(filepath.Join(dir, "var"))
	must(t, err)
	log, err := audit.OpenFile(filepath.Join(dir, "audit", "log"))
	must(t, err)
	w := &world{
		t: t, dir: dir, app: billing, src: newSource(), sup: newSupervisor(dir, supervisorFile), clock: newClock(),
		store: store.Open(filepath.Join(dir, "opt")), state: st, units: units.Dir{Path: filepath.Join(dir, "units")}, log: log,
		slots:    make(chan struct{}, 1),
		settings: agent.Settings{Environment: production, HostID: "host-1", Keep: 2, KeepFor: time.Hour},
	}
	w.tree = w.store.App(billing)
	return w
}

type noAccounts struct{}

func (noAccounts) Ensure(context.Context, release.App, []release.User, []release.Directory) error {
	return nil
}

func (w *world) deps() agent.Deps {
	d := w.plainDeps()
	if w.hub != nil {
		d.Coordinator = w.member()
	}
	return d
}

func (w *world) plainDeps() agent.Deps {
	return agent.Deps{
		Source: w.src, Store: w.store, State: w.state, Units: w.units, Manager: w.sup, Tasks: w.sup, Guards: w.sup, Accounts: noAccounts{},
		Gates: w.gates, Sink: w.log, Clock: w.clock, Log: hclog.NewNullLogger(), StageSlots: w.slots,
		Observe: func(e audit.Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, e)
		},
	}
}

// newMachine is another process that works on the same app: guard, boot guardian, package script.
func (w *world) newMachine() *agent.Machine { return agent.NewMachine(w.app, w.deps(), w.settings) }

// start runs the daemon; halt ends it.
func (w *world) start() {
	w.halt()
	w.machine = w.newMachine()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func(m *agent.Machine) { defer close(done); m.Run(ctx) }(w.machine)
	w.stop = func() { cancel(); <-done }
}

func (w *world) halt() {
	if w.stop != nil {
		w.stop()
		w.stop = nil
	}
}

type deployOption func(*release.Deployment)

// deploy signs a deployment of s (nil: absent) and wakes the daemon.
func (w *world) deploy(sequence int64, s *ship, options ...deployOption) {
	w.t.Helper()
	d := &release.Deployment{
		Schema: release.DeploymentSchema, App: w.app, Environment: production, Sequence: sequence, RolloutID: fmt.Sprint("r", sequence), State: release.StateActive,
		Created: built, Health: &release.TrialPolicy{MinHealthyTime: release.Duration(20 * time.Second), HealthyDeadline: release.Duration(2 * time.Minute)},
	}
	if s == nil {
		d.Absent = true
	} else {
		d.App, d.Release = s.app, s.ref()
		w.src.publish(s)
	}
	for _, o := range options {
		o(d)
	}
	data, err := release.Encode(d)
	must(w.t, err)
	w.src.put(release.DeploymentPath(production, d.App), data)
	if w.machine != nil {
		w.machine.Wake()
	}
}

func (w *world) temper(s *ship, t temper) {
	w.sup.set(func(x *supervisor) { x.tempers[s.app.String()+" "+s.version.String()] = t })
}

// until lets time pass until cond holds, for at most four hours.
func (w *world) until(what string, cond func() bool) {
	w.t.Helper()
	for range 4 * 60 * 60 * 2 {
		synctest.Wait()
		if cond() {
			return
		}
		time.Sleep(500 * time.Millisecond)
	}
	st := w.read()
	w.t.Fatalf("waited four hours in vain: %s; phase %s, attempt %+v, last %+v, why %q", what, st.Phase, st.Attempt, st.Last, w.why())
}

// pass lets exactly d pass.
func (w *world) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (w *world) why() string {
	if w.machine == nil {
		return ""
	}
	return w.machine.View().Why
}

func (w *world) read() *state.App {
	w.t.Helper()
	st, err := w.state.Read(w.app)
	must(w.t, err)
	return st
}

func (w *world) phase(p state.Phase) func() bool {
	return func() bool { st, err := w.state.Read(w.app); return err == nil && st.Phase == p }
}

func (w *world) current() release.ID {
	w.t.Helper()
	id, err := w.tree.Current()
	if errors.Is(err, store.ErrNone) {
		return release.ID{}
	}
	must(w.t, err)
	return id
}

func (w *world) fallback() release.ID {
	w.t.Helper()
	id, err := w.tree.Fallback()
	if errors.Is(err, store.ErrNone) {
		return release.ID{}
	}
	must(w.t, err)
	return id
}

func (w *world) outcome() state.Outcome {
	if last := w.read().Last; last != nil {
		return *last
	}
	return state.Outcome{}
}

// installed is a host on which s was deployed under sequence and committed.
func (w *world) installed(sequence int64, s *ship) {
	w.t.Helper()
	w.start()
	w.deploy(sequence, s)
	w.until(s.id.String()+" is committed", w.rests(s))
}

// rests reports whether s is current, known good, and nothing is in flight.
func (w *world) rests(s *ship) func() bool {
	return func() bool {
		st, err := w.state.Read(w.app)
		if err != nil || st.Phase != state.Idle || w.current() != s.id {
			return false
		}
		_, good := st.Good(s.id)
		return good
	}
}

func (w *world) ended(result string) func() bool {
	return func() bool {
		st, err := w.state.Read(w.app)
		return err == nil && st.Attempt == nil && st.Last != nil && st.Last.Result == result
	}
}

func (w *world) quarantine(s *ship) (state.Quarantine, bool) {
	for _, q := range w.read().Quarantine {
		if q.Digest == s.digest {
			return q, true
		}
	}
	return state.Quarantine{}, false
}

// settledOn asserts that s runs, is whole, and that nothing of a trial is left behind.
func (w *world) settledOn(s *ship) {
	w.t.Helper()
	if got := w.current(); got != s.id {
		w.t.Errorf("current is %s, want %s", got, s.id)
	}
	if got := w.sup.running(s.app); got != s.id.String() {
		w.t.Errorf("the service runs %q, want %s", got, s.id)
	}
	diffs, err := w.tree.Verify(context.Background(), s.id, false)
	if err != nil || len(diffs) > 0 {
		w.t.Errorf("current is not whole: %v %v", err, diffs)
	}
	w.nothingInFlight()
}

func (w *world) nothingInFlight() {
	w.t.Helper()
	if mark := w.state.Marker(w.app); mark != nil {
		w.t.Errorf("the marker is left: %+v", mark)
	}
	if len(w.sup.Guards) > 0 {
		w.t.Errorf("guards are left: %v", w.sup.Guards)
	}
	if left, _ := filepath.Glob(filepath.Join(w.dir, "units", "*", "20-slipway-trial.conf")); len(left) > 0 {
		w.t.Errorf("trial drop-ins are left: %v", left)
	}
	seen := map[string]bool{}
	for _, o := range w.read().History {
		if o.Attempt != "" && seen[o.Attempt] {
			w.t.Errorf("attempt %s has two outcomes: %+v", o.Attempt, w.read().History)
		}
		seen[o.Attempt] = true
	}
}

// told reports whether an event's message holds text.
func (w *world) told(text string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.events, func(e audit.Event) bool { return strings.Contains(e.Message, text) })
}

func (w *world) mustTell(text string) {
	w.t.Helper()
	if !w.told(text) {
		var all []string
		for _, e := range w.events {
			all = append(all, e.Message)
		}
		w.t.Errorf("nobody said %q; said was:\n%s", text, strings.Join(all, "\n"))
	}
}

func kindOf(err error) string {
	var k interface{ Kind() string }
	if errors.As(err, &k) {
		return k.Kind()
	}
	return ""
}

// command is one made by an operator who looks right now.
func command(w *world) agent.Command {
	return agent.Command{Expect: w.read().Revision, By: "ann", Reason: "because"}
}
