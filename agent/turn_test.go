package agent_test

import (
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/rollout"
)

// inventory publishes a list of hosts and gives its digest.
func (w *world) inventory(ids ...string) release.Digest {
	w.t.Helper()
	inv := &release.Inventory{Schema: release.InventorySchema, Environment: production, Issued: built}
	for _, id := range ids {
		inv.Hosts = append(inv.Hosts, release.InventoryHost{ID: id})
	}
	raw, err := release.Encode(inv)
	must(w.t, err)
	w.src.put(release.InventoryPath(production), raw)
	return release.Sum(raw)
}

func (w *world) turn() *rollout.Decision { return w.machine.View().Turn }

func TestAHostShowsItsRankWhileItWaitsAndStartsWhenItsTurnComes(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		pinned := w.inventory("host-0", "host-1", "host-2")
		opens := time.Now().Add(time.Hour)
		ranked := func(d *release.Deployment) {
			d.NotBefore, d.Inventory = &opens, &release.InventoryRef{SHA256: pinned}
			d.Waves = []release.Wave{{Name: "canary", Hosts: []string{"host-0"}}, {Name: "rest", PercentBP: 10000, StartAfter: release.Duration(time.Hour)}}
		}
		w.deploy(2, v11(), ranked)
		w.until("it waits", w.told1("wave rest (host "))
		turn := w.turn()
		if turn == nil || turn.Rule != rollout.RuleWave || turn.Wave != "rest" || turn.Position != rollout.Position("r2", "host-1") || !turn.Earliest.Equal(opens.Add(time.Hour)) {
			t.Fatalf("turn %+v", turn)
		}

		w.inventory("host-0", "host-1", "host-2", "host-3")
		w.machine.Wake()
		w.until("another inventory is refused", w.told1("the deployment pins inventory "+pinned.Short()))
		if w.turn() != nil {
			t.Errorf("a turn by an inventory that is not the pinned one: %+v", w.turn())
		}
		w.inventory("host-0", "host-1", "host-2")
		w.machine.Wake()
		w.until("it runs the release", w.rests(v11()))
		if time.Now().Before(opens.Add(time.Hour)) {
			t.Errorf("it started at %s, its turn is %s", time.Now(), opens.Add(time.Hour))
		}
		if w.turn() != nil {
			t.Errorf("nothing is to be decided and yet: %+v", w.turn())
		}
	})
}

func TestAHostThatTheInventoryDoesNotListWaitsAndSaysSo(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		pinned := w.inventory("host-7", "host-8")
		w.deploy(2, v11(), func(d *release.Deployment) { d.Inventory = &release.InventoryRef{SHA256: pinned} })
		w.until("it waits", w.told1("this host (host-1) is not in the pinned inventory"))
		w.pass(12 * time.Hour)
		w.settledOn(v10())
		if turn := w.turn(); turn == nil || turn.Rule != rollout.RuleInventory || !turn.Earliest.IsZero() || !strings.Contains(turn.Because, "host-1") {
			t.Errorf("turn %+v", turn)
		}
	})
}

func TestAnAmendmentBringsAHostThatFailedNoSecondChanceAndANewRolloutDoes(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.temper(v11(), temper{FailStart: true})
		w.deploy(2, v11())
		w.until("it is reverted", w.ended("reverted"))
		w.temper(v11(), temper{})
		w.deploy(3, v11(), func(d *release.Deployment) { d.RolloutID, d.MaxWave = "r2", "" })
		w.pass(3 * time.Hour)
		w.settledOn(v10())
		if turn := w.turn(); turn == nil || turn.Rule != rollout.RuleQuarantined {
			t.Errorf("turn %+v", turn)
		}
		w.deploy(4, v11())
		w.until("the new rollout tries it", w.rests(v11()))
	})
}
