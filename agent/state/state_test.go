package state_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/state"
)

var (
	billing = mustParse(release.ParseApp, "billing")
	phases  = []state.Phase{
		state.Idle, state.Staging, state.Waiting, state.Activating, state.Trial, state.Committed, state.Reverting, state.Stuck, state.Removing,
	}
	noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
)

func mustParse[T any](parse func(string) (T, error), s string) T {
	v, err := parse(s)
	if err != nil {
		panic(err)
	}
	return v
}

func id(version string) (release.ID, release.Digest) {
	d := release.Sum([]byte(version))
	return release.NewID(mustParse(release.ParseVersion, version), d), d
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T) *state.Dir {
	t.Helper()
	d, err := state.Open(t.TempDir())
	must(t, err)
	return d
}

func lock(t *testing.T, d *state.Dir) *state.Tx {
	t.Helper()
	tx, err := d.Lock(context.Background(), billing)
	must(t, err)
	t.Cleanup(tx.Unlock)
	return tx
}

func path(d *state.Dir, name string) string { return filepath.Join(d.Path(billing), name) }

func TestEveryPhaseHasItsSuccessorsAndNoOther(t *testing.T) {
	if len(state.Next) != len(phases) {
		t.Errorf("Next has %d phases, this test knows %d", len(state.Next), len(phases))
	}
	for from, to := range state.Next {
		for _, p := range append(slices.Clone(to), from) {
			if !slices.Contains(phases, p) {
				t.Errorf("%s leads to %q, which is no phase", from, p)
			}
		}
	}
}

func TestAnIllegalStepIsRefusedAndChangesNothing(t *testing.T) {
	legal, illegal := 0, 0
	for _, from := range phases {
		for _, to := range phases {
			d := open(t)
			tx := lock(t, d)
			tx.State.Phase, tx.State.Attempt = from, &state.Attempt{ID: "a"}
			must(t, tx.Save())
			before, err := os.ReadFile(path(d, "state.json"))
			must(t, err)
			err = tx.Advance(to)
			after, _ := os.ReadFile(path(d, "state.json"))
			if from == to || slices.Contains(state.Next[from], to) {
				legal++
				if st, rerr := d.Read(billing); err != nil || rerr != nil || st.Phase != to || st.Revision != 2 {
					t.Errorf("%s to %s: %v %v", from, to, err, rerr)
				}
				continue
			}
			illegal++
			var bad *state.PhaseError
			if !errors.As(err, &bad) || bad.From != from || bad.To != to || bad.Kind() != "illegal-phase" {
				t.Errorf("%s to %s: %v", from, to, err)
			}
			if string(before) != string(after) || tx.State.Phase != from || tx.State.Revision != 1 {
				t.Errorf("%s to %s was refused and changed something", from, to)
			}
		}
	}
	t.Logf("%d legal steps, %d illegal ones", legal, illegal)
}

func TestAnAppWithoutStateIsIdleAtRevisionZero(t *testing.T) {
	st, err := open(t).Read(billing)
	if err != nil || st.Phase != state.Idle || st.Revision != 0 || st.App != billing {
		t.Errorf("%+v %v", st, err)
	}
}

func TestStateSurvivesARoundTrip(t *testing.T) {
	d := open(t)
	tx := lock(t, d)
	v1, digest := id("1.0.0")
	v2, _ := id("2.0.0")
	tx.State.Sequence, tx.State.SequenceKeys, tx.State.Epoch = 7, []string{"k"}, 3
	tx.State.Attempt = &state.Attempt{ID: "abc", To: v2, From: v1, Fallback: v1, Started: noon, Deadline: time.Hour, Timing: map[string]release.Timing{"web": {Interval: 5}}}
	tx.State.MarkGood(state.Good{ID: v1, Digest: digest, Since: noon})
	tx.State.Hold = &state.Hold{Until: noon, By: "ann", At: noon}
	tx.State.Record(state.Outcome{At: noon, Attempt: "abc", Result: "committed", To: v1})
	must(t, tx.Advance(state.Activating))
	st, err := d.Read(billing)
	if err != nil || !reflect.DeepEqual(st, tx.State) {
		t.Errorf("read %+v (%v), saved %+v", st, err, tx.State)
	}
}

func TestAStateThatCannotBeUnderstoodIsDamaged(t *testing.T) {
	base := func(change func(map[string]any)) string {
		m := map[string]any{"schema": state.Schema, "app": "billing", "revision": 1, "phase": "idle", "sequence": 1}
		change(m)
		data, _ := json.Marshal(m)
		return string(data)
	}
	for name, text := range map[string]string{
		"empty":       "",
		"torn":        `{"schema":"slip`,
		"zeros":       strings.Repeat("\x00", 4096),
		"schema":      base(func(m map[string]any) { m["schema"] = "slipway.state/v9" }),
		"another app": base(func(m map[string]any) { m["app"] = "shop" }),
		"phase":       base(func(m map[string]any) { m["phase"] = "flying" }),
		"field":       base(func(m map[string]any) { m["surprise"] = 1 }),
		"no attempt":  base(func(m map[string]any) { m["phase"] = "trial" }),
		"trailing":    base(func(map[string]any) {}) + "{}",
		"too large":   base(func(m map[string]any) { m["sequence_keys"] = []string{strings.Repeat("x", 5<<20)} }),
	} {
		d := open(t)
		lock(t, d).Unlock()
		must(t, os.WriteFile(path(d, "state.json"), []byte(text), 0o644))
		var bad *state.DamagedError
		if _, err := d.Read(billing); !errors.As(err, &bad) || bad.Kind() != "state-damaged" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestADamagedFileIsKeptAsideWhenANewOneIsSaved(t *testing.T) {
	d := open(t)
	for _, damage := range []string{"first", "second"} {
		lock(t, d).Unlock()
		must(t, os.WriteFile(path(d, "state.json"), []byte(damage), 0o644))
		tx := lock(t, d)
		if tx.Damaged == nil || tx.State.Phase != state.Idle {
			t.Fatalf("damaged %v, state %+v", tx.Damaged, tx.State)
		}
		must(t, tx.Save())
		if tx.Damaged != nil {
			t.Error("still damaged after the save")
		}
		tx.Unlock()
		if data, err := os.ReadFile(path(d, "state.json.damaged")); err != nil || string(data) != damage {
			t.Errorf("kept %q (%v), want %q", data, err, damage)
		}
		if _, err := d.Read(billing); err != nil {
			t.Error(err)
		}
	}
}

func TestTheMarkerIsFoundWholeDamagedOrAbsent(t *testing.T) {
	d := open(t)
	if d.Marker(billing) != nil {
		t.Error("there is none")
	}
	tx := lock(t, d)
	v1, _ := id("1.0.0")
	v2, _ := id("2.0.0")
	want := state.Marker{Attempt: "abc", From: v1, To: v2, Sequence: 4}
	must(t, tx.Mark(want))
	if got := d.Marker(billing); got == nil || *got != want {
		t.Errorf("marker %+v", got)
	}
	must(t, os.WriteFile(path(d, "in-trial"), []byte("?"), 0o644))
	if got := d.Marker(billing); got == nil || got.Attempt != "" {
		t.Errorf("a damaged marker is %+v", got)
	}
	must(t, tx.Unmark())
	must(t, tx.Unmark())
	if d.Marker(billing) != nil {
		t.Error("it is still there")
	}
}

func TestAQuarantineOutlivesAnAmendmentOfItsRolloutAndNoNewRollout(t *testing.T) {
	var st state.App
	_, digest := id("1.0.0")
	st.AddQuarantine(state.Quarantine{Digest: digest, Sequence: 5, RolloutID: "r1", Cause: state.CauseUnhealthy, At: noon})
	for rollout, binds := range map[string]bool{"r1": true, "r2": false, "": false} {
		if _, ok := st.Quarantined(digest, 6, rollout); ok != binds {
			t.Errorf("sequence 6 of rollout %q: bound %v", rollout, ok)
		}
	}
	st.AddQuarantine(state.Quarantine{Digest: digest, Sequence: 6, RolloutID: "r1", Cause: state.CauseUnhealthy, At: noon})
	if q, _ := st.Quarantined(digest, 7, "r1"); q.Tries != 2 {
		t.Errorf("the tries of one rollout start anew with its amendment: %+v", q)
	}
}

func TestAnUnhealthyQuarantineBindsUntilANewSequence(t *testing.T) {
	var st state.App
	_, digest := id("1.0.0")
	st.AddQuarantine(state.Quarantine{Digest: digest, Sequence: 5, Cause: state.CauseUnhealthy, At: noon})
	for sequence, binds := range map[int64]bool{4: true, 5: true, 6: false} {
		if q, ok := st.Quarantined(digest, sequence, "r"); ok != binds || ok && !q.RetryAt.IsZero() {
			t.Errorf("sequence %d: %v %+v", sequence, ok, q)
		}
	}
	st.AddQuarantine(state.Quarantine{Digest: digest, Sequence: 6, Cause: state.CauseRevoked, At: noon})
	if _, ok := st.Quarantined(digest, 99, "r"); !ok {
		t.Error("a new sequence lifts a revocation")
	}
	if len(st.Quarantine) != 1 {
		t.Errorf("one digest has %d entries", len(st.Quarantine))
	}
	if !st.ClearQuarantine(digest) || st.ClearQuarantine(digest) {
		t.Error("clearing is reported wrongly")
	}
}

func TestACauseThatBlamesNobodyGetsThreeTriesTenMinutesApartAndDoubling(t *testing.T) {
	for _, cause := range []state.Cause{state.CauseInterrupted, state.CauseCannotTell, state.CauseGuard, state.CauseFailedBefore} {
		var st state.App
		_, digest := id("1.0.0")
		for try, want := range []time.Duration{10 * time.Minute, 20 * time.Minute, 0} {
			st.AddQuarantine(state.Quarantine{Digest: digest, Sequence: 5, Cause: cause, At: noon})
			q, _ := st.Quarantined(digest, 5, "")
			if q.Tries != try+1 || want > 0 && !q.RetryAt.Equal(noon.Add(want)) || want == 0 && !q.RetryAt.IsZero() {
				t.Errorf("%s, try %d: %+v", cause, try+1, q)
			}
		}
		st.AddQuarantine(state.Quarantine{Digest: digest, Sequence: 6, Cause: cause, At: noon})
		if q, _ := st.Quarantined(digest, 6, ""); q.Tries != 1 {
			t.Errorf("%s: a new sequence begins with try %d", cause, q.Tries)
		}
	}
}

func TestHistoryQuarantineAndRetriesAreBounded(t *testing.T) {
	var st state.App
	for i := range 200 {
		_, digest := id("1.0." + strings.Repeat("1", i%50+1) + string(rune('a'+i/50)))
		st.Record(state.Outcome{Sequence: int64(i)})
		st.AddQuarantine(state.Quarantine{Digest: digest, Sequence: int64(i), At: noon})
		st.SetRetry(state.Retry{Digest: digest, Tries: i})
	}
	if len(st.History) != 50 || st.History[49].Sequence != 199 || st.History[0].Sequence != 150 || st.Last.Sequence != 199 {
		t.Errorf("history has %d outcomes, last %+v", len(st.History), st.Last)
	}
	if len(st.Quarantine) > 64 || len(st.Retries) > 64 {
		t.Errorf("%d quarantines, %d retries", len(st.Quarantine), len(st.Retries))
	}
	newest := st.Retries[len(st.Retries)-1]
	if r, ok := st.RetryOf(newest.Digest); !ok || r.Tries != 199 {
		t.Errorf("newest retry %+v", r)
	}
	st.ClearRetry(newest.Digest)
	if _, ok := st.RetryOf(newest.Digest); ok {
		t.Error("it is still there")
	}
}

// Years of releases must not make the file one that is too large to be read.
func TestWhatIsKnownGoodIsBounded(t *testing.T) {
	d := open(t)
	tx := lock(t, d)
	for i := range 20_000 {
		v, digest := id(fmt.Sprintf("1.0.%d", i))
		tx.State.MarkGood(state.Good{ID: v, Digest: digest, Since: noon})
	}
	must(t, tx.Save())
	st, err := d.Read(billing)
	must(t, err)
	newest, _ := id("1.0.19999")
	if n := len(st.KnownGood); n > 256 || st.KnownGood[n-1].ID != newest {
		t.Errorf("%d releases, the newest %+v", n, st.KnownGood[n-1])
	}
}

func TestAReleaseThatPassedTwiceIsKnownOnceAndAsTheNewest(t *testing.T) {
	var st state.App
	v1, d1 := id("1.0.0")
	v2, d2 := id("2.0.0")
	for _, g := range []state.Good{{ID: v1, Digest: d1}, {ID: v2, Digest: d2}, {ID: v1, Digest: d1, Since: noon}} {
		st.MarkGood(g)
	}
	if g, ok := st.Good(v1); len(st.KnownGood) != 2 || st.KnownGood[1].ID != v1 || !ok || !g.Since.Equal(noon) {
		t.Errorf("known good %+v", st.KnownGood)
	}
}

func TestAHoldEndsAtItsTimeOrNever(t *testing.T) {
	var none *state.Hold
	if none.Active(noon) || !(&state.Hold{}).Active(noon) || !(&state.Hold{Until: noon.Add(1)}).Active(noon) || (&state.Hold{Until: noon}).Active(noon) {
		t.Error("holds are counted wrongly")
	}
}

func TestTheLockIsHeldUntilUnlock(t *testing.T) {
	d := open(t)
	tx := lock(t, d)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := d.Lock(ctx, billing); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second writer got %v", err)
	}
	tx.Unlock()
	lock(t, d)
}

func TestKeptUnitsAreForgottenWithTheirRelease(t *testing.T) {
	d := open(t)
	tx := lock(t, d)
	v1, _ := id("1.0.0")
	v2, _ := id("2.0.0")
	must(t, tx.SaveUnits(v1, []byte("one")))
	must(t, tx.SaveUnits(v1, []byte("one")))
	must(t, tx.SaveUnits(v2, []byte("two")))
	must(t, tx.ForgetUnits(func(i release.ID) bool { return i == v2 }))
	if _, err := d.Units(billing, v1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if data, err := d.Units(billing, v2); err != nil || string(data) != "two" {
		t.Errorf("got %q %v", data, err)
	}
}

func TestForgettingAnAppLeavesTheOthers(t *testing.T) {
	d := open(t)
	tx := lock(t, d)
	must(t, tx.Save())
	other, err := d.Lock(context.Background(), mustParse(release.ParseApp, "shop"))
	must(t, err)
	must(t, other.Save())
	other.Unlock()
	must(t, tx.Forget())
	tx.Unlock()
	apps, err := d.Apps()
	if err != nil || len(apps) != 1 || apps[0].String() != "shop" {
		t.Errorf("apps %v %v", apps, err)
	}
}

func TestAReaderNeedsNoDirectory(t *testing.T) {
	d := state.At(filepath.Join(t.TempDir(), "absent"))
	if apps, err := d.Apps(); err != nil || len(apps) != 0 {
		t.Errorf("apps %v %v", apps, err)
	}
	if _, err := d.Read(billing); err != nil {
		t.Error(err)
	}
}

func FuzzAStateFileNeverPanics(f *testing.F) {
	f.Add([]byte(`{"schema":"slipway.state/v1","app":"billing","phase":"idle"}`))
	f.Add([]byte(`{"schema":"slipway.state/v1","app":"billing","phase":"trial","attempt":{}}`))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d := open(t)
		must(t, os.MkdirAll(d.Path(billing), 0o755))
		must(t, os.WriteFile(path(d, "state.json"), data, 0o644))
		if st, err := d.Read(billing); err == nil {
			if _, ok := state.Next[st.Phase]; !ok {
				t.Errorf("phase %q was accepted", st.Phase)
			}
		}
	})
}
