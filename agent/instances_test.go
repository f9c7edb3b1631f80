package agent_test

import (
	"context"
	"testing"
	"time"
)

// instance is the release that an instance runs, or "".
func (w *world) instance(unit string) string {
	w.sup.mu.Lock()
	defer w.sup.mu.Unlock()
	if u := w.sup.Units[unit]; u != nil {
		return u.Release
	}
	return ""
}

func (w *world) startWorkers(names ...string) {
	w.t.Helper()
	for _, name := range names {
		must(w.t, w.sup.Job(context.Background(), "start", name))
	}
}

func TestInstancesOfTheAppsTemplatesGoWithTheRelease(t *testing.T) {
	workers := []string{"billing-worker@1.service", "billing-worker@two.service"}
	run := func(w *world, s *ship) {
		t.Helper()
		for _, unit := range workers {
			want := ""
			if s != nil {
				want = s.id.String()
			}
			if got := w.instance(unit); got != want {
				t.Errorf("%s runs %q, want %q", unit, got, want)
			}
		}
	}
	story(t, func(w *world) {
		w.installed(1, vMany())
		w.startWorkers(workers...)
		w.deploy(2, vMany2())
		w.until("an upgrade is committed", w.rests(vMany2()))
		run(w, vMany2())
		w.temper(v12(), temper{DiesAfter: 10 * time.Second})
		w.deploy(3, v12())
		w.until("a release without workers is in trial", func() bool { return w.current() == v12().id && w.sup.running(billing) == v12().id.String() })
		run(w, nil)
		w.until("it is reverted", w.ended("reverted"))
		w.startWorkers(workers...)
		_, err := w.machine.Revert(context.Background(), command(w))
		must(t, err)
		w.until("an operator's revert is done", func() bool { return w.current() == vMany().id && w.ended("reverted")() })
		run(w, vMany())
		w.deploy(4, nil)
		w.until("it is off the host", w.ended("removed"))
		run(w, nil)
	})
}
