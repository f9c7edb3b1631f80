package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/rollout"
	"github.com/slipway-deploy/slipway/agent/state"
)

// Coordinator hands out slots: the right to be unavailable for one update. It can make this host wait and nothing else; what may
// be done with its words is decided by rollout.Decide. Every method returns when its context ends.
type Coordinator interface {
	// Ask asks for a slot, or tells how the app is if none is wanted. A grant is durable before Ask returns; one that is not
	// wanted any more is given back.
	Ask(ctx context.Context, q SlotQuestion) SlotAnswer
	// Check is the last question before an app is touched. It first makes durable that it may be. After nil the app may be
	// touched for the returned time, counted from before the call; after an error it must not.
	Check(ctx context.Context, app release.App, fence int64) (time.Duration, error)
	// End makes durable how it ended and tells the coordinator. An error means that it is not acknowledged yet; calling again
	// repeats it.
	End(ctx context.Context, app release.App, e SlotEnd) error
	// Held is the slot this host has of an app; its Fence is zero if there is none.
	Held(app release.App) (HeldSlot, error)
}

// SlotWant is what a slot is wanted for.
type SlotWant string

// The wants. Removing an app is a way forward, too.
const (
	WantNothing SlotWant = ""
	WantForward SlotWant = "forward"
	WantBack    SlotWant = "back"
)

// SlotQuestion is what a coordinator is asked or told.
type SlotQuestion struct {
	Deployment  *release.Deployment
	Document    release.Digest // of the deployment's bytes
	Epoch       int64          // of the emergency document, zero without one
	Labels      map[string]string
	Want        SlotWant
	Wave        string
	Current     release.ID // what `current` names, with its digest; zero if nothing is installed
	Digest      release.Digest
	Serves      bool
	Phase, Why  string
	Environment release.Environment
}

// SlotAnswer is what was heard. Rule is the coordinator's own word for a wait. Hint grows when a refresh may find news. Poll is
// when to ask again, zero if the coordinator does not care.
type SlotAnswer struct {
	rollout.Slot
	Fence int64
	Rule  string
	Hint  int64
	Poll  time.Duration
}

// SlotEnd is how what had a slot ended. Serves says whether the app serves now, whatever runs: while it does not, the slot stays
// in use.
type SlotEnd struct {
	Fence   int64
	Result  string // an outcome's, or "skipped" if nothing was touched; a slot to go back is meant to end "reverted"
	Cause   string
	Reason  string
	Current release.ID
	Digest  release.Digest
	Serves  bool
}

// HeldSlot is a slot in this host's hands. Begun says that the app may have been touched under it, Ended that a report of it is
// durable, Serves what that report says.
type HeldSlot struct {
	Fence                int64
	Begun, Ended, Serves bool
}

const (
	// coordinatorPatience bounds one exchange with a coordinator.
	coordinatorPatience = 10 * time.Second
	// checkPatience bounds the last check, which holds the app's lock: less than the guard's own patience.
	checkPatience   = 8 * time.Second
	defaultSlotPoll = 30 * time.Second
	longestSlotPoll = time.Hour
	skipped         = "skipped"
)

// slots is what a machine remembers of its coordinator between steps. What must survive a restart is in the coordinator's own
// journal and in the state.
type slots struct {
	answer  SlotAnswer
	rollout string // the answer is about
	want    SlotWant
	due     time.Duration // on the boot clock: nothing is asked before
	polls   bool          // the deployment names a coordinator, or something is owed to one
	hint    int64
	hinted  bool // hint was heard in this process
}

func coordinated(d *release.Deployment) bool {
	return d.Coordinator != nil && d.Coordinator.Kind != "" && d.Coordinator.Kind != "none"
}

// slot is the coordinator's word on w as it was last heard.
func (m *Machine) slot(w *wish) rollout.Slot {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !coordinated(w.deployment) || m.slots.rollout != w.deployment.RolloutID {
		return rollout.Slot{}
	}
	return m.slots.answer.Slot
}

// forgetGrant makes a look begin without a slot: one that was granted earlier has to be shown again.
func (m *Machine) forgetGrant() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.slots.answer.Answer == rollout.AnswerGranted {
		m.slots.answer.Slot, m.slots.answer.Fence, m.slots.due = rollout.Slot{Order: m.slots.answer.Order}, 0, 0
	}
}

// tell keeps the coordinator informed between updates, and hears its orders: at most once in a poll.
func (m *Machine) tell(ctx context.Context, st *state.App, w *wish, d rollout.Decision) rollout.Decision {
	if !coordinated(w.deployment) {
		m.letGo(ctx, st)
		return d
	}
	m.polls(true)
	if d.Rule == rollout.RuleCoordinator || !m.slotDue(w, WantNothing) {
		return d
	}
	m.ask(ctx, st, w, d, WantNothing)
	return m.decide(ctx, st, w)
}

// askFor asks for the slot that is the last thing missing, unless that was just done, and decides anew.
func (m *Machine) askFor(ctx context.Context, st *state.App, w *wish, d rollout.Decision) rollout.Decision {
	if d.Act || d.Rule != rollout.RuleCoordinator || !coordinated(w.deployment) {
		return d
	}
	want := WantForward
	if d.Verb == rollout.VerbRevert {
		want = WantBack
	}
	if !m.slotDue(w, want) {
		return d
	}
	m.ask(ctx, st, w, d, want)
	return m.decide(ctx, st, w)
}

// slotDue paces questions: the same one is asked again when the poll is due, a new one at once, and so is any after `apply`.
func (m *Machine) slotDue(w *wish, want SlotWant) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	same := m.slots.rollout == w.deployment.RolloutID && (want == WantNothing || m.slots.want == want)
	return !same || m.nudged && want != WantNothing || m.Clock.Boot() >= m.slots.due
}

func (m *Machine) ask(ctx context.Context, st *state.App, w *wish, d rollout.Decision, want SlotWant) {
	if m.Coordinator == nil {
		m.heard(w, want, SlotAnswer{Slot: rollout.Slot{Answer: rollout.AnswerWait, Reason: "this process speaks to no coordinator"}})
		return
	}
	defer m.pulse.busy(coordinatorPatience+servesPatience, "the coordinator")()
	q := SlotQuestion{
		Deployment: w.deployment, Document: release.Sum(w.depDoc.Bytes), Labels: m.cfg().Labels, Environment: m.cfg().Environment, Want: want,
		Wave: d.Wave, Phase: string(st.Phase), Why: d.Because,
	}
	if w.emergency != nil {
		q.Epoch = w.emergency.Epoch
	}
	q.Current, q.Digest, q.Serves = m.serving(ctx, st)
	ctx, cancel := context.WithTimeout(ctx, coordinatorPatience)
	defer cancel()
	m.heard(w, want, m.Coordinator.Ask(ctx, q))
}

// serving is what runs and whether it serves. An app that is not installed has nothing to serve.
func (m *Machine) serving(ctx context.Context, st *state.App) (id release.ID, digest release.Digest, serves bool) {
	id, err := m.current()
	if err != nil || id.IsZero() {
		return release.ID{}, digest, true
	}
	_, digest, err = m.tree.Release(id)
	return id, digest, err == nil && !st.Keeps(id) && m.serves(ctx, id)
}

// heard takes an answer in: when to ask next, and whether there is news to fetch.
func (m *Machine) heard(w *wish, want SlotWant, a SlotAnswer) {
	a.Back = want == WantBack
	m.mu.Lock()
	news := a.Hint != 0 && m.slots.hinted && a.Hint != m.slots.hint || a.Rule == slotRulePlan
	if a.Hint != 0 {
		m.slots.hint, m.slots.hinted = a.Hint, true
	}
	m.slots.answer, m.slots.rollout, m.slots.want = a, w.deployment.RolloutID, want
	m.slots.due = m.Clock.Boot() + m.pollIn(a.Poll)
	m.view.Slot = &a
	m.mu.Unlock()
	if news && m.hint != nil {
		m.hint()
	}
}

// slotRulePlan is the coordinator's word for not having read the same deployment.
const slotRulePlan = "plan"

// pollIn is the coordinator's wish within bounds, or the host's own, later by a random share so that a fleet does not ask in
// step. The caller holds mu.
func (m *Machine) pollIn(wish time.Duration) time.Duration {
	poll := orElse(m.settings.SlotPoll, defaultSlotPoll)
	if wish > 0 {
		poll = min(max(wish, time.Second), longestSlotPoll)
	}
	return poll + rand.N(poll/5+1)
}

// untilAsk shortens a wait to the next poll.
func (m *Machine) untilAsk(wait time.Duration) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.slots.polls {
		return wait
	}
	return min(wait, max(time.Second, m.slots.due-m.Clock.Boot()))
}

// settleSlot reports how what had a slot ended, until that is acknowledged, whoever ended it: this daemon, an earlier one, the
// guard or the boot guardian. It is asked of an app at rest.
func (m *Machine) settleSlot(ctx context.Context, st *state.App) {
	if m.Coordinator == nil {
		return
	}
	held, err := m.Coordinator.Held(m.app)
	if err != nil {
		m.Log.Error("the journal of slots cannot be read", "app", m.app, "error", err)
		return
	}
	owes := held.Fence != 0 && (held.Ended || held.Begun || st.EndOf(held.Fence) != nil) && !st.UnderWay(held.Fence)
	if m.polls(owes); owes && (!held.Ended || m.askDue()) {
		m.reportSlot(ctx, st, held)
	}
}

// polls says whether there is somebody to ask or tell at every poll.
func (m *Machine) polls(yes bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.slots.polls = yes
}

func (m *Machine) askDue() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.Clock.Boot() >= m.slots.due
}

// letGo gives back, or reports, whatever slot is held by an app that no coordinator is asked about any more.
func (m *Machine) letGo(ctx context.Context, st *state.App) {
	if m.Coordinator == nil {
		return
	}
	held, err := m.Coordinator.Held(m.app)
	if err != nil || held.Fence == 0 || st.UnderWay(held.Fence) {
		return
	}
	if m.polls(true); !held.Ended || m.askDue() {
		m.reportSlot(context.WithoutCancel(ctx), st, held)
	}
}

// letGoUnused gives the slot back of an activation that came to nothing before anything was touched.
func (m *Machine) letGoUnused(ctx context.Context) {
	fence := m.grant()
	if fence == 0 {
		return
	}
	if st, err := m.State.Read(m.app); err == nil && !st.UnderWay(fence) && st.EndOf(fence) == nil {
		m.letGo(ctx, st)
	}
}

func (m *Machine) reportSlot(ctx context.Context, st *state.App, held HeldSlot) {
	defer m.pulse.busy(coordinatorPatience+servesPatience, "reporting to the coordinator")()
	e := SlotEnd{Fence: held.Fence, Result: skipped, Reason: "nothing that this host knows of happened under it"}
	if o := st.EndOf(held.Fence); o != nil {
		e.Result, e.Cause, e.Reason = o.Result, string(o.Cause), o.Reason
	}
	e.Current, e.Digest, e.Serves = m.serving(ctx, st)
	ctx, cancel := context.WithTimeout(ctx, coordinatorPatience)
	defer cancel()
	err := m.Coordinator.End(ctx, m.app, e)
	if err != nil && !errors.Is(err, context.Canceled) {
		m.Log.Warn("the coordinator has not acknowledged the end of an update yet", "app", m.app, "fence", held.Fence, "error", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.slots.due = 0; err != nil || !e.Serves {
		m.slots.due = m.Clock.Boot() + m.pollIn(0)
	}
}

// slotRefusedError says that the last check was not answered with yes. Nothing was touched.
type slotRefusedError struct{ err error }

func (e *slotRefusedError) Error() string {
	return "the coordinator did not confirm the slot: " + e.err.Error()
}

func (e *slotRefusedError) Unwrap() error { return e.err }

// Kind names this error for metrics and the wire.
func (e *slotRefusedError) Kind() string { return "slot" }

// grant is the fence to act under: zero if rollout.Decide lets the host go without one.
func (m *Machine) grant() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.slots.answer.Answer == rollout.AnswerGranted {
		return m.slots.answer.Fence
	}
	return 0
}

// lastCheck asks the coordinator once more and answers until when, on the boot clock, the app may be touched. Without a fence
// nobody has to be asked.
func (m *Machine) lastCheck(ctx context.Context, fence int64) (until time.Duration, err error) {
	if fence == 0 {
		return noCheck, nil
	}
	asked := m.Clock.Boot()
	ctx, cancel := context.WithTimeout(ctx, checkPatience)
	defer cancel()
	within, err := m.Coordinator.Check(ctx, m.app, fence)
	if err != nil {
		return 0, &slotRefusedError{err}
	}
	return asked + within, nil
}

// noCheck is the end of a confirmation that nobody has to give.
const noCheck = 1<<63 - 1

// stillConfirmed refuses to act on a check that has become old.
func (m *Machine) stillConfirmed(until time.Duration) error {
	if m.Clock.Boot() > until {
		return &slotRefusedError{errors.New("its answer is too old by now")}
	}
	return nil
}

// slotRefused tells that a slot was not confirmed; it is asked for again at the next poll.
func (m *Machine) slotRefused(err error) (time.Duration, error) {
	m.mu.Lock()
	m.slots.due = m.Clock.Boot() + m.pollIn(0)
	m.mu.Unlock()
	m.wait(rollout.RuleCoordinator, err.Error())
	return idleWait, nil
}
