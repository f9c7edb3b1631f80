package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// socketDir is short: a socket's path holds 107 bytes.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "slapi")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func serve(t *testing.T, path string, h http.HandlerFunc) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
}

func TestDialErrorsSayWhatToStart(t *testing.T) {
	dir := socketDir(t)
	absent := NewClient(filepath.Join(dir, "absent.sock"), "", "1")
	_, err := absent.Status(t.Context())
	expect(t, err, KindUnreachable, "there is no socket at", "systemctl status slipwayd")

	dead := filepath.Join(dir, "dead.sock")
	l, err := net.Listen("unix", dead)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	_, err = NewClient(dead, "", "1").Status(t.Context())
	expect(t, err, KindUnreachable, "nobody listens on", "systemctl status slipwayd")

	broken := filepath.Join(dir, "broken.sock")
	serve(t, broken, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	_, err = NewClient(broken, "", "1").Revert(t.Context(), "web", RevertRequest{})
	expect(t, err, KindUnreachable, "broke", "may or may not have been taken")
}

func TestPermissionDeniedIsARefusalWithAWayOut(t *testing.T) {
	c := NewClient("/run/s.sock", "", "1")
	expect(t, c.dialError(fmt.Errorf("dial: %w", fs.ErrPermission)), KindForbidden, "permission denied", "run as root")
}

func expect(t *testing.T, err error, kind, message, hint string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("err = %v, want an *Error", err)
	}
	if e.Kind() != kind || !strings.Contains(e.Message, message) || !strings.Contains(e.Hint, hint) {
		t.Errorf("got %+v, want kind %s, message with %q, hint with %q", e, kind, message, hint)
	}
}

func TestAnswersThatAreNotOursAreNamed(t *testing.T) {
	path := filepath.Join(socketDir(t), "s.sock")
	answer := ""
	status := http.StatusOK
	serve(t, path, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, answer)
	})
	c := NewClient(path, "", "1")
	answer = "<html>"
	_, err := c.Status(t.Context())
	expect(t, err, KindInternal, "cannot read slipwayd's answer", "")
	status = http.StatusTeapot
	_, err = c.Status(t.Context())
	expect(t, err, KindInternal, "418", "is this the socket of slipwayd?")
	answer = `{"kind":"stale","message":"moved","hint":"look"}`
	_, err = c.Status(t.Context())
	expect(t, err, KindStale, "moved", "look")
	status, answer = http.StatusOK, strings.Repeat(" ", maxAnswer+1)
	_, err = c.Status(t.Context())
	expect(t, err, KindInternal, "longer than", "")
}

func TestANewerDaemonMaySayMoreAndIsNoticed(t *testing.T) {
	path := filepath.Join(socketDir(t), "s.sock")
	serve(t, path, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(VersionHeader, "2.0.0")
		fmt.Fprint(w, `{"host":"h","news":1,"apps":[{"app":"web","trial":{"healthy_for":"3m0s"}}]}`)
	})
	c := NewClient(path, "", "1.0.0")
	if c.Skew() != "" {
		t.Errorf("skew before any answer: %s", c.Skew())
	}
	s, err := c.Status(t.Context())
	if err != nil || s.Host != "h" || time.Duration(s.Apps[0].Trial.HealthyFor) != 3*time.Minute {
		t.Errorf("got %+v, %v", s, err)
	}
	if got := c.Skew(); got != "slipwayd is 2.0.0 but this command is 1.0.0" {
		t.Errorf("skew = %q", got)
	}
}

func TestACancelledRequestIsTheCallersEnding(t *testing.T) {
	path := filepath.Join(socketDir(t), "s.sock")
	ctx, cancel := context.WithCancel(t.Context())
	serve(t, path, func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	if _, err := NewClient(path, "", "1").Status(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
}

func TestABrokenEventStreamIsNoQuietEnd(t *testing.T) {
	path := filepath.Join(socketDir(t), "s.sock")
	serve(t, path, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, `{"message":"one"}`)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	n := 0
	err := NewClient(path, "", "1").Events(t.Context(), EventQuery{Follow: true}, func(Event) error { n++; return nil })
	expect(t, err, KindUnreachable, "the event stream broke", "run the command again")
	if n != 1 {
		t.Errorf("%d events, want 1", n)
	}
}

type withKind struct{}

func (withKind) Error() string { return "no space" }
func (withKind) Kind() string  { return "no-space" }
func (withKind) Hint() string  { return "free some" }

func TestEveryErrorHasAFormOnTheWire(t *testing.T) {
	for _, one := range []struct {
		err    error
		kind   string
		hint   string
		status int
	}{
		{errors.New("x"), KindInternal, "", 500},
		{fmt.Errorf("a: %w", withKind{}), "no-space", "free some", 422},
		{fmt.Errorf("a: %w", NewError(KindStale, "b", "c")), KindStale, "c", 409},
	} {
		w := Wire(one.err)
		if w.Kind() != one.kind || w.Hint != one.hint || w.Message != one.err.Error() || HTTPStatus(w.Kind()) != one.status {
			t.Errorf("Wire(%v) = %+v", one.err, w)
		}
	}
	data, err := json.Marshal(NewError(KindHeld, "m", ""))
	if err != nil || string(data) != `{"kind":"held","message":"m"}` {
		t.Errorf("%s, %v", data, err)
	}
}

func TestEmptyTimesAreLeftOut(t *testing.T) {
	data, err := json.Marshal(AppStatus{App: "web", Hold: &Hold{}, Trial: &Trial{}})
	if err != nil || strings.Contains(string(data), "until") || !strings.Contains(string(data), `"min_healthy":"0s"`) {
		t.Errorf("%s, %v", data, err)
	}
}
