package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/slipway-deploy/slipway/agent/audit"
	"github.com/slipway-deploy/slipway/agent/health"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/rollout"
	"github.com/slipway-deploy/slipway/agent/state"
	"github.com/slipway-deploy/slipway/agent/store"
)

// Machine runs one app. Run is its only long-lived goroutine; commands (commands.go) change saved state under the app's
// lock and wake it. What is kept in memory here is for display or can be worked out again.
type Machine struct {
	Deps
	app  release.App
	tree *store.App

	pulse pulse // of Run's goroutine

	wake     chan struct{}
	verdicts chan verdict
	swept    bool        // used by Run's goroutine alone
	loaded   atomic.Bool // the manager has read the unit files as this process last wrote them

	mu        sync.Mutex
	settings  Settings
	view      View
	interrupt context.CancelCauseFunc // ends the step in progress, if that step may be ended
	entry     *entry                  // the activation under way
	watching  string                  // the attempt whose trial is being watched
	endWatch  context.CancelFunc

	// expectsRefresh is set while the first refresh of this process is still to come to its end.
	expectsRefresh bool

	slots slots
	hint  func() // there may be news to fetch; nil if nobody fetches

	overruling atomic.Bool
	ranked     atomic.Pointer[ranked]
	nudged     bool // `apply`: do not wait out a back-off jitter
}

// View is what a machine shows of itself beyond its saved state.
type View struct {
	Why        string
	Candidate  release.ID
	Deployment *release.Deployment
	Progress   *Progress
	Checks     []health.CheckState
	Busy       bool
	// Turn is what the rollout's rules said when the app was last looked at; nil if there was nothing for them to decide.
	Turn *rollout.Decision
	// Slot is the coordinator's last word; nil if none was asked.
	Slot *SlotAnswer
}

// NewMachine makes the machine of app. It does nothing until Run, Guard or Boot is called.
func NewMachine(app release.App, d Deps, s Settings) *Machine {
	return &Machine{
		Deps: d, app: app, tree: d.Store.App(app), settings: s,
		wake: make(chan struct{}, 1), verdicts: make(chan verdict),
	}
}

// App is the app this machine runs.
func (m *Machine) App() release.App { return m.app }

// SetSettings replaces the host's wishes; they count from the next step on.
func (m *Machine) SetSettings(s Settings) {
	m.mu.Lock()
	m.settings = s
	m.mu.Unlock()
	m.Wake()
}

// refreshed says whether a refresh has ended, well or not. Wake makes it count.
func (m *Machine) refreshed(ended bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expectsRefresh = !ended
}

func (m *Machine) cfg() Settings {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.settings
}

// Disabled reports whether the configuration keeps this app from starting anything new.
func (m *Machine) Disabled() bool { return m.cfg().Disabled }

// Wake makes the machine look again now: metadata changed, a command was saved, a unit changed.
func (m *Machine) Wake() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// View returns what the machine shows of itself.
func (m *Machine) View() View {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.view
}

func (m *Machine) show(f func(*View)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(&m.view)
}

// setWhy changes the sentence that `why` prints and reports whether it is a new one.
func (m *Machine) setWhy(why string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	changed := m.view.Why != why
	m.view.Why = why
	return changed
}

// errSuperseded ends a step because a command or newer metadata made it pointless.
var errSuperseded = errors.New("superseded")

// idleWait is how often a machine looks without being woken; metadata has its own timer.
const idleWait = 5 * time.Minute

// Run recovers what an earlier run left and then works until ctx ends. It never leaves a half-done step behind that recover
// would not find.
func (m *Machine) Run(ctx context.Context) {
	m.pulse.within(stepPatience, "its recovery")
	defer m.pulse.rest()
	m.recover(ctx)
	for ctx.Err() == nil {
		m.pulse.within(stepPatience, "a step")
		timer := time.NewTimer(m.step(ctx))
		m.pulse.rest()
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-m.wake:
		case v := <-m.verdicts:
			m.pulse.within(stepPatience, "the end of a trial")
			m.finish(ctx, v)
		}
		timer.Stop()
	}
	m.pause()
}

// step does what the saved phase asks for and says how long to wait before looking again.
func (m *Machine) step(ctx context.Context) time.Duration {
	st, err := m.State.Read(m.app)
	if err != nil {
		return m.recoverDamaged(ctx)
	}
	m.show(func(v *View) { v.Busy = st.Phase != state.Idle && st.Phase != state.Waiting && st.Phase != state.Stuck })
	switch st.Phase {
	case state.Trial:
		m.watch(ctx, st)
		m.overrule(ctx, st)
		return idleWait
	case state.Activating:
		m.recover(ctx)
	case state.Committed:
		m.settleCommit(ctx, st.Attempt)
	case state.Reverting:
		m.revert(ctx)
	case state.Removing:
		m.remove(ctx)
	default:
		return m.consider(ctx)
	}
	return m.afterStep()
}

// afterStep looks again at once when the step led to another phase, and soon when it could not finish.
func (m *Machine) afterStep() time.Duration {
	st, err := m.State.Read(m.app)
	if err == nil && (st.Phase == state.Idle || st.Phase == state.Stuck || st.Phase == state.Trial) {
		return 0
	}
	return retryStep
}

const retryStep = 5 * time.Second

// interruptible runs f with a context that a command may end with errSuperseded.
func (m *Machine) interruptible(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	m.mu.Lock()
	m.interrupt = cancel
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		m.interrupt = nil
		m.mu.Unlock()
	}()
	err := f(ctx)
	if err != nil && errors.Is(context.Cause(ctx), errSuperseded) {
		return errSuperseded
	}
	return err
}

func (m *Machine) interruptStep() {
	m.mu.Lock()
	cancel := m.interrupt
	m.mu.Unlock()
	if cancel != nil {
		cancel(errSuperseded)
	}
	m.Wake()
}

// locked runs f with the app's lock and freshly read state. f saves; locked saves nothing.
func (m *Machine) locked(ctx context.Context, f func(*state.Tx) error) error {
	tx, err := m.State.Lock(ctx, m.app)
	if err != nil {
		return err
	}
	defer tx.Unlock()
	return f(tx)
}

func newAttemptID() string {
	var b [6]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// current reads the link; none is the zero ID.
func (m *Machine) current() (release.ID, error) {
	id, err := m.tree.Current()
	if errors.Is(err, store.ErrNone) {
		return release.ID{}, nil
	}
	return id, err
}

// fail reports an error of a step that will be tried again by itself.
func (m *Machine) fail(what string, err error) {
	if errors.Is(err, context.Canceled) || errors.Is(err, errSuperseded) {
		return
	}
	message := fmt.Sprintf("%s: %v", what, err)
	if m.setWhy(message) {
		_ = m.report(audit.Event{Type: "wait", Cause: kindOf(err), Message: message})
	}
}
