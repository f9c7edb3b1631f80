package health

import (
	"context"
	"sync"
	"time"
)

// Watch watches an app until a verdict. Deadline is the time left and Length the whole time, for the message; HealthyFor is
// how long the app had already been healthy when an earlier watch of the same trial was interrupted.
type Watch struct {
	Probes     []Timed
	MinHealthy time.Duration
	Deadline   time.Duration
	Length     time.Duration
	HealthyFor time.Duration
	// OnChange is called from the goroutine of Run whenever a check's state changes.
	OnChange func(Snapshot)
}

type answer struct {
	probe int
	Result
}

// Run asks every probe at once and then at its interval, and returns as soon as there is a verdict: a probe unhealthy past
// its threshold, all healthy for MinHealthy, or the deadline. When ctx ends first the verdict is CannotTell. All probes have
// returned when Run returns.
func (w *Watch) Run(ctx context.Context) Verdict {
	t := newTally(w, time.Now())
	ctx, cancel := context.WithCancel(ctx)
	answers := make(chan answer)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for i := range w.Probes {
		wg.Go(func() { ask(ctx, i, w.Probes[i].Probe, t.probes[i].timing, answers) })
	}
	for {
		now := time.Now()
		if v, done := t.verdict(now); done {
			w.changed(t, now)
			return v
		}
		timer := time.NewTimer(t.next(now))
		select {
		case <-ctx.Done():
			timer.Stop()
			return Verdict{Answer: CannotTell, Reason: "the watch was interrupted"}
		case <-timer.C:
		case a := <-answers:
			now := time.Now()
			if t.add(a.probe, a.Result, now) {
				w.changed(t, now)
			}
		}
		timer.Stop()
	}
}

func (w *Watch) changed(t *tally, now time.Time) {
	if w.OnChange != nil {
		w.OnChange(t.snapshot(now))
	}
}

func ask(ctx context.Context, i int, p Probe, timing Timing, answers chan<- answer) {
	ticker := time.NewTicker(timing.Interval)
	defer ticker.Stop()
	for {
		r := Once(ctx, p, timing)
		if ctx.Err() != nil {
			return
		}
		select {
		case answers <- answer{i, r}:
		case <-ctx.Done():
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// Once asks a probe one time, within its timeout.
func Once(ctx context.Context, p Probe, timing Timing) Result {
	timing = timing.complete()
	bounded, cancel := context.WithTimeout(ctx, timing.Timeout)
	defer cancel()
	r := p.Check(bounded)
	switch {
	case ctx.Err() != nil:
		return Result{Answer: CannotTell, Detail: "interrupted"}
	case bounded.Err() != nil && r.Answer != Healthy:
		r.Detail = "no answer within " + timing.Timeout.String()
	}
	return r
}

// Baseline asks every probe, up to its failure threshold, and returns the worst answer: what runs now is unhealthy if one
// probe says so that often in a row.
func Baseline(ctx context.Context, probes []Timed) Result {
	results := make([]Result, len(probes))
	var wg sync.WaitGroup
	for i, p := range probes {
		wg.Go(func() { results[i] = settle(ctx, p) })
	}
	wg.Wait()
	out := Result{Answer: Healthy}
	for _, r := range results {
		if r.Answer == Unhealthy {
			return r
		}
		if r.Answer == CannotTell {
			out = r
		}
	}
	return out
}

// settle asks until an answer counts. It does not wait the whole interval between questions: a baseline must not hold an
// activation up.
func settle(ctx context.Context, p Timed) Result {
	timing := p.Timing.complete()
	var r Result
	for range timing.FailureThreshold {
		if r = Once(ctx, p.Probe, timing); r.Answer != Unhealthy {
			return r
		}
		select {
		case <-time.After(min(timing.Interval, 500*time.Millisecond)):
		case <-ctx.Done():
			return Result{Answer: CannotTell, Detail: "interrupted"}
		}
	}
	return r
}
