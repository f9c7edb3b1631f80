package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

// Transport carries the three requests to a coordinator. Each may be repeated: a coordinator answers the same question alike.
//
// An error is a *RefusedError if a coordinator said no, a *LocalError if this host cannot even ask, and silence otherwise.
// Silence and refusal are never confused: a signed policy may let the first run out, never the second.
type Transport interface {
	Turn(ctx context.Context, t Turn) (TurnAnswer, error)
	Check(ctx context.Context, c Check) (CheckAnswer, error)
	Finish(ctx context.Context, f Finish) (FinishAnswer, error)
}

// Journal keeps one Record. Save returns once the record survives a power cut; Load returns the last one saved, or a zero one.
type Journal interface {
	Load() (Record, error)
	Save(Record) error
}

// Record is what a host must still know about its slot after a crash.
type Record struct {
	// Fence names the grant this host holds, zero if none.
	Fence     int64       `json:"fence,omitempty"`
	App       release.App `json:"app,omitzero"`
	Rollout   string      `json:"rollout,omitempty"`
	Direction Direction   `json:"direction,omitempty"`
	Wave      string      `json:"wave,omitempty"`
	Deadline  time.Time   `json:"deadline,omitzero"`
	// At says where the slot was taken, in words of the one who makes transports: a new plan may name another coordinator while
	// the old one still waits for the end.
	At string `json:"at,omitempty"`
	// Begun says that the app may have been touched under this fence. From then on only a report of how it ended lets go.
	Begun bool `json:"begun,omitempty"`
	// Report is how it ended. It is repeated until acknowledged; Told says that it was, by a coordinator that keeps the slot
	// because the app does not serve.
	Report *Finish `json:"report,omitempty"`
	Told   bool    `json:"told,omitempty"`
	// Silent is since when no coordinator has answered, zero if the last request was answered.
	Silent time.Time `json:"silent,omitzero"`
	// Ended are the grants whose end was acknowledged last, oldest first.
	Ended []int64 `json:"ended,omitempty"`
}

// Answer is what came of a turn.
type Answer struct {
	Granted bool
	Fence   int64
	// Silent is since when nobody answers; zero if somebody did. It is saved, so that a restart does not make an outage young.
	Silent time.Time
	Rule   string // of a wait
	Reason string
	Order  Direction
	Hint   int64
	Poll   time.Duration
}

// Member is one host's part in the protocol, for one app. It makes no goroutine, reads no clock but Now and draws no lots, so
// that a simulator can drive it as the daemon does. One goroutine at a time may use it.
//
// Its rules: a grant is in the journal before the caller hears of it; the journal says that the app may have been touched
// before the last check is asked; a slot under which nothing was begun is given back as soon as it is not wanted; one under
// which something was is let go only by its report, which is repeated until acknowledged.
type Member struct {
	Transport Transport
	Journal   Journal
	Install   string
	At        string
	Now       func() time.Time
}

// Held returns the journal's record; Fence zero means that no slot is held.
func (m *Member) Held() (Record, error) { return m.Journal.Load() }

// ErrUnended says that a slot is wanted while the update under the last one has not ended: the caller ends that first.
var ErrUnended = errors.New("the update under the last slot has not ended")

// Turn asks for a slot, or, if t wants none, tells how the host is. What is still owed to the coordinator (a report, a slot
// that is not wanted any more) is settled first. Install and Fence of t are filled in. An error is this host's own: its
// journal.
func (m *Member) Turn(ctx context.Context, t Turn) (Answer, error) {
	r, err := m.Journal.Load()
	if err != nil {
		return Answer{}, err
	}
	if r.Begun && r.Report == nil && t.Want != Nowhere {
		return Answer{}, ErrUnended
	}
	if r.Fence != 0 && !r.Begun && r.Report == nil && (t.Want != r.Direction || t.Rollout != r.Rollout) {
		if err := m.owe(&r, r.given("it is not wanted any more", t)); err != nil {
			return Answer{}, err
		}
	}
	if r.Report != nil && !r.Told {
		if err := m.deliver(ctx, &r); err != nil {
			return m.noAnswer(&r, fmt.Errorf("the end of its last update is not acknowledged yet: %w", err))
		}
	}
	t.Install, t.Fence = m.Install, r.Fence
	a, err := m.Transport.Turn(ctx, t)
	if err == nil && a.Rule == RuleBusy {
		err = errors.New(a.Reason)
	}
	if err != nil {
		return m.noAnswer(&r, err)
	}
	return m.heard(ctx, &r, t, a)
}

// given is the report of a slot that is given back unused. It says how the app is all the same: a host that does not serve
// goes on using the budget.
func (r *Record) given(reason string, t Turn) Finish {
	return Finish{App: r.App, Rollout: r.Rollout, Fence: r.Fence, Wave: r.Wave, Result: Skipped,
		Serving: t.Runs == nil || t.Runs.Healthy, Runs: t.Runs, Reason: reason}
}

// heard takes in an answer.
func (m *Member) heard(ctx context.Context, r *Record, t Turn, a TurnAnswer) (Answer, error) {
	out := Answer{Rule: a.Rule, Reason: a.Reason, Order: a.Order, Hint: a.Hint, Poll: time.Duration(a.Poll) * time.Second}
	granted := a.Answer == Granted && t.Want != Nowhere && a.Fence > 0
	switch {
	case granted && slices.Contains(r.Ended, a.Fence):
		out.Rule, out.Reason = RuleRestored, "it grants a slot again that this host has ended: its store must have gone back"
		*r = Record{Fence: a.Fence, App: t.App, Rollout: t.Rollout, At: m.At, Ended: r.Ended}
		return m.giveBack(ctx, r, t, out)
	case granted:
		out.Granted, out.Fence, out.Rule, out.Reason = true, a.Fence, "", ""
		if r.Fence == a.Fence && r.Report == nil && r.Silent.IsZero() {
			return out, nil
		}
		*r = Record{Fence: a.Fence, App: t.App, Rollout: t.Rollout, Direction: t.Want, Wave: t.Wave, Deadline: a.Deadline, At: m.At, Ended: r.Ended}
		return out, m.Journal.Save(*r)
	case a.Rule == RuleHeld && a.Fence > 0 && r.unused(a.Fence):
		*r = Record{Fence: a.Fence, App: t.App, Rollout: a.Rollout, At: m.At, Ended: r.Ended}
		return m.giveBack(ctx, r, t, out)
	}
	return out, m.answered(r)
}

// giveBack ends a grant under which this host has done nothing. A report of it may be under way still, so it must not be used.
func (m *Member) giveBack(ctx context.Context, r *Record, t Turn, out Answer) (Answer, error) {
	if err := m.owe(r, r.given("nothing was begun under it", t)); err != nil {
		return out, err
	}
	if err := m.deliver(ctx, r); err != nil {
		return m.noAnswer(r, err)
	}
	return out, nil
}

// unused says that nothing was begun under a grant that the coordinator wants to have ended: this host never heard of it, or
// it still waits with it.
func (r *Record) unused(fence int64) bool {
	if fence == r.Fence {
		return !r.Begun && r.Report == nil
	}
	return fence > r.Fence && (r.Fence == 0 || r.Told)
}

// answered ends an outage in the journal.
func (m *Member) answered(r *Record) error {
	if r.Silent.IsZero() {
		return nil
	}
	r.Silent = time.Time{}
	return m.Journal.Save(*r)
}

// noAnswer tells refusal from silence. Only the begin of a silence is saved.
func (m *Member) noAnswer(r *Record, cause error) (Answer, error) {
	var refused *RefusedError
	var local *LocalError
	switch {
	case errors.As(cause, &refused):
		return Answer{Rule: refused.Reply.Kind, Reason: cause.Error(), Poll: refused.After}, m.answered(r)
	case errors.As(cause, &local):
		return Answer{Rule: local.Kind(), Reason: cause.Error()}, m.answered(r)
	}
	out := Answer{Silent: r.Silent, Reason: cause.Error()}
	if !r.Silent.IsZero() {
		return out, nil
	}
	r.Silent = m.Now().UTC()
	out.Silent = r.Silent
	return out, m.Journal.Save(*r)
}

// Check is the last question before the effect. It first makes durable that the effect may follow. A nil error lets the
// caller touch the app for the returned time, counted from before the call on the boot clock; after any error it must not.
func (m *Member) Check(ctx context.Context, fence int64) (time.Duration, error) {
	r, err := m.Journal.Load()
	if err != nil {
		return 0, err
	}
	if fence == 0 || r.Fence != fence || r.Report != nil {
		return 0, fmt.Errorf("slot %d is not held here", fence)
	}
	if !r.Begun {
		r.Begun = true
		if err := m.Journal.Save(r); err != nil {
			return 0, err
		}
	}
	a, err := m.Transport.Check(ctx, Check{App: r.App, Rollout: r.Rollout, Install: m.Install, Fence: fence})
	switch {
	case err != nil:
		return 0, err
	case !a.OK:
		return 0, &RefusedError{Reply: Error{Kind: a.Rule, Message: a.Reason}}
	}
	return min(time.Duration(a.Within)*time.Second, longestCheck), nil
}

// longestCheck bounds what a coordinator may call a recent answer.
const longestCheck = 30 * time.Second

// End makes durable how the update under f.Fence ended and tells the coordinator. An error means that it is not acknowledged
// yet; Turn and Deliver try again. A fence that is not held any more is no error: it was acknowledged. A second End counts only
// if the app serves now and did not before.
func (m *Member) End(ctx context.Context, f Finish) error {
	r, err := m.Journal.Load()
	if err != nil || r.Fence == 0 || r.Fence != f.Fence {
		return err
	}
	if r.Report != nil && (r.Report.Serving || !f.Serving) {
		return m.Deliver(ctx)
	}
	if f.Wave == "" {
		f.Wave = r.Wave
	}
	f.App, f.Rollout = r.App, r.Rollout
	if err := m.owe(&r, f); err != nil {
		return err
	}
	return m.deliver(ctx, &r)
}

// Deliver tries once more to have the report acknowledged, if there is one.
func (m *Member) Deliver(ctx context.Context) error {
	r, err := m.Journal.Load()
	if err != nil || r.Report == nil || r.Told {
		return err
	}
	return m.deliver(ctx, &r)
}

// owe saves a report before anybody is told.
func (m *Member) owe(r *Record, f Finish) error {
	f.Install = m.Install
	r.Report, r.Told = &f, false
	return m.Journal.Save(*r)
}

// deliver sends the report. A stale one is over too: whoever forgot the fence did so knowingly.
func (m *Member) deliver(ctx context.Context, r *Record) error {
	a, err := m.Transport.Finish(ctx, *r.Report)
	switch {
	case err != nil:
		return err
	case !a.Accepted && !a.Stale:
		return &RefusedError{Reply: Error{Kind: RuleHeld, Message: "the coordinator did not take the report: " + a.Reason}}
	case a.Accepted && !r.Report.Serving:
		r.Told, r.Silent = true, time.Time{}
	default:
		*r = Record{Ended: r.ended()}
	}
	return m.Journal.Save(*r)
}

// ended adds the grant to those that were ended. A coordinator that numbers nothing grants the same one again.
func (r *Record) ended() []int64 {
	const keep = 8
	if r.Fence == fleetLockFence || slices.Contains(r.Ended, r.Fence) {
		return r.Ended
	}
	all := append(slices.Clone(r.Ended), r.Fence)
	return all[max(0, len(all)-keep):]
}
