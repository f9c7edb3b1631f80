package hub_test

import (
	"cmp"
	"flag"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/hub"
	"github.com/slipway-deploy/slipway/agent/hub/storetest"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "replay this one simulated history and print it")
	fromFlag  = flag.Uint64("from", 0, "first seed of the simulated histories; 0 draws one")
	schedules = flag.Int("schedules", 1000, "how many simulated histories to run; a twentieth of it with the race detector")
)

const (
	storm = 10 * time.Minute // how long accidents happen
	calm  = 3 * time.Hour    // and how long after that everything must have ended well
)

// simulate plays one history and returns what went wrong.
func simulate(seed uint64, trace *strings.Builder, broken *sabotage, on ...func() (backend, string)) string {
	w := &world{rng: rand.New(rand.NewPCG(seed, 3)), trace: trace}
	defer w.end()
	w.draw(append(on, onModel)[0])
	w.sabotage = broken
	w.storms()
	failed := func() bool { return w.failure != "" }
	w.run(storm, failed)
	w.calmDown()
	for !failed() && w.now < storm+calm && !w.settled() {
		w.care()
		w.run(w.now+time.Minute, failed)
	}
	if !failed() && !w.settled() {
		w.fail("20: not everything ended well in %v of calm: %+v, holds %d", calm, w.check.roll, len(w.check.holds))
	}
	return w.failure
}

func onModel() (backend, string) {
	return modelBackend{storetest.NewModel(), hub.Prefix("sim")}, "sim"
}

// storms schedules accidents and people's acts.
func (w *world) storms() {
	bad, busy := w.rng.Float64(), w.rng.Float64()
	for range int(bad * 14) {
		w.after(w.between(0, storm), w.weather)
	}
	for range int(busy * 10) {
		w.after(w.between(time.Minute, storm), w.someAct)
	}
	for range w.rng.IntN(4) {
		w.after(w.between(time.Minute, storm), w.signers)
	}
	if w.rng.IntN(6) == 0 {
		for at := time.Minute; at < storm; at += w.between(10*time.Second, 2*time.Minute) {
			w.after(at, func() { w.operator(pick(w, fleet.ActHalt, fleet.ActResume), fleet.Act{}) })
		}
	}
}

// calmDown ends all accidents.
func (w *world) calmDown() {
	w.logf("calm")
	w.calm, w.storeDown, w.lag = true, false, time.Second
	w.check.calmSince = w.now
	for _, h := range w.hubs {
		h.noStore, h.plan = false, w.published
		h.rise()
	}
	for _, h := range w.hosts {
		h.cut, h.stale = false, false
		h.boot()
	}
}

// end lets go of every coroutine.
func (w *world) end() {
	for _, h := range w.hubs {
		for _, t := range h.tasks {
			w.kill(t)
		}
	}
	for _, h := range w.hosts {
		w.kill(h.work)
	}
	for _, r := range w.idle {
		r.stop()
	}
}

func TestSimulatedFleets(t *testing.T) {
	if *seedFlag != 0 {
		var trace strings.Builder
		failure := simulate(*seedFlag, &trace, nil)
		t.Log("\n" + trace.String())
		if failure != "" {
			t.Error(failure)
		}
		return
	}
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // histories are short and leave nothing
	first, many := cmp.Or(*fromFlag, rand.Uint64()>>16), int64(*schedules)
	if raced {
		many /= 20
	}
	t.Logf("%d histories from seed %d", many, first)
	var next atomic.Int64
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			for i := next.Add(1); i <= many && !t.Failed(); i = next.Add(1) {
				seed := first + uint64(i)
				if failure := simulate(seed, nil, nil); failure != "" {
					t.Errorf("seed %d: %s\nreplay: go test ./agent/hub -run TestSimulatedFleets -v -seed %d", seed, failure, seed)
				}
			}
		})
	}
	all.Wait()
}

func FuzzSimulatedFleets(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		if failure := simulate(seed, nil, nil); failure != "" {
			t.Errorf("seed %d: %s", seed, failure)
		}
	})
}
