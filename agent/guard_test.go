package agent_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/slipway-deploy/slipway/agent"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/state"
)

func noKill(context.Context) error { return errors.New("nobody is to be killed") }

// inTrial is a host that runs 1.0 and has 1.1 in trial.
func (w *world) inTrial() agent.Ticket {
	w.t.Helper()
	w.installed(1, v10())
	w.deploy(2, v11())
	w.until("the trial runs", w.phase(state.Trial))
	return w.ticket()
}

func (w *world) ticket() agent.Ticket {
	w.t.Helper()
	for _, g := range w.sup.Guards {
		t, err := agent.ParseTicket(g.Ticket)
		must(w.t, err)
		return t
	}
	w.t.Fatal("no guard is armed")
	return agent.Ticket{}
}

// reboot takes the power, starts the boot guardian and then what it and the boot links want.
func (w *world) reboot() {
	w.t.Helper()
	w.halt()
	w.sup.powerOff()
	w.clock.reboot()
	w.pass(30 * time.Second)
	must(w.t, w.newMachine().Boot(context.Background()))
	w.sup.powerOn()
}

func TestAGuardIsArmedPastTheDeadlineBeforeTheSwap(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.sup.onJob = func(verb, unit string) {
			if verb == "restart" && len(w.sup.Guards) != 1 {
				t.Errorf("%s of %s with guards %v", verb, unit, w.sup.Guards)
			}
		}
		w.deploy(2, v11())
		w.until("the trial runs", w.phase(state.Trial))
		for _, g := range w.sup.Guards {
			if a := w.read().Attempt; g.Deadline != a.Deadline+15*time.Second {
				t.Errorf("the guard fires at %s, the deadline is %s", g.Deadline, a.Deadline)
			}
		}
		ticket := w.ticket()
		if ticket.From != v10().id.Short() || ticket.To != v11().id.Short() || strings.Count(ticket.String(), ":") != 3 {
			t.Errorf("ticket %s", ticket)
		}
	})
}

func TestAGuardThatCannotBeArmedStopsTheActivation(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.sup.set(func(s *supervisor) { s.armFails = true })
		w.deploy(2, v11())
		w.until("the attempt is given up", w.ended("aborted"))
		w.settledOn(v10())
		if _, bad := w.quarantine(v11()); bad {
			t.Error("the release is blamed")
		}
		w.sup.set(func(s *supervisor) { s.armFails = false })
		w.until("it is tried again", w.rests(v11()))
	})
}

func TestAGuardOfACommittedOrAnotherAttemptDoesNothing(t *testing.T) {
	story(t, func(w *world) {
		ticket := w.inTrial()
		other := ticket
		other.Attempt = "0123456789ab"
		must(t, w.newMachine().Guard(context.Background(), other, noKill))
		must(t, w.newMachine().Guard(context.Background(), ticket, noKill))
		if p := w.read().Phase; p != state.Trial {
			t.Fatalf("a stale or early guard left phase %s", p)
		}
		w.until("it is committed", w.rests(v11()))
		must(t, w.newMachine().Guard(context.Background(), ticket, noKill))
		w.settledOn(v11())
	})
}

func TestTheGuardRevertsWhenTheDaemonIsGone(t *testing.T) {
	story(t, func(w *world) {
		ticket := w.inTrial()
		w.halt()
		w.pass(2*time.Minute + 15*time.Second)
		must(t, w.newMachine().Guard(context.Background(), ticket, noKill))
		if got := w.current(); got != v10().id || w.sup.running(billing) != got.String() {
			t.Errorf("current is %s, running is %s", got, w.sup.running(billing))
		}
		w.start()
		w.until("the daemon ends the attempt", w.ended("reverted"))
		w.settledOn(v10())
		if q, _ := w.quarantine(v11()); q.Cause != state.CauseGuard || q.RetryAt.IsZero() {
			t.Errorf("quarantine %+v", q)
		}
	})
}

func TestTheGuardKillsADaemonThatHoldsTheLockForever(t *testing.T) {
	story(t, func(w *world) {
		ticket := w.inTrial()
		w.halt()
		tx, err := w.state.Lock(context.Background(), billing)
		must(t, err)
		w.pass(3 * time.Minute)
		began, killed := time.Now(), time.Duration(0)
		must(t, w.newMachine().Guard(context.Background(), ticket, func(context.Context) error {
			killed = time.Since(began)
			tx.Unlock() // as the kernel does
			return nil
		}))
		if killed < 10*time.Second || killed > 11*time.Second {
			t.Errorf("killed after %s", killed)
		}
		if w.current() != v10().id {
			t.Errorf("current is %s", w.current())
		}
	})
}

func TestAGuardThatMeetsTheCommitLeavesExactlyOneOutcome(t *testing.T) {
	story(t, func(w *world) {
		for i, delay := range []time.Duration{0, time.Millisecond, 3 * time.Millisecond, time.Second} {
			sequence := int64(10 * (i + 1))
			w.installed(sequence, v10())
			w.deploy(sequence+1, v11(), func(d *release.Deployment) {
				d.Health.MinHealthyTime, d.Health.HealthyDeadline = release.Duration(20*time.Second), release.Duration(30*time.Second)
			})
			w.until("the trial runs", w.phase(state.Trial))
			ticket := w.ticket()
			// The verdict comes while the lock is taken; whoever gets it next decides.
			tx, err := w.state.Lock(context.Background(), billing)
			must(t, err)
			w.pass(time.Minute)
			done := make(chan error, 1)
			go func() { done <- w.newMachine().Guard(context.Background(), ticket, noKill) }()
			time.Sleep(delay)
			tx.Unlock()
			must(t, <-done)
			w.until("the attempt ended", func() bool { return w.read().Attempt == nil })
			w.pass(time.Minute)
			count := 0
			for _, o := range w.read().History {
				if o.Attempt == ticket.Attempt {
					count++
				}
			}
			if o := w.outcome(); count != 1 || (o.Result == "committed") != (w.current() == v11().id) {
				t.Errorf("%d outcomes, last %+v, current %s", count, o, w.current())
			}
			w.nothingInFlight()
		}
	})
}

func TestATrialThatWasNeverHealthyIsRevertedAtBootBeforeTheAppStarts(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.temper(v11(), temper{NeverReady: true})
		w.deploy(2, v11())
		w.until("the trial runs", w.phase(state.Trial))
		w.pass(10 * time.Second)
		ran := len(w.sup.Starts)
		w.reboot()
		if got := w.sup.Starts[ran:]; len(got) != 1 || got[0] != v10().id.String() {
			t.Errorf("after the reboot ran %v", got)
		}
		w.start()
		w.until("the attempt ended", w.ended("reverted"))
		w.settledOn(v10())
		if q, _ := w.quarantine(v11()); q.Cause != state.CauseInterrupted {
			t.Errorf("quarantine %+v", q)
		}
	})
}

func TestATrialThatWasHealthyGoesOnAfterARebootWithAClampedDeadline(t *testing.T) {
	story(t, func(w *world) {
		w.inTrial()
		w.pass(10 * time.Second)
		w.reboot()
		a := w.read().Attempt
		if left := a.Deadline - w.clock.Boot(); a.Boots != 1 || left <= 0 || left > 2*time.Minute {
			t.Errorf("boots %d, %s left", a.Boots, left)
		}
		if len(w.sup.Guards) != 1 {
			t.Errorf("guards %v", w.sup.Guards)
		}
		w.start()
		w.until("it is committed", w.rests(v11()))
		w.settledOn(v11())
	})
}

func TestATrialIsRevertedWhenItsBootsAreUsedUp(t *testing.T) {
	story(t, func(w *world) {
		w.inTrial()
		w.pass(10 * time.Second)
		w.reboot()
		w.start()
		w.pass(10 * time.Second)
		w.reboot()
		w.start()
		w.until("it is reverted", w.ended("reverted"))
		w.settledOn(v10())
		w.mustTell("rebooted 2 times")
	})
}

func TestAReleaseThatWasDamagedDuringItsTrialIsRevertedAtBoot(t *testing.T) {
	story(t, func(w *world) {
		w.inTrial()
		w.pass(10 * time.Second)
		damage(t, w, v11())
		w.reboot()
		w.start()
		w.until("it is reverted", w.ended("reverted"))
		w.settledOn(v10())
	})
}

// damage truncates the program of a staged release.
func damage(t *testing.T, w *world, s *ship) {
	t.Helper()
	path := filepath.Join(w.tree.ReleaseDir(s.id), "bin", s.app.String())
	must(t, os.Chmod(path, 0o755))
	must(t, os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755))
}

func TestBootStartsAnAppAtRestAndRepairsItsUnits(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		unit := filepath.Join(w.dir, "units", "billing.service")
		must(t, os.Remove(unit))
		must(t, os.Remove(filepath.Join(w.dir, "units", "multi-user.target.wants", "billing.service")))
		w.reboot()
		if _, err := os.Stat(unit); err != nil {
			t.Error(err)
		}
		w.settledOn(v10())
	})
}

func TestBootKeepsADamagedReleaseThatIsNotInTrial(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		damage(t, w, v10())
		w.reboot()
		w.mustTell("differs from its manifest")
		if w.sup.running(billing) != v10().id.String() {
			t.Error("what ran before the reboot does not run")
		}
	})
}

func spoil(t *testing.T, w *world) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(w.state.Path(billing), "state.json"), []byte(`{"schema":"slip`), 0o644))
}

func TestADamagedStateWithoutAMarkerKeepsWhatRuns(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.halt()
		spoil(t, w)
		w.reboot()
		w.start()
		w.until("the state is whole", w.rests(v10()))
		w.settledOn(v10())
		w.mustTell("STATE FILE OF billing IS DAMAGED")
		if _, err := os.Stat(filepath.Join(w.state.Path(billing), "state.json.damaged")); err != nil {
			t.Error(err)
		}
	})
}

func TestADamagedStateWithAMarkerGoesBack(t *testing.T) {
	for name, meet := range map[string]func(w *world){
		"the daemon restarts": func(w *world) { w.start() },
		"the host reboots":    func(w *world) { w.reboot(); w.start() },
		"the guard fires": func(w *world) {
			must(w.t, w.newMachine().Guard(context.Background(), w.ticket(), noKill))
			w.start()
		},
	} {
		t.Run(strings.ReplaceAll(name, " ", ""), func(t *testing.T) {
			story(t, func(w *world) {
				w.inTrial()
				w.halt()
				spoil(t, w)
				meet(w)
				w.until("it is reverted", w.ended("reverted"))
				w.settledOn(v10())
			})
		})
	}
}

func TestAnAttemptInterruptedBeforeTheSwapIsGivenUpWithoutBlame(t *testing.T) {
	story(t, func(w *world) {
		w.installed(1, v10())
		w.halt()
		forge(t, w, state.Activating)
		w.start()
		w.until("it is given up", w.told1("given up before the swap"))
		if _, bad := w.quarantine(v11()); bad || w.current() != v10().id {
			t.Errorf("current %s, quarantine %v", w.current(), bad)
		}
		w.until("it rests", w.phase(state.Idle))
		w.nothingInFlight()
	})
}

func TestAnAttemptInterruptedAfterTheSwapGoesBack(t *testing.T) {
	for _, meet := range []string{"Daemon", "Boot", "Guard"} {
		t.Run(meet, func(t *testing.T) {
			story(t, func(w *world) {
				ticket := w.inTrial()
				w.halt()
				rephase(t, w, state.Activating)
				switch meet {
				case "Boot":
					w.reboot()
				case "Guard":
					w.pass(3 * time.Minute)
					must(t, w.newMachine().Guard(context.Background(), ticket, noKill))
				}
				w.start()
				w.until("it is reverted", w.ended("reverted"))
				w.settledOn(v10())
				if q, _ := w.quarantine(v11()); q.Cause.Sticky() {
					t.Errorf("quarantine %+v", q)
				}
			})
		})
	}
}

// forge saves an attempt from 1.0 to 1.1 as an interrupted process would have left it; current stays.
func forge(t *testing.T, w *world, p state.Phase) {
	t.Helper()
	tx, err := w.state.Lock(context.Background(), billing)
	must(t, err)
	defer tx.Unlock()
	tx.State.Phase, tx.State.Attempt = p, &state.Attempt{
		ID: "abcdefabcdef", Sequence: 2, Digest: v11().digest, From: v10().id, To: v11().id, Fallback: v10().id, Started: time.Now(),
		BootID: w.clock.BootID(), Deadline: w.clock.Boot() + time.Minute, Length: time.Minute, MaxBoots: 2, MinHealthy: time.Second, Baseline: "healthy",
	}
	must(t, tx.Save())
	must(t, tx.Mark(state.Marker{Attempt: "abcdefabcdef", From: v10().id, To: v11().id}))
}

func rephase(t *testing.T, w *world, p state.Phase) {
	t.Helper()
	tx, err := w.state.Lock(context.Background(), billing)
	must(t, err)
	defer tx.Unlock()
	tx.State.Phase = p
	must(t, tx.Save())
}

func (w *world) told1(text string) func() bool { return func() bool { return w.told(text) } }

func TestADaemonThatRestartsWithinTheDeadlineGoesOnWithTheTrial(t *testing.T) {
	story(t, func(w *world) {
		w.inTrial()
		w.pass(5 * time.Second)
		w.halt()
		w.pass(5 * time.Second)
		w.start()
		w.until("it is committed", w.rests(v11()))
		w.settledOn(v11())
		if n := len(w.read().History); n != 2 {
			t.Errorf("history %+v", w.read().History)
		}
	})
}

func TestADaemonThatComesBackAfterTheDeadlineReverts(t *testing.T) {
	story(t, func(w *world) {
		w.inTrial()
		w.halt()
		w.pass(time.Hour)
		w.start()
		w.until("it is reverted", w.ended("reverted"))
		w.settledOn(v10())
	})
}

func TestACurrentThatSomebodyMovedDuringATrialEndsIt(t *testing.T) {
	story(t, func(w *world) {
		w.inTrial()
		must(t, w.tree.Swap(v10().id))
		w.until("it is reverted", w.ended("reverted"))
		w.settledOn(v10())
		if q, _ := w.quarantine(v11()); q.Cause != state.CauseInterrupted {
			t.Errorf("quarantine %+v", q)
		}
	})
}

func TestSettleEndsATrialBeforeSlipwayGoesAway(t *testing.T) {
	story(t, func(w *world) {
		w.inTrial()
		w.halt()
		must(t, w.newMachine().Settle(context.Background()))
		synctest.Wait()
		w.settledOn(v10())
		must(t, w.newMachine().Settle(context.Background()))
	})
}
