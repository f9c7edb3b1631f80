package integration

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/hub/etcd/etcdtest"
	"github.com/slipway-deploy/slipway/integration/lab"
)

// webPort is where the second app of the fleet listens.
const webPort = 8081

// A small fleet: one hub with the store inside it, six hosts.
func TestAFleetGoesInWavesIsHauledBackAndHalted(t *testing.T) {
	f := newFleet(t, "", 1, 6, "harbor", "web")
	good := f.harborTree("1.0.0", "ok")
	f.publishRelease("harbor", "1.0.0", good)
	f.publishHarbor(map[string]string{"1.1.0": "ok", "1.2.0": "unhealthy", "1.3.0": "only-on=h1", "1.4.0": "ok"})

	// Nothing at all is installed, and still no more than the budget go at once.
	f.deployPlan("harbor", "1.0.0", plan{budget: 3})
	f.waitDone("harbor", "1.0.0")
	f.everywhere("harbor", "1.0.0")

	// A good release: the canary, then the others two at a time.
	f.deployPlan("harbor", "1.1.0", plan{budget: 2, canary: "h1"})
	f.waitDone("harbor", "1.1.0")
	first := f.hosts[0].JournalInOrder(t, 5*time.Second, daemonLog, `activating harbor 1\.1\.0`, `harbor 1\.1\.0 is committed`)
	for _, h := range f.hosts[1:] {
		began := h.JournalInOrder(t, 5*time.Second, daemonLog, `activating harbor 1\.1\.0`, `harbor 1\.1\.0 is committed`)
		if began[0].Time.Before(first[1].Time) {
			t.Errorf("%s began at %s, before the canary had passed at %s", h.Name, began[0].Time, first[1].Time)
		}
	}

	// A bad one ends in the canary wave; nobody else ever tries it.
	f.deployPlan("harbor", "1.2.0", plan{budget: 2, canary: "h1"})
	halted := f.waitRollout("harbor", "1.2.0 is halted", func(r fleet.RolloutStatus) bool {
		return r.Version.String() == "1.2.0" && r.State == fleet.StateHalted
	})
	if halted.Counts.Reverted != 1 || len(halted.Failures) != 1 || halted.Failures[0].Host != "h1" || !strings.Contains(halted.Failures[0].Reason, "503") {
		t.Errorf("the hub shows %+v, %+v", halted.Counts, halted.Failures)
	}
	f.hosts[0].waitReverted("harbor", "1.2.0", "1.1.0")
	f.hosts[3].waitWhy("harbor", "halted")
	for _, h := range f.hosts[1:] {
		h.untouched("harbor", "1.2.0")
	}

	// One that only shows later is taken back from where it was good.
	f.deployPlan("harbor", "1.3.0", plan{budget: 3, canary: "h1", onHalt: "revert", back: "1.1.0"})
	f.waitRollout("harbor", "1.3.0 is taken back", func(r fleet.RolloutStatus) bool {
		return r.Version.String() == "1.3.0" && r.Counts.Failed() > 0 && (r.State == fleet.StateReverting || r.State == fleet.StateDone)
	})
	f.everywhere("harbor", "1.1.0")
	f.hosts[0].JournalInOrder(t, 5*time.Second, daemonLog, `harbor 1\.3\.0 is committed`, `reverting harbor`, `harbor is back on 1\.1\.0|reverted`)
	for _, h := range f.hosts {
		h.harborAnswers("1.1.0")
	}

	haltMidWave(f)
	twoAtOnce(f)
}

// An operator halts in the middle; whoever is in flight finishes, nobody else starts, and only a maintainer lets it go on.
func haltMidWave(f *fleetStory) {
	t := f.t
	f.deployPlan("harbor", "1.4.0", plan{budget: 1})
	f.waitRollout("harbor", "one host is on 1.4.0", func(r fleet.RolloutStatus) bool {
		return r.Version.String() == "1.4.0" && r.Counts.Committed >= 1
	})
	f.must("otto", "halt", "production/harbor", "--reason", "payments look odd")
	still := f.waitRollout("harbor", "nobody is in flight", func(r fleet.RolloutStatus) bool {
		return r.State == fleet.StateHalted && len(r.Slots) == 0
	})
	if still.Counts.Committed == 6 || still.Stop == nil || still.Stop.By != "otto" {
		t.Errorf("halted too late, or by nobody: %+v %+v", still.Counts, still.Stop)
	}
	for _, h := range f.hosts {
		if h.app("harbor").Version != "1.4.0" {
			h.waitWhy("harbor", "halted", "payments look odd")
		}
	}
	if r := f.as("otto", "resume", "production/harbor", "--reason", "fine"); r.Exit != 3 || !strings.Contains(r.Stderr, "needs the role maintainer") {
		t.Errorf("an operator resumed: %d %s", r.Exit, r.Stderr)
	}
	if n := f.runs("harbor", "1.4.0"); n != still.Counts.Committed {
		t.Errorf("%d hosts run 1.4.0, %d had committed it when nobody was in flight any more", n, still.Counts.Committed)
	}
	f.must("mia", "resume", "production/harbor", "--reason", "a false alarm")
	f.waitDone("harbor", "1.4.0")
	if out := f.must("mia", "audit"); !strings.Contains(out, "payments look odd") || !strings.Contains(out, "a false alarm") {
		t.Errorf("the log of operators: %s", out)
	}
}

// Two apps roll out on the same hosts; each has its own budget.
func twoAtOnce(f *fleetStory) {
	f.publishHarbor(map[string]string{"1.5.0": "ok"})
	web := tree{toml: harborTOML("web", webPort), files: f.harborTree("1.0.0", "ok").files}
	web.files["units/web.service"] = file{data: []byte(fmt.Sprintf("[Service]\nDynamicUser=yes\nExecStart=@current@/bin/harbor -listen 0.0.0.0:%d\n\n[Install]\nWantedBy=multi-user.target\n", webPort))}
	delete(web.files, "units/harbor.service")
	f.publishRelease("web", "1.0.0", web)
	f.deployPlan("harbor", "1.5.0", plan{budget: 2})
	f.deployPlan("web", "1.0.0", plan{budget: 2})
	f.waitDone("harbor", "1.5.0")
	f.waitDone("web", "1.0.0")
	f.everywhere("harbor", "1.5.0")
	f.everywhere("web", "1.0.0")
}

// etcdIn runs a cluster on the lab's network.
func (f *fleetStory) etcdIn(binary string, port int) (*etcdtest.Cluster, string) {
	f.t.Helper()
	c := etcdtest.StartAt(f.t, etcdtest.Place{
		Address: lab.ServerAddress, FirstPort: port, Enter: []string{"ip", "netns", "exec", f.lab.Namespace()},
		Dial: func(ctx context.Context, address string) (net.Conn, error) {
			return f.lab.DialContext(ctx, "tcp", address)
		},
	}, binary, 3)
	quoted := []string{}
	for _, e := range c.Endpoints {
		quoted = append(quoted, fmt.Sprintf("%q", "http://"+e))
	}
	return c, "[store]\nendpoints = [" + strings.Join(quoted, ", ") + "]\n"
}

// reconciled waits until the first hub has noticed that its store is another one than before, and says that it may go on.
func (f *fleetStory) reconciled(reason string) {
	f.t.Helper()
	f.waitRollout("harbor", "nobody is granted anything", func(r fleet.RolloutStatus) bool { return r.State == fleet.StateRestored })
	f.must("mia", "reconcile", "production/harbor", "--reason", reason)
}

// Two hubs on a cluster of three: whatever dies, the budget holds, and what comes back goes on.
func TestAFleetOutlivesItsHubsAndItsStore(t *testing.T) {
	f := newFleet(t, "", 2, 6, "harbor")
	f.publishHarbor(map[string]string{"1.0.0": "ok", "1.1.0": "ok", "1.2.0": "ok", "1.3.0": "ok"})

	cluster, store := f.etcdIn(etcdtest.Debian(t), 23790)
	for _, h := range f.hubs {
		h.configure(store)
		h.Run(t, "systemctl", "restart", "slipway-hub.service")
	}
	for _, h := range f.hubs {
		h.answers()
	}
	f.deployPlan("harbor", "1.0.0", plan{budget: 6})
	f.reconciled("moved to a cluster")
	f.waitDone("harbor", "1.0.0")

	// A hub dies in the middle, and a member of its store.
	f.deployPlan("harbor", "1.1.0", plan{budget: 2})
	f.waitRollout("harbor", "one host is on 1.1.0", func(r fleet.RolloutStatus) bool {
		return r.Version.String() == "1.1.0" && r.Counts.Committed >= 1
	})
	f.hubs[0].Run(t, "systemctl", "kill", "--signal=KILL", "slipway-hub.service")
	f.hubs[0].Run(t, "systemctl", "stop", "slipway-hub.service")
	cluster.Kill(0)
	f.waitDone("harbor", "1.1.0")
	f.hubs[0].Run(t, "systemctl", "start", "slipway-hub.service")
	f.hubs[0].answers()

	// Without a quorum nothing starts, what runs goes on, and a host says why; then it goes on by itself.
	cluster.Kill(1)
	f.deployPlan("harbor", "1.2.0", plan{budget: 2})
	f.hosts[2].waitWhy("harbor", "coordinator")
	for _, h := range f.hosts {
		h.harborAnswers("1.1.0")
		h.untouched("harbor", "1.2.0")
	}
	cluster.Start(0)
	cluster.Start(1)
	f.waitDone("harbor", "1.2.0")
	f.everywhere("harbor", "1.2.0")
}

// Hosts drop out at every point of an update; the store is a cluster of the version that a hub is built with.
func TestAHostThatDropsOutKeepsItsSlotUntilItIsBack(t *testing.T) {
	f := newFleet(t, "failpoints", 1, 6, "harbor")
	f.publishHarbor(map[string]string{"1.0.0": "ok", "1.1.0": "ok", "1.2.0": "ok", "1.3.0": "ok"})
	f.deployPlan("harbor", "1.0.0", plan{budget: 6})
	f.waitDone("harbor", "1.0.0")

	// The fleet outgrows its hub: a snapshot becomes a cluster, and an operator says that it may go on.
	_, store := f.etcdIn(etcdtest.Built(t), 23800)
	f.hubs[0].restart(store)
	f.reconciled("moved to a cluster")

	cutAfterTheGrant(f)
	cutAfterTheSwap(f)
	powerOff(f)
}

// slotOf waits until a host holds a slot, in whatever state is asked for.
func (f *fleetStory) slotOf(host, state string) fleet.SlotStatus {
	f.t.Helper()
	var got fleet.SlotStatus
	f.waitRollout("harbor", host+" has a slot that is "+state, func(r fleet.RolloutStatus) bool {
		for _, s := range r.Slots {
			if s.Host == host && s.State == state {
				got = s
				return true
			}
		}
		return false
	})
	return got
}

// A host that loses the hub between its grant and the swap does not swap, and keeps its slot until it can tell.
func cutAfterTheGrant(f *fleetStory) {
	t, h := f.t, f.hosts[5]
	h.pauseAt("agent.activate.trial-wired")
	f.deployPlan("harbor", "1.1.0", plan{budget: 1, canary: h.Name})
	h.waitPaused()
	f.slotOf(h.Name, "held")
	if err := h.DropNetwork(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.resume()
	h.JournalInOrder(t, 40*time.Second, daemonLog, `activating harbor 1\.1\.0`, `harbor 1\.1\.0 was given up before the swap`)
	if a := h.app("harbor"); a.Version != "1.0.0" || len(a.Quarantine) > 0 {
		t.Errorf("after an update that did not happen: %s", brief(a))
	}
	f.slotOf(h.Name, "held")
	if err := h.RestoreNetwork(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.waitDone("harbor", "1.1.0")
}

// One that loses it after the swap decides by itself, as ever, and tells later; until then nobody else goes.
func cutAfterTheSwap(f *fleetStory) {
	t, h := f.t, f.hosts[4]
	f.deployPlan("harbor", "1.2.0", plan{budget: 1, canary: h.Name, healthy: "5s"})
	h.waitTrial("harbor", "1.2.0")
	if err := h.DropNetwork(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.waitCommitted("harbor", "1.2.0")
	f.slotOf(h.Name, "held")
	for _, other := range f.hosts {
		if other != h {
			other.untouched("harbor", "1.2.0")
		}
	}
	if err := h.RestoreNetwork(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.waitDone("harbor", "1.2.0")
}

// One that is switched off in the middle is lost, and lost is not free: the budget is as small as the truth until it is back.
func powerOff(f *fleetStory) {
	t, h := f.t, f.hosts[3]
	f.deployPlan("harbor", "1.3.0", plan{budget: 1, canary: h.Name, limit: 5, healthy: "10s"})
	h.waitTrial("harbor", "1.3.0")
	if err := h.KillLeader(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.slotOf(h.Name, "lost")
	for _, other := range f.hosts {
		if other != h {
			other.untouched("harbor", "1.3.0")
		}
	}
	h.MustBoot(t)
	f.waitRollout("harbor", "the host is back, and its canary wave proved nothing", func(r fleet.RolloutStatus) bool {
		return len(r.Slots) == 0 && r.Counts.Committed+r.Counts.Reverted == 1
	})
	f.must("mia", "promote", "production/harbor", "--reason", "its power failed, not the release")
	f.waitRollout("harbor", "nobody is in flight and all others have it", func(r fleet.RolloutStatus) bool {
		return len(r.Slots) == 0 && r.Counts.Committed >= 5
	})
	for _, other := range f.hosts {
		if other != h {
			other.waitCommitted("harbor", "1.3.0")
		}
	}
}
