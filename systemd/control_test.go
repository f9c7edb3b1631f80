package systemd

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestAJobThatEndsBeforeItsReplyIsNotMissed(t *testing.T) {
	p := newPID1(t)
	c := p.control()
	p.set(func() { p.early = true })
	for range 20 {
		if err := c.Job(t.Context(), Restart, "billing.service"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEveryEndOfAJobIsNamed(t *testing.T) {
	p := newPID1(t)
	c := p.control()
	p.set(func() {
		p.units["billing.service"] = map[string]any{"ActiveState": "failed", "Result": "exit-code", "ExecMainStatus": int32(3)}
	})
	for result, fine := range map[string][]Verb{"done": {Start, Stop, Restart, ReloadUnit}, "skipped": {TryRestart}} {
		p.set(func() { p.result = result })
		for _, verb := range fine {
			if err := c.Job(t.Context(), verb, "billing.service"); err != nil {
				t.Errorf("%s that ended with %s: %v", verb, result, err)
			}
		}
	}
	for _, result := range []string{"failed", "timeout", "dependency", "canceled", "skipped"} {
		p.set(func() { p.result = result })
		var job *JobError
		err := c.Job(t.Context(), Start, "billing.service")
		if !errors.As(err, &job) || job.Result != result || job.Kind() != "job-failed" {
			t.Errorf("a start that ended with %s: %v", result, err)
		}
		if want := "cannot start billing.service: " + result + " (billing.service is failed, result exit-code, status 3)"; err.Error() != want {
			t.Errorf("it reads %q, want %q", err, want)
		}
	}
	if err := c.Job(t.Context(), "dance", "billing.service"); err == nil {
		t.Error("an unknown verb was accepted")
	}
}

func TestRefusalsToQueueAreNamed(t *testing.T) {
	p := newPID1(t)
	c := p.control()
	var job *JobError
	p.set(func() { p.refuse["StartUnit"], p.refuse["StopUnit"] = errNoSuchUnit, errNoSuchUnit })
	if err := c.Job(t.Context(), Start, "x.service"); !errors.As(err, &job) || job.Result != "not-found" {
		t.Errorf("starting an absent unit: %v", err)
	}
	if err := c.Job(t.Context(), Stop, "x.service"); err != nil {
		t.Errorf("stopping an absent unit: %v", err)
	}
	p.set(func() { p.refuse["StartUnit"] = "org.freedesktop.systemd1.UnitMasked" })
	if err := c.StartNoBlock(t.Context(), "x.service"); !errors.As(err, &job) || job.Result != "refused" || job.Detail != "Refused for the test" {
		t.Errorf("starting a masked unit: %v", err)
	}
	p.set(func() { p.refuse["ResetFailedUnit"], p.refuse["KillUnit"] = errNoSuchUnit, errNoSuchUnit })
	if err := errors.Join(c.ResetFailed(t.Context(), "x.service"), c.Kill(t.Context(), "x.service", syscall.SIGKILL)); err != nil {
		t.Errorf("an absent unit: %v", err)
	}
	p.set(func() { p.refuse["Reload"] = "org.freedesktop.DBus.Error.AccessDenied" })
	if err := c.Reload(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "cannot reload unit files: ") {
		t.Errorf("a refused reload: %v", err)
	}
}

func TestAJobOutlivesItsConnection(t *testing.T) {
	p := newPID1(t)
	c := p.control()
	p.set(func() { p.keepJob = true })
	done := make(chan error, 1)
	go func() { done <- c.Job(t.Context(), Restart, "billing.service") }()
	within(t, "the job is queued", func() bool { return p.called("RestartUnit") == 1 })
	p.hangUp()
	within(t, "the job is looked for again", func() bool { return p.called("Get ") >= 1 })
	p.mu.Lock()
	var job dbus.ObjectPath
	for path := range p.jobs {
		job = path
	}
	p.mu.Unlock()
	p.endJob(job, "billing.service")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := p.called("RestartUnit"); n != 1 {
		t.Errorf("the unit was restarted %d times", n)
	}
}

func TestAJobWhoseEndWasMissedIsJudgedByItsUnit(t *testing.T) {
	for _, k := range []struct {
		verb   Verb
		active string
		fine   bool
	}{
		{Start, "active", true}, {Start, "failed", false}, {Start, "inactive", false}, {Restart, "reloading", true},
		{Stop, "inactive", true}, {Stop, "active", false}, {TryRestart, "inactive", true}, {TryRestart, "failed", false},
	} {
		t.Run(string(k.verb)+" "+k.active, func(t *testing.T) {
			p := newPID1(t)
			c := p.control()
			p.set(func() {
				p.keepJob = true
				p.units["billing.service"] = map[string]any{"ActiveState": k.active}
			})
			done := make(chan error, 1)
			go func() { done <- c.Job(t.Context(), k.verb, "billing.service") }()
			within(t, "the job is queued", func() bool { return p.called(verbMethods[k.verb]) == 1 })
			p.set(func() { clear(p.jobs) })
			p.hangUp()
			if err := <-done; (err == nil) != k.fine {
				t.Errorf("judged as %v", err)
			}
		})
	}
}

func TestWhoeverWaitsStopsWaitingWhenTheContextEnds(t *testing.T) {
	p := newPID1(t)
	c := p.control()
	p.set(func() { p.keepJob = true; p.mute["GetAll"], p.mute["Reload"] = true, true })
	calls := map[string]func(context.Context) error{
		"job":    func(ctx context.Context) error { return c.Job(ctx, Start, "x.service") },
		"reload": func(ctx context.Context) error { return c.Reload(ctx) },
		"unit":   func(ctx context.Context) error { _, err := c.Unit(ctx, "x.service"); return err },
	}
	for name, call := range calls {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		begin := time.Now()
		if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > time.Second {
			t.Errorf("%s: %v after %s", name, err, time.Since(begin))
		}
		cancel()
	}
}

func TestSilenceOfPID1IsToldFromACommandThatTakesLong(t *testing.T) {
	p := newPID1(t)
	c := p.control()
	var silent *UnreachableError
	run := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := c.Run(ctx, Task{Name: "t", Command: []string{"/bin/x"}})
		return err
	}
	p.set(func() { p.mute["StartTransientUnit"] = true })
	if err := run(); !errors.As(err, &silent) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a silent PID 1: %v", err)
	}
	p.set(func() { p.mute["StartTransientUnit"], p.keepStart = false, true })
	if err := run(); errors.As(err, &silent) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a slow command: %v", err)
	}
}

func TestASocketThatAcceptsButNeverAnswersHoldsNobody(t *testing.T) {
	p := newPID1(t)
	p.set(func() { p.noAuth = true })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err := connect(ctx, func(ctx context.Context) (*dbus.Conn, bool, error) { return dialPath(ctx, p.path) })
	var unreachable *UnreachableError
	if !errors.As(err, &unreachable) || unreachable.Kind() != "systemd-unreachable" || time.Since(begin) > time.Second {
		t.Fatalf("%v after %s", err, time.Since(begin))
	}
}

func TestAFirstMessageThatStaysUnseenIsFollowedByAnother(t *testing.T) {
	p := newPID1(t)
	p.set(func() { p.deaf = 1 })
	if _, err := p.control().Version(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestAnotherConnectionIsMadeAfterALostOne(t *testing.T) {
	p := newPID1(t)
	c := p.control()
	for range 3 {
		p.hangUp()
		version, err := c.Version(t.Context())
		if err != nil || version != "systemd 252 (fake)" {
			t.Fatalf("%q, %v", version, err)
		}
	}
	p.ln.Close()
	p.hangUp()
	c.patience = 100 * time.Millisecond
	var unreachable *UnreachableError
	if _, err := c.Unit(t.Context(), "x.service"); !errors.As(err, &unreachable) {
		t.Fatalf("without anybody there: %v", err)
	}
	c.Close()
	if _, err := c.Unit(t.Context(), "x.service"); !errors.As(err, &unreachable) {
		t.Fatalf("after Close: %v", err)
	}
}

func TestUnitReadsAllItNeedsInOneCall(t *testing.T) {
	p := newPID1(t)
	c := p.control()
	p.set(func() {
		p.units["billing-api@1.service"] = map[string]any{
			"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "Result": "success", "MainPID": uint32(42), "NRestarts": uint32(2),
			"ExecMainStatus": int32(1), "InvocationID": []byte{0xab, 0xcd}, "ActiveEnterTimestampMonotonic": uint64(1500), "FragmentPath": "/x",
			"NeedDaemonReload": true, "StatusText": "fine",
		}
	})
	before := p.called("")
	got, err := c.Unit(t.Context(), "billing-api@1.service")
	want := UnitStatus{
		Name: "billing-api@1.service", Load: "loaded", Active: "active", Sub: "running", Result: "success", MainPID: 42, NRestarts: 2, ExecStatus: 1,
		InvocationID: "abcd", ActiveEnter: 1500 * time.Microsecond, FragmentPath: "/x", NeedReload: true, StatusText: "fine",
	}
	if err != nil || got != want || p.called("") != before+1 {
		t.Fatalf("%d calls, %v:\ngot  %+v\nwant %+v", p.called("")-before, err, got, want)
	}
}

func TestOddlyTypedPropertiesReadAsZero(t *testing.T) {
	p := newPID1(t)
	c := p.control()
	p.set(func() {
		p.units["x.service"] = map[string]any{"LoadState": uint32(1), "MainPID": "many", "InvocationID": "text", "NeedDaemonReload": int32(1)}
	})
	if got, err := c.Unit(t.Context(), "x.service"); err != nil || got != (UnitStatus{Name: "x.service"}) {
		t.Fatalf("%+v, %v", got, err)
	}
}

func TestWatchSendsFirstChangedAndReconnectedStates(t *testing.T) {
	p := newPID1(t)
	c := p.control()
	state := func(active string) {
		p.set(func() { p.units["x.service"] = map[string]any{"ActiveState": active} })
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	state("inactive")
	states := c.Watch(ctx, "x.service")
	next := func(want string) {
		t.Helper()
		for {
			select {
			case s := <-states:
				if s.Active == want {
					return
				}
			case <-time.After(5 * time.Second):
				t.Fatalf("never saw %s", want)
			}
		}
	}
	next("inactive")
	state("active")
	p.unitChanged("x.service")
	next("active")
	state("failed")
	p.hangUp()
	next("failed")
	cancel()
	within(t, "the channel closes", func() bool { _, open := <-states; return !open })
}
