package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/release"
)

// desk is a coordinator with one slot that a test moves by hand. It remembers what it was asked.
type desk struct {
	turn   fleet.TurnAnswer
	check  fleet.CheckAnswer
	finish fleet.FinishAnswer
	err    error // of every request
	lose   bool  // answers are lost on the way back
	log    []string
	last   fleet.Finish
	seen   func(string) // called with each request as it comes in
}

func (d *desk) say(format string, args ...any) error {
	line := fmt.Sprintf(format, args...)
	d.log = append(d.log, line)
	if d.seen != nil {
		d.seen(line)
	}
	if d.lose {
		return errors.New("the answer was lost")
	}
	return d.err
}

func (d *desk) Turn(_ context.Context, t fleet.Turn) (fleet.TurnAnswer, error) {
	return d.turn, d.say("turn %s %s holding %d", t.Rollout, t.Want, t.Fence)
}

func (d *desk) Check(_ context.Context, c fleet.Check) (fleet.CheckAnswer, error) {
	return d.check, d.say("check %d", c.Fence)
}

func (d *desk) Finish(_ context.Context, f fleet.Finish) (fleet.FinishAnswer, error) {
	d.last = f
	return d.finish, d.say("finish %d %s %s", f.Fence, f.Rollout, f.Result)
}

func granting(fence int64) *desk {
	return &desk{
		turn: fleet.TurnAnswer{Answer: fleet.Granted, Fence: fence}, check: fleet.CheckAnswer{OK: true, Within: 30}, finish: fleet.FinishAnswer{Accepted: true},
	}
}

// memory is a journal that may fail.
type memory struct {
	fleet.Record
	saves  int
	failAt int
}

func (j *memory) Load() (fleet.Record, error) { return j.Record, nil }

func (j *memory) Save(r fleet.Record) error {
	j.saves++
	if j.saves == j.failAt {
		return errors.New("no space left")
	}
	j.Record = r
	return nil
}

var atNoon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

func member(d *desk, j fleet.Journal) *fleet.Member {
	return &fleet.Member{Transport: d, Journal: j, Install: "i-1", Now: func() time.Time { return atNoon }}
}

func wanting(rollout string, want fleet.Direction) fleet.Turn {
	return fleet.Turn{App: billing(), Rollout: rollout, Want: want, Document: release.Sum([]byte("plan")), Wave: "canary"}
}

func TestAGrantIsInTheJournalBeforeTheHostHearsOfIt(t *testing.T) {
	d, j := granting(7), &memory{failAt: 1}
	if a, err := member(d, j).Turn(context.Background(), wanting("r1", fleet.Forward)); err == nil {
		t.Fatalf("a grant that could not be saved was handed on: %+v", a)
	}
	a, err := member(d, j).Turn(context.Background(), wanting("r1", fleet.Forward))
	if err != nil || !a.Granted || a.Fence != 7 || j.Fence != 7 || j.Rollout != "r1" || j.Direction != fleet.Forward {
		t.Fatalf("%+v %v %+v", a, err, j.Record)
	}
	if a, err = member(d, j).Turn(context.Background(), wanting("r1", fleet.Forward)); err != nil || a.Fence != 7 || d.log[2] != "turn r1 forward holding 7" {
		t.Errorf("after a restart: %+v %v %v", a, err, d.log)
	}
}

func TestAGrantNobodyWantedIsNone(t *testing.T) {
	for _, turn := range []fleet.TurnAnswer{{Answer: fleet.Granted, Fence: 0}, {Answer: fleet.Granted, Fence: -3}, {Fence: 9}, {Answer: "yes", Fence: 9}} {
		d, j := &desk{turn: turn}, &memory{}
		if a, err := member(d, j).Turn(context.Background(), wanting("r1", fleet.Forward)); err != nil || a.Granted || j.Fence != 0 {
			t.Errorf("%+v gave %+v %v", turn, a, err)
		}
	}
	d, j := granting(7), &memory{}
	if a, err := member(d, j).Turn(context.Background(), wanting("r1", fleet.Nowhere)); err != nil || a.Granted || j.Fence != 0 {
		t.Errorf("%+v %v", a, err)
	}
}

func TestSilenceIsCountedFromItsBeginAcrossRestartsAndEndsWithAnyAnswer(t *testing.T) {
	d, j := &desk{err: &fleet.SilentError{URL: "https://hub", Err: os.ErrDeadlineExceeded}}, &memory{}
	m := member(d, j)
	for i := range 3 {
		m.Now = func() time.Time { return atNoon.Add(time.Duration(i) * time.Hour) }
		a, err := m.Turn(context.Background(), wanting("r1", fleet.Forward))
		if err != nil || !a.Silent.Equal(atNoon) || a.Granted {
			t.Fatalf("%+v %v", a, err)
		}
	}
	if j.saves != 1 {
		t.Errorf("one silence was written %d times", j.saves)
	}
	d.err, d.turn = nil, fleet.TurnAnswer{Answer: fleet.Wait, Rule: fleet.RuleBusy, Reason: "no quorum"}
	if a, _ := m.Turn(context.Background(), wanting("r1", fleet.Forward)); !a.Silent.Equal(atNoon) || a.Reason != "no quorum" {
		t.Errorf("a hub without its store is no answer: %+v", a)
	}
	d.turn = fleet.TurnAnswer{Answer: fleet.Wait, Rule: fleet.RuleBudget, Reason: "all 3 slots are taken"}
	if a, _ := m.Turn(context.Background(), wanting("r1", fleet.Forward)); !a.Silent.IsZero() || a.Rule != fleet.RuleBudget || !j.Silent.IsZero() {
		t.Errorf("%+v %+v", a, j.Record)
	}
	for _, err := range []error{&fleet.RefusedError{Reply: fleet.Error{Kind: fleet.RuleClone, Message: "no"}}, &fleet.LocalError{What: "no certificate"}} {
		d.err = err
		if a, _ := m.Turn(context.Background(), wanting("r1", fleet.Forward)); !a.Silent.IsZero() || a.Rule == "" {
			t.Errorf("a refusal became a silence: %+v", a)
		}
	}
}

func TestASlotThatIsNotWantedAnyMoreIsGivenBackFirst(t *testing.T) {
	for name, next := range map[string]fleet.Turn{
		"nothing": wanting("r1", fleet.Nowhere), "another rollout": wanting("r2", fleet.Forward), "the other way": wanting("r1", fleet.Back),
	} {
		d, j := granting(7), &memory{}
		m := member(d, j)
		_, err := m.Turn(context.Background(), wanting("r1", fleet.Forward))
		must(t, err)
		d.turn = fleet.TurnAnswer{Answer: fleet.Wait, Rule: fleet.RuleBudget}
		_, err = m.Turn(context.Background(), next)
		must(t, err)
		if got := strings.Join(d.log[1:], ", "); !strings.HasPrefix(got, "finish 7 r1 skipped, turn ") || !strings.HasSuffix(got, "holding 0") || j.Fence != 0 {
			t.Errorf("%s: %s, journal %+v", name, got, j.Record)
		}
	}
}

func TestASlotUnderWhichSomethingMayHaveHappenedIsOnlyLetGoByItsReport(t *testing.T) {
	d, j := granting(7), &memory{}
	m := member(d, j)
	ctx := context.Background()
	_, err := m.Turn(ctx, wanting("r1", fleet.Forward))
	must(t, err)
	d.seen = func(string) {
		if !j.Begun {
			t.Error("the check was asked before the journal said that the effect may follow")
		}
	}
	if within, err := m.Check(ctx, 7); err != nil || within != 30*time.Second {
		t.Fatal(within, err)
	}
	d.seen = nil
	if _, err := m.Turn(ctx, wanting("r2", fleet.Forward)); !errors.Is(err, fleet.ErrUnended) {
		t.Errorf("another slot could be had: %v", err)
	}
	d.turn = fleet.TurnAnswer{Answer: fleet.Wait}
	if _, err := m.Turn(ctx, wanting("r1", fleet.Nowhere)); err != nil || j.Fence != 7 || !j.Begun {
		t.Errorf("telling let go of it: %v %+v", err, j.Record)
	}
	d.lose = true
	if err := m.End(ctx, fleet.Finish{Fence: 7, Result: fleet.Committed, Serving: true}); err == nil || j.Report == nil {
		t.Fatal("a report that was not acknowledged is over")
	}
	d.lose = false
	if _, err := member(d, j).Turn(ctx, wanting("r1", fleet.Nowhere)); err != nil || j.Fence != 0 {
		t.Errorf("after a restart: %v %+v", err, j.Record)
	}
	if d.last.Install != "i-1" || d.last.Wave != "canary" || d.last.App != billing() || d.last.Result != fleet.Committed {
		t.Errorf("the report was %+v", d.last)
	}
	must(t, m.End(ctx, fleet.Finish{Fence: 7, Result: fleet.Reverted})) // acknowledged long ago
	if d.last.Result != fleet.Committed {
		t.Error("it was reported twice, and differently")
	}
}

func TestAStaleReportIsOverAndOneNotTakenIsNot(t *testing.T) {
	d, j := granting(7), &memory{}
	m := member(d, j)
	_, err := m.Turn(context.Background(), wanting("r1", fleet.Forward))
	must(t, err)
	d.finish = fleet.FinishAnswer{Reason: "ask again"}
	if err := m.End(context.Background(), fleet.Finish{Fence: 7, Result: fleet.Reverted, Serving: true}); err == nil || j.Fence != 7 {
		t.Errorf("%v %+v", err, j.Record)
	}
	d.finish = fleet.FinishAnswer{Stale: true}
	if err := m.Deliver(context.Background()); err != nil || j.Fence != 0 {
		t.Errorf("%v %+v", err, j.Record)
	}
}

func TestAHostThatDoesNotServeKeepsItsSlotAndReportsAgainOnceItDoes(t *testing.T) {
	d, j := granting(7), &memory{}
	m := member(d, j)
	ctx := context.Background()
	_, err := m.Turn(ctx, wanting("r1", fleet.Forward))
	must(t, err)
	must(t, m.End(ctx, fleet.Finish{Fence: 7, Result: fleet.Stuck}))
	if j.Fence != 7 || !j.Told {
		t.Fatalf("%+v", j.Record)
	}
	n := len(d.log)
	must(t, m.End(ctx, fleet.Finish{Fence: 7, Result: fleet.Stuck}))
	if len(d.log) != n {
		t.Errorf("the same was said again: %v", d.log)
	}
	d.turn.Fence = 9
	if a, err := m.Turn(ctx, wanting("r2", fleet.Forward)); err != nil || a.Fence != 9 || j.Fence != 9 || d.log[len(d.log)-1] != "turn r2 forward holding 7" {
		t.Errorf("it could not ask for the mend: %+v %v %v", a, err, d.log)
	}
	must(t, m.End(ctx, fleet.Finish{Fence: 9, Result: fleet.Stuck}))
	must(t, m.End(ctx, fleet.Finish{Fence: 9, Result: fleet.Stuck, Serving: true}))
	if j.Fence != 0 {
		t.Errorf("%+v", j.Record)
	}
}

func TestAGrantWhoseAnswerWasLostIsGivenBackWhenThePlanMovedOn(t *testing.T) {
	d, j := &desk{turn: fleet.TurnAnswer{Answer: fleet.Wait, Rule: fleet.RuleHeld, Fence: 7, Rollout: "r0"}, finish: fleet.FinishAnswer{Accepted: true}}, &memory{}
	a, err := member(d, j).Turn(context.Background(), wanting("r1", fleet.Forward))
	if err != nil || a.Granted || j.Fence != 0 || d.log[len(d.log)-1] != "finish 7 r0 skipped" {
		t.Errorf("%+v %v %v %+v", a, err, d.log, j.Record)
	}
}

// A store that comes back from an old copy may still hold a slot that this host has ended; a late copy of that report would take
// it away in the middle of the update.
func TestASlotThatThisHostHasEndedIsNotUsedAgain(t *testing.T) {
	ctx := context.Background()
	d, j := granting(7), &memory{}
	m := member(d, j)
	for _, fence := range []int64{7, 9} {
		d.turn.Fence = fence
		a, err := m.Turn(ctx, wanting("r1", fleet.Forward))
		if must(t, err); !a.Granted {
			t.Fatalf("%+v", a)
		}
		must(t, m.End(ctx, fleet.Finish{Fence: fence, Result: fleet.Reverted, Serving: true}))
	}
	d.turn.Fence = 7
	if a, err := m.Turn(ctx, wanting("r1", fleet.Forward)); err != nil || a.Granted || a.Rule != fleet.RuleRestored {
		t.Errorf("an ended slot was granted: %+v %v", a, err)
	}
	if j.Fence != 0 || d.last.Fence != 7 || d.last.Result != fleet.Skipped {
		t.Errorf("it was not given back: %+v, %+v", j.Record, d.last)
	}
	d.turn.Fence = 12
	if a, err := m.Turn(ctx, wanting("r1", fleet.Forward)); err != nil || !a.Granted {
		t.Errorf("a new one: %+v %v", a, err)
	}
}

func TestACheckThatIsNotAYesIsANo(t *testing.T) {
	for name, change := range map[string]func(*desk){
		"halted": func(d *desk) { d.check = fleet.CheckAnswer{Rule: fleet.RuleHalted, Reason: "3 failures"} },
		"silent": func(d *desk) { d.err = errors.New("no route to host") },
	} {
		d, j := granting(7), &memory{}
		m := member(d, j)
		_, err := m.Turn(context.Background(), wanting("r1", fleet.Forward))
		must(t, err)
		change(d)
		if _, err := m.Check(context.Background(), 7); err == nil {
			t.Errorf("%s: it may go", name)
		}
		if _, err := m.Check(context.Background(), 8); err == nil {
			t.Errorf("%s: a fence it does not hold passed", name)
		}
	}
}

// TestAJournalThatFailsAnywhereLetsNothingHappenThatItDoesNotKnow runs one update with the journal failing at each of its
// writes, as a crash would, and goes on with a new member.
func TestAJournalThatFailsAnywhereLetsNothingHappenThatItDoesNotKnow(t *testing.T) {
	ctx := context.Background()
	for failAt := 1; failAt < 12; failAt++ {
		d, j := granting(7), &memory{failAt: failAt}
		swapped := false
		for range 4 {
			m := member(d, j)
			if !swapped {
				a, err := m.Turn(ctx, wanting("r1", fleet.Forward))
				if errors.Is(err, fleet.ErrUnended) { // crashed between check and swap
					_ = m.End(ctx, fleet.Finish{Fence: j.Fence, Result: fleet.Skipped, Serving: true})
					continue
				}
				if err != nil || !a.Granted {
					continue
				}
				if _, err := m.Check(ctx, a.Fence); err != nil {
					continue
				}
				if swapped = true; j.Fence != 7 || !j.Begun {
					t.Fatalf("write %d: the swap happens and the journal says %+v", failAt, j.Record)
				}
			}
			_ = m.End(ctx, fleet.Finish{Fence: 7, Result: fleet.Committed, Serving: true})
		}
		if !swapped || j.Fence != 0 || d.last.Result != fleet.Committed {
			t.Errorf("write %d: swapped %v, journal %+v, reported %s", failAt, swapped, j.Record, d.last.Result)
		}
	}
}

func TestTheFileJournalRemembersAndSetsDamageAside(t *testing.T) {
	var told error
	j := fleet.FileJournal{Path: filepath.Join(t.TempDir(), "slot.json"), Damaged: func(err error) { told = err }}
	if r, err := j.Load(); err != nil || r.Fence != 0 {
		t.Fatal(r, err)
	}
	want := fleet.Record{Fence: 7, App: billing(), Rollout: "r1", Direction: fleet.Back, Silent: atNoon, Begun: true,
		Report: &fleet.Finish{App: billing(), Fence: 7, Result: fleet.Committed}}
	must(t, j.Save(want))
	got, err := j.Load()
	if err != nil || got.Fence != 7 || got.Direction != fleet.Back || !got.Silent.Equal(atNoon) || got.Report == nil || got.Report.Result != fleet.Committed {
		t.Errorf("%+v %v", got, err)
	}
	must(t, os.WriteFile(j.Path, []byte(`{"fence":7`), 0o600))
	if got, err := j.Load(); err != nil || got.Fence != 0 || told == nil {
		t.Errorf("%+v %v %v", got, err, told)
	}
	if _, err := os.Stat(j.Path + ".damaged"); err != nil {
		t.Error(err)
	}
}
