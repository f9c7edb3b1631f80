package agent_test

import (
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/state"
)

func TestADaemonThatIsStoppedDuringARevertDoesNotWaitForTheFallbacksHealth(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.temper(v11(), temper{DiesAfter: 5 * time.Second})
		w.deploy(2, v11())
		w.until("in trial", w.phase(state.Trial))
		w.temper(v10(), temper{NeverReady: true}) // the fallback takes its time
		w.until("the fallback is started", func() bool { a := w.read().Attempt; return a != nil && a.Restarted })
		w.pass(time.Second)
		began := time.Now()
		w.halt()
		if took := time.Since(began); took > time.Second {
			t.Errorf("stopping took %s", took)
		}
		if !w.phase(state.Reverting)() || w.current() != v10().id {
			t.Errorf("left in phase %s on %s", w.read().Phase, w.current())
		}
		w.temper(v10(), temper{})
		starts := len(w.sup.Starts)
		w.start()
		w.until("the next start ends the revert", w.ended("reverted"))
		if len(w.sup.Starts) != starts {
			t.Errorf("the fallback was started again: %v", w.sup.Starts[starts:])
		}
		w.settledOn(v10())
	})
}
