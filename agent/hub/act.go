package hub

import (
	"context"
	"fmt"

	"github.com/slipway-deploy/slipway/agent/fleet"
)

// RefusedError says that an act may not be done, by which rule and what to do instead. Nothing was changed.
type RefusedError struct {
	// What is the kind, of a small closed set: "refused", "stale" (the operator looked at something else), "unknown".
	What   string
	Reason string
	Hint   string
}

func (e *RefusedError) Error() string { return e.Reason }

// Kind is the stable label for the wire and for metrics.
func (e *RefusedError) Kind() string { return e.What }

func refuse(what, hint, format string, args ...any) error {
	return &RefusedError{What: what, Reason: fmt.Sprintf(format, args...), Hint: hint}
}

// acts are what operators can do to one group. Each either changes the draft, with exactly one audit entry, or says that
// there is nothing to change.
var acts = map[string]func(d *draft, by string, a fleet.Act) (done string, err error){
	fleet.ActHalt:      (*draft).actHalt,
	fleet.ActPause:     (*draft).actPause,
	fleet.ActResume:    (*draft).actResume,
	fleet.ActPromote:   (*draft).actPromote,
	fleet.ActRevert:    (*draft).actRevert,
	fleet.ActForget:    (*draft).actForget,
	fleet.ActReconcile: (*draft).actReconcile,
}

// Act does what an operator asks, in one transaction with its audit entry. An act that found nothing to change leaves none,
// so one that is repeated because its answer was lost is written down once.
func (c *core) Act(ctx context.Context, by, name string, a fleet.Act) (fleet.ActAnswer, error) {
	switch _, ok := acts[name]; {
	case !ok:
		return fleet.ActAnswer{}, refuse("unknown", "", "%q is no act", name)
	case by == "" || a.Reason == "":
		return fleet.ActAnswer{}, refuse("refused", "give a reason: it is kept in the audit log", "who acts and why must be said")
	case a.App.IsZero() && (name == fleet.ActHalt || name == fleet.ActResume) && a.Environment.IsZero():
		return c.actOnFleet(ctx, by, name, a)
	case a.App.IsZero() || a.Environment.IsZero():
		return fleet.ActAnswer{}, refuse("refused", "only halt and resume can be about the whole fleet, without environment and app", "environment and app must both be named")
	}
	return c.actOn(ctx, Group{a.Environment, a.App}, by, name, a)
}

func (c *core) actOn(ctx context.Context, name Group, by, act string, a fleet.Act) (fleet.ActAnswer, error) {
	if err := c.freshen(ctx, name, act, a); err != nil {
		return fleet.ActAnswer{}, err
	}
	for range maxTries {
		g, err := c.plan(ctx, name)
		if err != nil {
			return fleet.ActAnswer{}, err
		}
		d, done, more, err := c.composeAct(g, by, act, a)
		if err != nil {
			return fleet.ActAnswer{}, err
		}
		if d.incomplete {
			if err := c.whole(ctx, g); err != nil {
				return fleet.ActAnswer{}, err
			}
			continue
		}
		t := d.final
		if len(t.Then) == 0 {
			return fleet.ActAnswer{Done: done, Revision: c.seen()}, nil
		}
		res, err := c.commit(ctx, t)
		switch {
		case err != nil:
			return fleet.ActAnswer{}, err
		case !res.Held:
			if err := c.refresh(ctx, t); err != nil {
				return fleet.ActAnswer{}, err
			}
		default:
			c.mu.Lock()
			d.committed(res.Revision)
			c.mu.Unlock()
			if !more {
				return fleet.ActAnswer{Done: done, Revision: res.Revision}, nil
			}
		}
	}
	return fleet.ActAnswer{}, fmt.Errorf("%w: others change this rollout all the time, try again", ErrUnavailable)
}

// freshen reads what an act is judged by: an operator must not be answered from what this hub knew some time ago.
// Reconcile needs every claim of every host.
func (c *core) freshen(ctx context.Context, name Group, act string, a fleet.Act) error {
	if act == fleet.ActReconcile {
		_, err := c.Load(ctx)
		return err
	}
	names := []string{c.keys.halt(), c.keys.rollout(name), c.keys.auditHead()}
	if a.Host != "" {
		names = append(names, c.keys.hold(name, a.Host), c.keys.host(name, a.Host))
	}
	_, _, err := c.get(ctx, names...)
	return err
}

// composeAct drafts an act. More says that the draft only prepares it.
func (c *core) composeAct(g *group, by, act string, a fleet.Act) (d *draft, done string, more bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.loaded {
		return nil, "", false, ErrUnavailable
	}
	d = c.draft(g)
	defer func() {
		if d != nil {
			d.seal()
		}
	}()
	if d.settle() {
		return d, "", true, nil
	}
	switch {
	case d.roll == nil:
		return nil, "", false, refuse("unknown", "", "no rollout of %s is known", g.name)
	case a.Rollout != "" && a.Rollout != d.roll.ID:
		return nil, "", false, refuse("stale", "look at slipway fleet status and decide again", "rollout %s is in force, not %s", d.roll.ID, a.Rollout)
	}
	done, err = acts[act](d, by, a)
	return d, done, d.more, err
}

func (d *draft) actHalt(by string, a fleet.Act) (string, error) {
	if d.roll.State == fleet.StateHalted || d.roll.State == fleet.StateRestored {
		return because("it was already "+d.roll.State, d.roll.Stop), nil
	}
	d.enter(fleet.StateHalted, &fleet.Stop{By: by, Reason: a.Reason, At: d.now}, by, fleet.ActHalt, a.Reason, "the rollout is halted")
	return d.done(), nil
}

func (d *draft) actPause(by string, a fleet.Act) (string, error) {
	switch d.roll.State {
	case fleet.StatePaused, fleet.StateHalted, fleet.StateRestored:
		return because("it was already "+d.roll.State, d.roll.Stop), nil
	}
	d.enter(fleet.StatePaused, &fleet.Stop{By: by, Reason: a.Reason, At: d.now}, by, fleet.ActPause, a.Reason, "the rollout is paused")
	return d.done(), nil
}

func (d *draft) actResume(by string, a fleet.Act) (string, error) {
	switch d.roll.State {
	case fleet.StateOpen, fleet.StateReverting:
		return "it was not stopped", nil
	case fleet.StateRestored:
		return "", refuse("refused", "slipway fleet reconcile, once the hosts have been heard", "the store came back from an old copy")
	}
	to := fleet.StateOpen
	if d.takenBack() {
		to = fleet.StateReverting
	}
	d.roll.Excused, d.roll.Since = d.roll.Failed, d.now
	d.enter(to, nil, by, fleet.ActResume, a.Reason, "the rollout is "+to)
	return d.done(), nil
}

func (d *draft) actPromote(by string, a fleet.Act) (string, error) {
	if d.s == nil || d.s.Deployment.Sequence != d.roll.Sequence {
		return "", refuse("stale", "", "this hub has not fetched deployment %d yet", d.roll.Sequence)
	}
	open := d.s.waveIndex(d.roll.Wave)
	next := open + 1
	switch {
	case d.roll.State != fleet.StateOpen:
		return "", refuse("refused", "resume it first", "%s", because("the rollout is "+d.roll.State, d.roll.Stop))
	case a.Wave == d.roll.Wave && a.Wave != "":
		return "wave " + a.Wave + " is open already", nil
	case next >= len(d.s.Deployment.Waves):
		return "", refuse("refused", "", "all waves are open")
	case a.Wave != d.s.waveName(next):
		return "", refuse("stale", "look at slipway fleet status and decide again", "the next wave is %s, not %q", d.s.waveName(next), a.Wave)
	}
	if why, signed := d.s.schedule.Signed(next); !signed {
		return "", refuse("refused", "sign a deployment with a higher max_wave", "%s", why)
	}
	d.open(next, by, fleet.ActPromote, a.Reason)
	return d.done(), nil
}

func (d *draft) actRevert(by string, a fleet.Act) (string, error) {
	switch {
	case d.s == nil || d.s.Deployment.Sequence != d.roll.Sequence:
		return "", refuse("stale", "", "this hub has not fetched deployment %d yet", d.roll.Sequence)
	case a.Rollout == "":
		return "", refuse("refused", "name the rollout that is to be taken back", "which rollout?")
	case d.roll.State == fleet.StateReverting:
		return because("it was already being taken back", d.roll.Stop), nil
	case d.roll.State == fleet.StateRestored:
		return "", refuse("refused", "slipway fleet reconcile, once the hosts have been heard", "the store came back from an old copy")
	case d.s.Deployment.Revert != nil && d.s.Deployment.Revert.Signed:
		return "", refuse("refused", "sign state revert: slipway-repo deploy", "the deployment lets only its signers take it back (revert.signed)")
	}
	if why := d.mayTakeBack(); why != "" {
		return "", refuse("refused", "", "%s", why)
	}
	d.takeBack(&fleet.Stop{By: by, Reason: a.Reason, At: d.now}, a.Reason)
	return d.done(), nil
}

func (d *draft) actForget(by string, a fleet.Act) (string, error) {
	hold, rec := d.g.holds[a.Host], d.g.hosts[a.Host]
	switch {
	case a.Host == "":
		return "", refuse("refused", "name the host", "which host?")
	case hold.exists() && hold.val == nil:
		return "", refuse("refused", "", "the record of that host's slot cannot be read")
	case hold.exists() && hold.val.State == holdHeld && d.now.Before(hold.val.Deadline):
		return "", refuse("refused", "wait for its report or its deadline; halt stops further hosts", "host %s holds its slot until %s and may be in the middle of an update",
			a.Host, hold.val.Deadline.Format("2006-01-02 15:04:05 MST"))
	case !hold.exists() && (!rec.exists() || rec.val != nil && rec.val.Install == ""):
		return "host " + a.Host + " was not known", nil
	}
	d.forget(a.Host, hold)
	done := "host " + a.Host + " is forgotten and may enrol anew"
	if hold.exists() {
		done += "; its slot is free"
	}
	d.note(by, fleet.ActForget, a.Reason, done)
	return done, nil
}

// actReconcile gives every host that claims a fence the store forgot its grant back, and then lets the rollout go on from
// where it stood. Claims that do not fit into one transaction are rebuilt before the rollout opens.
func (d *draft) actReconcile(by string, a fleet.Act) (string, error) {
	if d.roll.State != fleet.StateRestored {
		return "the rollout was not restored", nil
	}
	rebuilt := 0
	for _, host := range sorted(d.g.hosts) {
		rec := d.g.hosts[host]
		if rec.val == nil || rec.val.Claim == 0 || d.g.holds[host].exists() {
			continue
		}
		if !d.rebuild(host, rec) {
			d.more = true
			return "", nil
		}
		rebuilt++
	}
	to := d.roll.Was
	if to == "" {
		to = fleet.StateOpen
	}
	d.roll.Was = ""
	d.enter(to, nil, by, fleet.ActReconcile, a.Reason, sentence("%d forgotten slots are rebuilt, the rollout is %s", rebuilt, to))
	return d.done(), nil
}

// rebuild makes the grant that a host says it holds. It counts whatever the budget says: the host is unavailable.
func (d *draft) rebuild(host string, rec row[hostRecord]) bool {
	labels := rec.val.Labels
	if d.s != nil {
		labels = d.s.labels(host, rec.val.Labels)
	}
	dir := fleet.Forward
	if d.takenBack() || d.s != nil && d.s.reverting() {
		dir = fleet.Back
	}
	cells := d.roll.Limits.cells(labels, dir)
	if !d.room(2+len(cells), 2+len(cells)) {
		return false
	}
	var slots []slotName
	for _, cell := range cells {
		n := 0
		for d.g.slots[cell][n].exists() || d.taken[cell][n] {
			n++
		}
		slots = append(slots, slotName{cell, n})
	}
	d.occupy(host, slots)
	h := holdRecord{Install: rec.val.Install, Rollout: rec.val.ClaimFor, Direction: dir, Wave: rec.val.Wave, Slots: slots,
		State: holdHeld, Since: d.now, Deadline: d.now.Add(besidesTheTrial), Fence: rec.val.Claim, Reason: "rebuilt after the store was restored"}
	if d.s != nil {
		h.Deadline = d.now.Add(deadline(d.s.Deployment))
	}
	key := d.c.keys.hold(d.g.name, host)
	d.need(key, d.g.holds[host].mod)
	d.put(key, h)
	next := rec.val.clone()
	next.Claim, next.ClaimFor = 0, ""
	d.writeHost(host, rec, next)
	return true
}

// done is the last audit entry's sentence.
func (d *draft) done() string { return d.audit[len(d.audit)-1].Done }

// actOnFleet halts everything, or lets it go again.
func (c *core) actOnFleet(ctx context.Context, by, name string, a fleet.Act) (fleet.ActAnswer, error) {
	for range maxTries {
		if _, _, err := c.get(ctx, c.keys.halt(), c.keys.auditHead()); err != nil {
			return fleet.ActAnswer{}, err
		}
		t, done, changed := c.composeFleet(by, name, a)
		if !changed {
			return fleet.ActAnswer{Done: done, Revision: c.seen()}, nil
		}
		res, err := c.commit(ctx, t)
		if err != nil {
			return fleet.ActAnswer{}, err
		}
		if res.Held {
			return fleet.ActAnswer{Done: done, Revision: res.Revision}, nil
		}
	}
	return fleet.ActAnswer{}, fmt.Errorf("%w: others act on the fleet all the time, try again", ErrUnavailable)
}

func (c *core) composeFleet(by, name string, a fleet.Act) (t Txn, done string, changed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	halted := c.cache.halt.exists()
	switch {
	case halted && name == fleet.ActHalt:
		return t, stopped("it was already halted", c.cache.halt.val), false
	case !halted && name == fleet.ActResume:
		return t, "the fleet was not halted", false
	}
	d := &draft{c: c, g: &group{}, now: c.now(), conds: map[string]int64{}}
	d.need(c.keys.halt(), c.cache.halt.mod)
	if name == fleet.ActHalt {
		done = "the whole fleet is halted"
		d.put(c.keys.halt(), haltRecord{Stop: fleet.Stop{By: by, Reason: a.Reason, At: d.now}})
	} else {
		done = "the fleet's halt is lifted"
		d.delete(c.keys.halt())
	}
	d.audit = []auditEntry{{At: d.now, By: by, Act: name, On: "fleet", Why: a.Reason, Done: done}}
	d.seal()
	return d.final, done, true
}
