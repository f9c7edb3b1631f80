package main

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/rollout"
	"github.com/slipway-deploy/slipway/tuf/repository"
	"github.com/spf13/cobra"
)

// planFlags say which deployment to look at, and for which hosts.
type planFlags struct {
	deployFlags
	change     string
	population int64
	hosts      []string
	labels     map[string]string
	all        bool
	simulate   simulateFlags
}

// simulateFlags are the assumptions of a simulation.
type simulateFlags struct {
	on                bool
	failures          string
	took, poll, react time.Duration
	jitter            float64
	runs              int
	seed              uint64
}

func (t *tool) planCommand() *cobra.Command {
	var p planFlags
	c := &cobra.Command{
		Use: "plan", Short: "Say who would go when, before anybody signs", Args: cobra.NoArgs,
		Long: `Shows a deployment's waves: how many hosts, from when to when with windows and freezes counted in, what needs a signature, and how
likely a wave is empty. It looks at what the flags and --file of deploy new describe, at the deployment in an open change
(--change), or at the one in force (--env and --app alone). Nothing is changed and no key is needed. What cannot work is told
with its line, and the exit code is 1.

--simulate plays the rollout many times over hosts that poll, fail at random and may be halted. Without an inventory the
fleet is made up of --population hosts. The same seed gives the same figures.`,
		Example: `  slipway-repo deploy plan --file deployment.toml --population 10000
  slipway-repo deploy plan --change 3fa2 --hosts
  slipway-repo deploy plan --env production --app billing --host web-17
  slipway-repo deploy plan --file deployment.toml --simulate --population 10000 --failure-rate 5% --duration-per-host 3m`,
	}
	f := c.Flags()
	f.StringVar(&p.env, "env", "", "`environment`")
	f.StringVar(&p.app, "app", "", "`app`")
	f.StringVar(&p.version, "release", "", "`version` of the release to run")
	f.BoolVar(&p.absent, "absent", false, "the app shall not be there")
	f.StringVar(&p.state, "state", "", "active, paused, halted or revert")
	p.flags(f)
	f.StringVar(&p.change, "change", "", "the deployment in the open change with this `id`")
	f.Int64Var(&p.population, "population", 0, "how many `hosts` the environment has, if no inventory is pinned (default: the deployment's population)")
	f.StringArrayVar(&p.hosts, "host", nil, "when this host `id` goes (repeatable)")
	f.StringToStringVar(&p.labels, "label", nil, "`name=value` of the hosts named with --host, as their own configuration has them")
	f.BoolVar(&p.all, "hosts", false, "when each host of the inventory goes")
	p.simulate.flags(c)
	c.RunE = t.do(func(context.Context, []string) error { return t.plan(&p) })
	return c
}

func (s *simulateFlags) flags(c *cobra.Command) {
	f := c.Flags()
	f.BoolVar(&s.on, "simulate", false, "play the rollout")
	f.StringVar(&s.failures, "failure-rate", "5%", "`share` of hosts on which the release fails, such as 5% or 0.05")
	f.DurationVar(&s.took, "duration-per-host", 3*time.Minute, "how long a host is busy: activation and trial")
	f.DurationVar(&s.poll, "poll", 5*time.Minute, "poll.interval of the hosts")
	f.Float64Var(&s.jitter, "jitter", 0.1, "poll.jitter of the hosts")
	f.DurationVar(&s.react, "react", 15*time.Minute, "how long until a person has published a halt, where no hub halts; 0 means nobody does")
	f.IntVar(&s.runs, "runs", 0, "how often (default: 50, or 10 for more than 10000 hosts)")
	f.Uint64Var(&s.seed, "seed", 1, "first seed")
}

// trial checks the assumptions.
func (s *simulateFlags) trial() (rollout.Trial, error) {
	text, percent := strings.CutSuffix(strings.TrimSpace(s.failures), "%")
	rate, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if percent {
		rate /= 100
	}
	switch {
	case err != nil || math.IsNaN(rate) || rate < 0 || rate > 1:
		return rollout.Trial{}, usage("--failure-rate: %q is no share of hosts, such as 5%% or 0.05", s.failures)
	case s.took <= 0:
		return rollout.Trial{}, usage("--duration-per-host: it must be longer than zero")
	case s.poll < 0 || s.react < 0:
		return rollout.Trial{}, usage("--poll and --react: they must not be negative")
	case math.IsNaN(s.jitter) || s.jitter < 0 || s.jitter > 1:
		return rollout.Trial{}, usage("--jitter: it lies between 0 and 1")
	case s.runs < 0 || s.runs > 10_000:
		return rollout.Trial{}, usage("--runs: between 1 and 10000")
	}
	return rollout.Trial{FailureRate: rate, Took: s.took, Seed: s.seed, Poll: s.poll, Jitter: s.jitter, React: s.react}, nil
}

func (t *tool) plan(p *planFlags) error {
	if p.population < 0 || p.population > maxPopulation {
		return usage("--population: between 0 and %d", maxPopulation)
	}
	trial, err := p.simulate.trial()
	if err != nil {
		return err
	}
	r, err := t.open()
	if err != nil {
		return err
	}
	seen, file, err := p.find(r)
	if err != nil {
		return err
	}
	a := outlookOf(seen, p.population)
	a.Draft = p.drafted()
	schedule := rollout.NewSchedule(seen.Deployment, seen.Inventory, seen.InventoryDigest)
	if a.Starts, err = p.starts(schedule, seen); err != nil {
		return err
	}
	if p.simulate.on && len(a.Problems) == 0 {
		if a.Simulation, err = p.simulate.run(schedule, seen, trial, a.Hosts); err != nil {
			return err
		}
	}
	if err := t.answer(a, a.show); err != nil {
		return err
	}
	if len(a.Problems) > 0 {
		return file.problems(a.problems)
	}
	return nil
}

const maxPopulation = 1_000_000

// drafted reports that the flags describe a deployment that nobody has made yet.
func (p *planFlags) drafted() bool {
	return p.change == "" && (p.file != "" || p.version != "" || p.absent)
}

// find reads the deployment, and where its fields come from.
func (p *planFlags) find(r *repository.Repository) (*repository.Prospect, *written, error) {
	if p.drafted() {
		w, file, err := p.wish(time.Now())
		if err != nil {
			return nil, nil, err
		}
		seen, err := r.Draft(*w)
		return seen, file, file.locate(err)
	}
	if p.change != "" {
		return p.inChange(r)
	}
	var w repository.Wish
	if p.env == "" || p.app == "" {
		return nil, nil, usage("name a deployment: --file FILE, --change ID, or --env ENVIRONMENT --app APP")
	}
	if err := p.names(&w); err != nil {
		return nil, nil, err
	}
	file := &written{path: p.env + "/" + p.app}
	seen, err := r.InForce(w.Environment, w.App)
	if err == nil && seen == nil {
		err = fmt.Errorf("cannot plan: no deployment of %s is in force in %s; describe one with --file or --release", p.app, p.env)
	}
	return seen, file, err
}

func (p *planFlags) inChange(r *repository.Repository) (*repository.Prospect, *written, error) {
	c, err := r.Change(p.change)
	if err != nil {
		return nil, nil, err
	}
	all, err := r.Prospects(c)
	if err != nil {
		return nil, nil, err
	}
	var found []*repository.Prospect
	var names []string
	for _, s := range all {
		env, app := s.Deployment.Environment.String(), s.Deployment.App.String()
		if (p.env == "" || p.env == env) && (p.app == "" || p.app == app) {
			found, names = append(found, s), append(names, env+"/"+app)
		}
	}
	if len(found) == 1 {
		return found[0], &written{path: "change " + c.ID}, nil
	}
	if len(found) == 0 {
		return nil, nil, fmt.Errorf("cannot plan: change %s holds no such deployment", c.ID)
	}
	return nil, nil, usage("change %s holds several deployments (%s): choose with --env and --app", c.ID, strings.Join(names, ", "))
}

// starts lists the hosts that were asked for.
func (p *planFlags) starts(s *rollout.Schedule, seen *repository.Prospect) ([]startAnswer, error) {
	if p.all && seen.Inventory == nil {
		return nil, usage("--hosts: %s has no inventory; name hosts with --host ID", seen.Deployment.Environment)
	}
	listed := map[string]map[string]string{}
	var hosts []rollout.Host
	if seen.Inventory != nil {
		for _, h := range seen.Inventory.Hosts {
			listed[h.ID] = h.Labels
			if p.all {
				hosts = append(hosts, rollout.Host{ID: h.ID, Environment: seen.Deployment.Environment, Labels: h.Labels})
			}
		}
	}
	for _, id := range p.hosts {
		labels := p.labels
		if len(labels) == 0 {
			labels = listed[id]
		}
		hosts = append(hosts, rollout.Host{ID: id, Environment: seen.Deployment.Environment, Labels: labels})
	}
	return startAnswers(s, hosts), nil
}

// judge refuses a deployment that cannot work before it can be signed, and tells what is unwise about it.
func (t *tool) judge(file *written) func(*repository.Prospect) error {
	return func(seen *repository.Prospect) error {
		f := rollout.Plan(seen.Deployment, seen.Inventory, seen.InventoryDigest, 0)
		if len(f.Problems) > 0 {
			return file.problems(f.Problems)
		}
		for _, w := range f.Warnings {
			if w.Kind != rollout.WarnFreshness || len(seen.Deployment.Waves) > 0 {
				t.warn("%s", w.Message)
			}
		}
		return nil
	}
}

// simulate plays the rollout over the inventory or over hosts that are made up for each seed.
func (s *simulateFlags) run(schedule *rollout.Schedule, seen *repository.Prospect, trial rollout.Trial, population int64) (*simulationAnswer, error) {
	d := seen.Deployment
	fixed := schedule.Hosts()
	if fixed == nil && population == 0 {
		return nil, usage("--simulate: say how many hosts there are: --population N")
	}
	runs := s.runs
	if size := max(int(population), len(fixed)); runs == 0 {
		if runs = 50; size > 10_000 {
			runs = 10
		}
	}
	odds := schedule.Odds(trial, runs, func(seed uint64) []rollout.Host {
		if fixed != nil {
			return fixed
		}
		return madeUp(d, int(population), seed)
	})
	return answerOdds(d, trial, odds), nil
}

// madeUp is a fleet of hosts without labels: those that waves name, and as many others as are missing.
func madeUp(d *release.Deployment, n int, seed uint64) []rollout.Host {
	hosts := make([]rollout.Host, 0, n)
	named := map[string]bool{}
	for _, w := range d.Waves {
		for _, id := range w.Hosts {
			if !named[id] && len(hosts) < n {
				named[id] = true
				hosts = append(hosts, rollout.Host{ID: id, Environment: d.Environment})
			}
		}
	}
	for i := len(hosts); i < n; i++ {
		hosts = append(hosts, rollout.Host{ID: fmt.Sprintf("simulated-%d-%d", seed, i), Environment: d.Environment})
	}
	return hosts
}
