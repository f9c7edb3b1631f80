package hub

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/release"
)

// Status is the whole fleet as this hub knows it, which lags the store by no more than the watch does.
func (c *core) Status(ctx context.Context) (fleet.Status, error) {
	groups, err := c.Plans.Groups(ctx)
	if err != nil {
		return fleet.Status{}, err
	}
	s := fleet.Status{Fleet: c.Fleet, At: c.now(), Rollouts: []fleet.RolloutStatus{}}
	for _, name := range c.known(groups) {
		g, err := c.plan(ctx, name)
		if err != nil {
			return s, err
		}
		if r, ok := c.rolloutStatus(g); ok {
			s.Rollouts = append(s.Rollouts, r)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.loaded {
		return s, ErrUnavailable
	}
	s.Revision = c.cache.watched
	if h := c.cache.halt.val; h != nil {
		s.Halt = &h.Stop
	}
	return s, nil
}

func (c *core) rolloutStatus(g *group) (fleet.RolloutStatus, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.draft(g)
	if d.roll == nil {
		return fleet.RolloutStatus{}, false
	}
	r := fleet.RolloutStatus{Environment: g.name.Environment, App: g.name.App, Rollout: d.roll.ID, Sequence: d.roll.Sequence,
		Version: d.roll.Version, Digest: d.roll.Digest, State: d.state(), Stop: d.roll.Stop, Wave: d.roll.Wave,
		Cells: d.cellStatus(), Slots: d.slotStatus(), Failures: d.failures(), Counts: d.all, Started: d.roll.Started}
	if d.s == nil {
		r.Why = "this hub has not read its deployment"
		return r, true
	}
	if r.Hosts = int(d.s.Deployment.Population); d.s.hosts != nil {
		r.Hosts = len(d.s.hosts)
	}
	r.Done = d.estimate(r.Hosts)
	left := d.waveStatus(&r)
	d.explain(&r, left)
	return r, true
}

// waveStatus fills in the waves and counts the hosts of the open ones that are still to go and can be reached.
func (d *draft) waveStatus(r *fleet.RolloutStatus) (left int) {
	open := d.s.waveIndex(d.roll.Wave)
	for i := range max(1, len(d.s.Deployment.Waves)) {
		v := d.judge(i)
		if i <= open {
			left += v.open - v.away
		}
		if len(d.s.Deployment.Waves) == 0 {
			break
		}
		floor, _ := d.s.schedule.Floor(i)
		w := fleet.WaveStatus{Name: d.s.waveName(i), Open: i <= open, Hosts: v.hosts, Counts: d.waves[d.s.waveName(i)], Opens: floor}
		if i == open && i+1 < len(d.s.Deployment.Waves) {
			w.Why = d.nextWave(i+1, v)
		}
		r.Waves = append(r.Waves, w)
	}
	return left
}

// nextWave says what the wave after an open one waits for.
func (d *draft) nextWave(next int, v verdict) string {
	if why, signed := d.s.schedule.Signed(next); !signed {
		return why
	}
	if floor, _ := d.s.schedule.Floor(next); d.now.Before(floor) {
		return "wave " + d.s.waveName(next) + " opens " + floor.Format("2006-01-02 15:04 MST") + " at the earliest"
	}
	if v.passes {
		return "wave " + d.s.waveName(next) + " is about to open"
	}
	return v.why
}

// explain says in one sentence what the rollout waits for.
func (d *draft) explain(r *fleet.RolloutStatus, left int) {
	last := d.s.waveIndex(d.roll.Wave)+1 >= len(d.s.Deployment.Waves)
	if rule, reason := d.objection(nil); rule != "" {
		r.Why = reason
		if rule == fleet.RulePlan && d.roll.State == fleet.StateOpen {
			return
		}
	} else if rule, reason := d.s.stopped(d.now); rule != "" {
		r.Why = reason
		if rule == fleet.RulePaused {
			r.State = fleet.StatePaused
		} else {
			r.State = fleet.StateHalted
		}
	} else if r.State == fleet.StateReverting {
		r.Why = because(sentence("the rollout is being taken back, %d hosts still run the release", d.running()), d.roll.Stop)
	} else if last && left <= 0 && d.all.Tried() > 0 && len(r.Slots) == 0 {
		r.State, r.Why = fleet.StateDone, sentence("all hosts that can be reached have had their turn, %d failed", d.all.Failed())
	} else if full := d.fullCell(); full != "" {
		r.Why = full
	} else if !d.s.schedule.Open(d.now) {
		r.Why = "the signed calendar is closed"
	} else {
		r.Why = sentence("%d hosts of the open waves are still to go", left)
		if i := len(r.Waves) - 1; i >= 0 && !last {
			r.Why = r.Waves[d.s.waveIndex(d.roll.Wave)].Why
		}
	}
}

// running counts the hosts that run the release.
func (d *draft) running() int {
	n := 0
	for _, r := range d.g.hosts {
		if r.val != nil && r.val.Runs != nil && r.val.Runs.Digest == d.roll.Digest {
			n++
		}
	}
	return n
}

func (d *draft) fullCell() string {
	for _, c := range d.cellStatus() {
		if c.Limit >= 0 && c.Held+c.Lost >= c.Limit && c.Held+c.Lost > 0 && c.Cell != cellBack {
			text := sentence("all %d slots of %s are in use", c.Limit, c.Cell)
			if c.Lost > 0 {
				text += sentence(", %d of them by hosts that are lost or do not serve", c.Lost)
			}
			return text
		}
	}
	return ""
}

// cellStatus lists the cells that are bounded or in use.
func (d *draft) cellStatus() []fleet.CellStatus {
	list := map[string]*fleet.CellStatus{}
	cell := func(name string) *fleet.CellStatus {
		if list[name] == nil {
			list[name] = &fleet.CellStatus{Cell: name, Limit: d.roll.Limits.of(name)}
		}
		return list[name]
	}
	if d.roll.Limits.All != unlimited {
		cell(cellAll)
	}
	for name := range d.roll.Limits.Cells {
		cell(name)
	}
	if d.state() == fleet.StateReverting {
		cell(cellBack)
	}
	for _, h := range d.g.holds {
		if h.val == nil {
			continue
		}
		for _, s := range h.val.Slots {
			if h.val.State == holdHeld {
				cell(s.Cell).Held++
			} else {
				cell(s.Cell).Lost++
			}
		}
	}
	cells := make([]fleet.CellStatus, 0, len(list))
	for _, c := range list {
		cells = append(cells, *c)
	}
	slices.SortFunc(cells, func(a, b fleet.CellStatus) int { return strings.Compare(a.Cell, b.Cell) })
	return cells
}

func (d *draft) slotStatus() []fleet.SlotStatus {
	var list []fleet.SlotStatus
	for host, h := range d.g.holds {
		if h.val == nil {
			continue
		}
		for _, s := range h.val.Slots {
			list = append(list, fleet.SlotStatus{Cell: s.Cell, App: d.g.name.App, Host: host, Rollout: h.val.Rollout, Direction: h.val.Direction,
				State: h.val.State, Fence: fenceOf(h), Since: h.val.Since, Deadline: h.val.Deadline, Reason: h.val.Reason})
		}
	}
	slices.SortFunc(list, func(a, b fleet.SlotStatus) int {
		return cmp.Or(strings.Compare(a.Cell, b.Cell), a.Since.Compare(b.Since), strings.Compare(a.Host, b.Host))
	})
	return list
}

func (d *draft) failures() []fleet.Failure {
	var list []fleet.Failure
	for host, h := range d.g.hosts {
		if h.val == nil || h.val.Last == nil || h.val.Last.Rollout != d.roll.ID || !failed(h.val.Last.Result) {
			continue
		}
		o := h.val.Last
		list = append(list, fleet.Failure{Host: host, Wave: o.Wave, Result: o.Result, Cause: o.Cause, Reason: o.Reason, At: o.At})
	}
	slices.SortFunc(list, func(a, b fleet.Failure) int { return cmp.Or(a.At.Compare(b.At), strings.Compare(a.Host, b.Host)) })
	return list
}

// Hosts lists what the hosts of a group last told, by name. Zero names stand for all.
func (c *core) Hosts(_ context.Context, env release.Environment, app release.App) ([]fleet.HostStatus, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.loaded {
		return nil, ErrUnavailable
	}
	list := []fleet.HostStatus{}
	for name, g := range c.cache.groups {
		if !env.IsZero() && env != name.Environment || !app.IsZero() && app != name.App {
			continue
		}
		for host, h := range g.hosts {
			if h.val == nil || h.val.Install == "" {
				continue
			}
			list = append(list, fleet.HostStatus{Environment: name.Environment, App: name.App, Host: host, Install: h.val.Install,
				Labels: h.val.Labels, Runs: h.val.Runs, Phase: h.val.Phase, Why: h.val.Why, Wave: h.val.Wave, Seen: h.val.Seen, Clone: h.val.Clone != ""})
		}
	}
	slices.SortFunc(list, func(a, b fleet.HostStatus) int {
		return cmp.Or(strings.Compare(a.Environment.String(), b.Environment.String()), strings.Compare(a.App.String(), b.App.String()), strings.Compare(a.Host, b.Host))
	})
	return list, nil
}
