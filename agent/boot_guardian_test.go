package agent_test

import (
	"testing"
)

func TestNoTrialBeginsWhileTheBootGuardianIsBroken(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.sup.set(func(s *supervisor) { s.Units["slipway-boot.service"] = &unitRun{} })
		w.deploy(2, v11())
		w.until("it is refused", w.told1("is staged but refused: cannot prove that going back would work: refused: the boot guardian slipway-boot.service failed on this host"))
		w.settledOn(v10())
		if _, blamed := w.quarantine(v11()); blamed {
			t.Error("the release got the blame")
		}
		w.sup.set(func(s *supervisor) { delete(s.Units, "slipway-boot.service") })
		w.until("it is tried once the guardian works", w.rests(v11()))
	})
}
