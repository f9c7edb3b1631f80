package systemd

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestATaskIsOneTransientOneshotThatIsGoneAfterwards(t *testing.T) {
	p := newPID1(t)
	c := p.control()
	p.set(func() {
		p.output = "hello\n"
		p.units["slipway-hook.service"] = map[string]any{"Result": "exit-code", "ExecMainStatus": int32(7), "ExecMainCode": int32(1)}
		p.made["slipway-hook.service"] = map[string]any{} // left over by a daemon that died
	})
	got, err := c.Run(t.Context(), Task{
		Name: "slipway-hook", Command: []string{"/x/hook", "$HOME", "%i"}, User: "billing", Dir: "/x", Env: []string{"A=b"},
		Timeout: 3 * time.Second, Properties: map[string]any{"Nice": int32(5)},
	})
	if want := (TaskResult{Exit: 7, Result: "exit-code", Output: "hello\n"}); err != nil || got != want {
		t.Fatalf("got %+v, %v, want %+v", got, err, want)
	}
	if n := p.called("StartTransientUnit"); n != 2 {
		t.Errorf("%d starts, want 2: one refused, one after the leftover was removed", n)
	}
	if left := p.transients(); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestATasksPropertiesLeaveArgumentsAlone(t *testing.T) {
	p := newPID1(t)
	c := p.control()
	p.set(func() { p.keepJob = true })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := c.Run(ctx, Task{Name: "t", Command: []string{"/bin/x", "$HOME"}, User: "billing", Timeout: 3 * time.Second})
		done <- err
	}()
	within(t, "it is started", func() bool { return p.called("StartTransientUnit") == 1 })
	props := p.transients()["t.service"]
	want := map[string]any{
		"User": "billing", "Type": "oneshot", "NoNewPrivileges": true, "TimeoutStartUSec": uint64(3_000_000),
		"ExecStartEx": [][]any{{"/bin/x", []string{"/bin/x", "$HOME"}, []string{"no-env-expand"}}},
	}
	for name, value := range want {
		if !reflect.DeepEqual(props[name], value) {
			t.Errorf("%s is %v, want %v", name, props[name], value)
		}
	}
	p.set(func() { p.keepJob = false })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled task: %v", err)
	}
	if p.called("StopUnit t.service") != 1 {
		t.Error("a cancelled task was not stopped")
	}
}

func TestATaskThatCannotBeAskedForIsAnError(t *testing.T) {
	p := newPID1(t)
	c := p.control()
	for _, task := range []Task{{Command: []string{"/bin/true"}}, {Name: "t"}, {Name: "t", Command: []string{"true"}}} {
		if _, err := c.Run(t.Context(), task); err == nil {
			t.Errorf("%+v was accepted", task)
		}
	}
	p.set(func() { p.result = "dependency" })
	if r, err := c.Run(t.Context(), Task{Name: "t", Command: []string{"/bin/true"}}); err == nil {
		t.Errorf("a task that never started is %+v", r)
	}
}

func TestTheTailKeepsTheEndAndIsValidText(t *testing.T) {
	for name, k := range map[string]struct{ in, want string }{
		"nothing":   {"", ""},
		"short":     {"a\n", "a\n"},
		"full":      {strings.Repeat("x", outputTail), strings.Repeat("x", outputTail)},
		"long":      {strings.Repeat("x", 100_000) + "end", strings.Repeat("x", outputTail-3) + "end"},
		"not UTF-8": {"a\xffb", "a\uFFFDb"},
	} {
		tail, err := newTail()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tail.write.WriteString(k.in); err != nil {
			t.Fatal(err)
		}
		if got := tail.text(); got != k.want {
			t.Errorf("%s: got %d bytes, want %d", name, len(got), len(k.want))
		}
		tail.abandon()
	}
}
