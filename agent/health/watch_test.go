package health

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// script answers what its function says for each question; the time of the first question is 0.
type script struct {
	named
	mu     sync.Mutex
	begin  time.Time
	answer func(at time.Duration) Result
}

func newScript(name string, answer func(at time.Duration) Result) *script {
	return &script{named: named{name, "script"}, answer: answer}
}

func (s *script) Check(context.Context) Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begin.IsZero() {
		s.begin = time.Now()
	}
	return s.answer(time.Since(s.begin))
}

func always(r Result) func(time.Duration) Result { return func(time.Duration) Result { return r } }

var second = Timing{Interval: time.Second, Timeout: time.Second, FailureThreshold: 3}

func runWatch(t *testing.T, w *Watch) (Verdict, time.Duration) {
	t.Helper()
	begin := time.Now()
	v := w.Run(t.Context())
	return v, time.Since(begin)
}

func TestATrialIsWonByBeingHealthyLongEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &Watch{Probes: []Timed{{newScript("web", always(Result{Healthy, "200"})), second}}, MinHealthy: 5 * time.Second, Deadline: time.Minute, Length: time.Minute}
		v, took := runWatch(t, w)
		if v.Answer != Healthy || took != 5*time.Second {
			t.Fatalf("got %v after %s, want healthy after 5s", v, took)
		}
	})
}

func TestATrialIsLostAsSoonAsTheFailureThresholdIsReached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := newScript("web", func(at time.Duration) Result {
			if at < 2*time.Second {
				return Result{Healthy, "200"}
			}
			return Result{Unhealthy, "503"}
		})
		w := &Watch{Probes: []Timed{{bad, second}}, MinHealthy: 10 * time.Second, Deadline: time.Minute, Length: time.Minute}
		v, took := runWatch(t, w)
		if v.Answer != Unhealthy || took != 4*time.Second || !strings.Contains(v.Reason, "503") {
			t.Fatalf("got %v after %s, want unhealthy (503) after 4s", v, took)
		}
	})
}

func TestOneFailureBelowTheThresholdStartsTheHealthyTimeAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		blip := newScript("web", func(at time.Duration) Result {
			if at == 3*time.Second {
				return Result{Unhealthy, "503"}
			}
			return Result{Healthy, "200"}
		})
		w := &Watch{Probes: []Timed{{blip, second}}, MinHealthy: 5 * time.Second, Deadline: time.Minute, Length: time.Minute}
		v, took := runWatch(t, w)
		if v.Answer != Healthy || took != 9*time.Second {
			t.Fatalf("got %v after %s, want healthy 5s after the blip at 3s ended at 4s", v, took)
		}
	})
}

func TestFailuresWithinTheStartPeriodDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := newScript("web", func(at time.Duration) Result {
			if at < 8*time.Second {
				return Result{Unhealthy, "refused"}
			}
			return Result{Healthy, "200"}
		})
		timing := second
		timing.StartPeriod = 7 * time.Second
		w := &Watch{Probes: []Timed{{slow, timing}}, MinHealthy: 2 * time.Second, Deadline: time.Minute, Length: time.Minute}
		if v, took := runWatch(t, w); v.Answer != Healthy || took != 10*time.Second {
			t.Fatalf("got %v after %s, want healthy after 10s", v, took)
		}
	})
}

func TestAnAppThatHangsLosesAtItsTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &Watch{Probes: []Timed{{hanging{}, second}}, MinHealthy: time.Second, Deadline: time.Minute, Length: time.Minute}
		v, _ := runWatch(t, w)
		if v.Answer != Unhealthy || !strings.Contains(v.Reason, "no answer within 1s") {
			t.Fatalf("got %v, want unhealthy by timeout", v)
		}
	})
}

type hanging struct{}

func (hanging) Name() string { return "hanging" }
func (hanging) Kind() string { return "script" }
func (hanging) Check(ctx context.Context) Result {
	<-ctx.Done()
	return Result{Unhealthy, "gave up"}
}

func TestACheckerThatCannotTellNeitherWinsNorLosesBeforeTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &Watch{Probes: []Timed{{newScript("unit", always(Result{CannotTell, "no bus"})), second}}, MinHealthy: time.Second, Deadline: 20 * time.Second, Length: 20 * time.Second}
		v, took := runWatch(t, w)
		if v.Answer != CannotTell || took != 20*time.Second || !strings.Contains(v.Reason, "no bus") {
			t.Fatalf("got %v after %s, want cannot-tell at the deadline", v, took)
		}
	})
}

func TestTheDeadlineEndsATrialThatFlaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		flap := newScript("web", func(at time.Duration) Result {
			if int(at/time.Second)%2 == 0 {
				return Result{Healthy, "200"}
			}
			return Result{Unhealthy, "503"}
		})
		w := &Watch{Probes: []Timed{{flap, second}}, MinHealthy: 5 * time.Second, Deadline: 15 * time.Second, Length: time.Minute}
		v, took := runWatch(t, w)
		if v.Answer != Unhealthy || took != 15*time.Second || !strings.Contains(v.Reason, "not healthy for 5s within 1m0s") {
			t.Fatalf("got %v after %s", v, took)
		}
	})
}

func TestAWatchThatGoesOnKeepsTheHealthyTimeOfTheOneBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &Watch{Probes: []Timed{{newScript("web", always(Result{Healthy, "200"})), second}}, MinHealthy: time.Minute, HealthyFor: 50 * time.Second, Deadline: time.Minute, Length: time.Minute}
		if v, took := runWatch(t, w); v.Answer != Healthy || took != 10*time.Second {
			t.Fatalf("got %v after %s, want healthy after the 10s that were missing", v, took)
		}
	})
}

func TestAWatchThatGoesOnForgetsTheHealthyTimeWhenTheAppIsNoLongerHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late := newScript("web", func(at time.Duration) Result {
			if at < time.Second {
				return Result{Unhealthy, "503"}
			}
			return Result{Healthy, "200"}
		})
		w := &Watch{Probes: []Timed{{late, second}}, MinHealthy: 20 * time.Second, HealthyFor: 19 * time.Second, Deadline: time.Minute, Length: time.Minute}
		if v, took := runWatch(t, w); v.Answer != Healthy || took != 21*time.Second {
			t.Fatalf("got %v after %s, want the whole 20s again", v, took)
		}
	})
}

func TestAnInterruptedWatchClaimsNothingAndLeavesNoGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		w := &Watch{Probes: []Timed{{hanging{}, Timing{Interval: time.Second, Timeout: time.Hour}}}, MinHealthy: time.Second, Deadline: time.Minute}
		if v := w.Run(ctx); v.Answer != CannotTell {
			t.Fatalf("got %v", v)
		}
	})
}

func TestTheBaselineIsTheWorstAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good := Timed{newScript("a", always(Result{Healthy, "200"})), second}
		bad := Timed{newScript("b", always(Result{Unhealthy, "503"})), second}
		mute := Timed{newScript("c", always(Result{CannotTell, "no bus"})), second}
		for _, c := range []struct {
			probes []Timed
			want   Answer
		}{{[]Timed{good}, Healthy}, {[]Timed{good, mute}, CannotTell}, {[]Timed{good, mute, bad}, Unhealthy}, {nil, Healthy}} {
			if got := Baseline(t.Context(), c.probes); got.Answer != c.want {
				t.Errorf("baseline of %d probes is %v, want %v", len(c.probes), got, c.want)
			}
		}
	})
}

func TestABaselineForgivesOneBadAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		once := newScript("web", func(at time.Duration) Result {
			if at == 0 {
				return Result{Unhealthy, "503"}
			}
			return Result{Healthy, "200"}
		})
		if got := Baseline(t.Context(), []Timed{{once, second}}); got.Answer != Healthy {
			t.Fatalf("got %v", got)
		}
	})
}

func TestACheckerThatGoesBlindDoesNotWinTheTrial(t *testing.T) {
	for name, blindFrom := range map[string]time.Duration{"after one answer": time.Second, "just before the end": 9 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				blind := newScript("unit", func(at time.Duration) Result {
					if at < blindFrom {
						return Result{Healthy, "active"}
					}
					return Result{CannotTell, "no bus"}
				})
				w := &Watch{Probes: []Timed{{blind, second}}, MinHealthy: 10 * time.Second, Deadline: time.Minute, Length: time.Minute}
				v, took := runWatch(t, w)
				if v.Answer != CannotTell || took != time.Minute || !strings.Contains(v.Reason, "no bus") {
					t.Fatalf("got %v after %s, want cannot-tell at the deadline", v, took)
				}
			})
		})
	}
}

func TestABlinkOfTheCheckerBreaksNoStreak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		blink := newScript("unit", func(at time.Duration) Result {
			if at == 4*time.Second || at == 5*time.Second {
				return Result{CannotTell, "no bus"}
			}
			return Result{Healthy, "active"}
		})
		w := &Watch{Probes: []Timed{{blink, second}}, MinHealthy: 10 * time.Second, Deadline: time.Minute, Length: time.Minute}
		if v, took := runWatch(t, w); v.Answer != Healthy || took != 10*time.Second {
			t.Fatalf("got %v after %s, want healthy after 10s", v, took)
		}
	})
}

func TestAnAppThatFailedLastIsToBlameAtTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mixed := newScript("web", func(at time.Duration) Result {
			if int(at/time.Second)%2 == 0 {
				return Result{Unhealthy, "503"}
			}
			return Result{CannotTell, "no bus"}
		})
		timing := Timing{Interval: time.Second, Timeout: time.Second, FailureThreshold: 100}
		w := &Watch{Probes: []Timed{{mixed, timing}}, MinHealthy: time.Second, Deadline: 9 * time.Second, Length: 9 * time.Second}
		if v, _ := runWatch(t, w); v.Answer != Unhealthy {
			t.Fatalf("got %v, want unhealthy", v)
		}
	})
}
