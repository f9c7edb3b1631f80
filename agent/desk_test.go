package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/slipway-deploy/slipway/agent"
	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/rollout"
)

// desk is a hub with one slot, in memory or in a file that outlives the daemon. The host's side of it is the real one.
type desk struct {
	mu   sync.Mutex
	file string

	down    bool          // answers nothing
	hangs   time.Duration // before it answers a check
	wait    string        // why nobody gets a slot now
	no      string        // why no check passes
	order   bool
	hint    int64
	poll    int
	clone   bool
	asked   []fleet.Turn
	checked func() // called with each check

	desked
}

type desked struct {
	Last    int64                  `json:"last"`
	Holder  *fleet.Turn            `json:"holder"` // of the one slot, with the fence it was given
	Reports map[int64]fleet.Finish `json:"reports"`
}

func newDesk(file string) *desk {
	d := &desk{file: file, desked: desked{Reports: map[int64]fleet.Finish{}}}
	if data, err := os.ReadFile(file); err == nil {
		check(json.Unmarshal(data, &d.desked))
	}
	return d
}

func (d *desk) save() {
	if d.file == "" {
		return
	}
	data, err := json.Marshal(d.desked)
	check(err)
	check(os.WriteFile(d.file+".new", data, 0o600))
	check(os.Rename(d.file+".new", d.file))
}

func (d *desk) set(f func(*desk)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(d)
}

func (d *desk) report(fence int64) fleet.Finish {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.Reports[fence]
}

func (d *desk) turns() []fleet.Turn {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]fleet.Turn(nil), d.asked...)
}

func (d *desk) held() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.Holder == nil {
		return 0
	}
	return d.Holder.Fence
}

var errDown = &fleet.SilentError{URL: "https://hub", Err: errors.New("no route to host")}

func (d *desk) Turn(_ context.Context, t fleet.Turn) (a fleet.TurnAnswer, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, t)
	a = fleet.TurnAnswer{Answer: fleet.Wait, Hint: d.hint, Poll: d.poll}
	if d.order && t.Runs != nil {
		a.Order = fleet.Back
	}
	switch h := d.Holder; {
	case d.down:
		return a, errDown
	case d.clone:
		return a, &fleet.RefusedError{Status: 403, Reply: fleet.Error{Kind: fleet.RuleClone, Message: "another machine uses this host id"}}
	case h != nil && h.Rollout == t.Rollout && h.Want == t.Want:
		a.Answer, a.Fence = fleet.Granted, h.Fence
	case h != nil && t.Want != fleet.Nowhere:
		a.Rule, a.Reason, a.Fence, a.Rollout = fleet.RuleHeld, "it still holds a slot", h.Fence, h.Rollout
	case t.Want == fleet.Nowhere:
	case d.wait != "":
		a.Rule, a.Reason = fleet.RuleBudget, d.wait
	default:
		d.Last++
		t.Fence = d.Last
		d.Holder = &t
		a.Answer, a.Fence = fleet.Granted, d.Last
		d.save()
	}
	return a, nil
}

func (d *desk) Check(ctx context.Context, c fleet.Check) (fleet.CheckAnswer, error) {
	d.mu.Lock()
	hangs, checked := d.hangs, d.checked
	d.mu.Unlock()
	if checked != nil {
		checked()
	}
	select {
	case <-ctx.Done():
		return fleet.CheckAnswer{}, &fleet.SilentError{URL: "https://hub", Err: ctx.Err()}
	case <-time.After(hangs):
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.down:
		return fleet.CheckAnswer{}, errDown
	case d.no != "":
		return fleet.CheckAnswer{Rule: fleet.RuleHalted, Reason: d.no}, nil
	case d.Holder == nil || d.Holder.Fence != c.Fence:
		return fleet.CheckAnswer{Rule: fleet.RuleHeld, Reason: "not your slot"}, nil
	}
	return fleet.CheckAnswer{OK: true, Within: 30}, nil
}

func (d *desk) Finish(_ context.Context, f fleet.Finish) (fleet.FinishAnswer, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.down {
		return fleet.FinishAnswer{}, errDown
	}
	if _, known := d.Reports[f.Fence]; !known && (d.Holder == nil || d.Holder.Fence != f.Fence) {
		return fleet.FinishAnswer{Stale: true}, nil
	}
	d.Reports[f.Fence] = f
	if d.Holder != nil && d.Holder.Fence == f.Fence && f.Serving {
		d.Holder = nil
	}
	d.save()
	return fleet.FinishAnswer{Accepted: true}, nil
}

// member is the host's side: the protocol with its journal on the host's disk.
type member struct{ *fleet.Member }

func (w *world) member() member {
	path := filepath.Join(w.dir, "var", "apps", w.app.String(), "slot.json")
	check(os.MkdirAll(filepath.Dir(path), 0o755))
	return member{&fleet.Member{Transport: w.hub, Journal: fleet.FileJournal{Path: path}, Install: "install-1", Now: w.clock.Now}}
}

func (m member) Ask(ctx context.Context, q agent.SlotQuestion) agent.SlotAnswer {
	t := fleet.Turn{App: q.Deployment.App, Rollout: q.Deployment.RolloutID, Sequence: q.Deployment.Sequence, Document: q.Document, Want: fleet.Direction(q.Want), Wave: q.Wave}
	if !q.Current.IsZero() {
		t.Runs = &fleet.Runs{Version: q.Current.Version(), Digest: q.Digest, Healthy: q.Serves}
	}
	a, err := m.Turn(ctx, t)
	out := agent.SlotAnswer{Slot: rollout.Slot{Answer: rollout.AnswerWait, Reason: a.Reason, Order: a.Order == fleet.Back}, Rule: a.Rule, Hint: a.Hint, Poll: a.Poll}
	switch {
	case err != nil:
		out.Reason = err.Error()
	case a.Granted:
		out.Answer, out.Fence = rollout.AnswerGranted, a.Fence
	case !a.Silent.IsZero():
		out.Answer, out.Since = rollout.AnswerLost, a.Silent
	}
	return out
}

func (m member) Check(ctx context.Context, _ release.App, fence int64) (time.Duration, error) {
	return m.Member.Check(ctx, fence)
}

func (m member) End(ctx context.Context, _ release.App, e agent.SlotEnd) error {
	result := map[string]fleet.Result{"committed": fleet.Committed, "removed": fleet.Committed, "reverted": fleet.Reverted, "failed-before": fleet.FailedBefore,
		"stuck": fleet.Stuck, "aborted": fleet.Skipped, "skipped": fleet.Skipped}[e.Result]
	if result == "" {
		panic(fmt.Sprintf("%q is no result", e.Result))
	}
	if r, err := m.Member.Held(); err == nil && r.Direction == fleet.Back && result == fleet.Reverted {
		result = fleet.Committed
	}
	return m.Member.End(ctx, fleet.Finish{Fence: e.Fence, Result: result, Serving: e.Serves || result == fleet.Skipped, Cause: e.Cause, Reason: e.Reason})
}

func (m member) Held(release.App) (agent.HeldSlot, error) {
	r, err := m.Member.Held()
	out := agent.HeldSlot{Fence: r.Fence, Begun: r.Begun, Ended: r.Report != nil}
	if r.Report != nil {
		out.Serves = r.Report.Serving
	}
	return out, err
}
