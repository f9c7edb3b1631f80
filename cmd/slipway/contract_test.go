package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/agent/server"
)

// serving is a command line against a host that answers as told.
func serving(t *testing.T, host *scriptHost) func(args ...string) (code int, out, err string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "slw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s.sock")
	if host != nil {
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		roles := server.Roles{Admin: server.Members{Users: []string{strconv.Itoa(os.Getuid())}}}
		srv := server.New(server.Config{Host: host, Version: "dev", Now: func() time.Time { return now }, Roles: func() server.Roles { return roles }})
		go srv.Serve(t.Context(), l, server.Control)
	}
	return func(args ...string) (int, string, string) {
		var out, err bytes.Buffer
		c := &cli{in: strings.NewReader(""), out: &out, err: &err, now: func() time.Time { return now }}
		code := c.main(t.Context(), append([]string{"--socket", socket, "--config", filepath.Join(dir, "etc")}, args...))
		return code, out.String(), err.String()
	}
}

func oneApp42() *scriptHost {
	h := &scriptHost{status: api.Status{Host: "h", Environment: "e", Apps: []api.AppStatus{{App: "web", Enabled: true, Phase: "idle", Version: "1", Revision: 42, Why: "runs"}}}}
	h.extra.Doctor = api.DoctorReport{Checks: []api.DoctorCheck{{Name: "x", Status: api.DoctorOK, Message: "well"}}}
	h.extra.Verify = api.VerifyReport{App: "web", Release: "1-0123456789ab", OK: true, Files: 2}
	return h
}

func TestEveryKindOfErrorHasItsExitCode(t *testing.T) {
	for kind, want := range map[string]int{
		api.KindBadRequest: exitUsage, api.KindForbidden: exitRefused, api.KindNotFound: exitFailed, api.KindStale: exitRefused,
		api.KindBusy: exitRefused, api.KindRefused: exitRefused, api.KindHeld: exitRefused, api.KindQuarantined: exitRefused,
		api.KindExpired: exitRefused, api.KindTooLarge: exitFailed, api.KindUnavailable: exitFailed, api.KindInternal: exitFailed,
		"unit-refused": exitRefused, "no-space": exitFailed, "threshold": exitRefused, "a-kind-of-tomorrow": exitFailed,
	} {
		host := oneApp42()
		host.extra.Error = api.NewError(kind, "it is so", "do this")
		code, out, err := serving(t, host)("retry", "web")
		if code != want || out != "" || err != "slipway: error: it is so\nslipway: hint: do this\n" {
			t.Errorf("%s: exit code %d, want %d\nstdout %q\nstderr %q", kind, code, want, out, err)
		}
	}
}

func TestWithoutADaemonEveryCommandThatNeedsOneEndsWithFour(t *testing.T) {
	run := serving(t, nil)
	for _, args := range [][]string{
		{"status"}, {"status", "web"}, {"why", "web"}, {"refresh"}, {"apply", "web"}, {"apply", "web", "-n"}, {"revert", "web", "-r", "x"}, {"hold", "web"},
		{"hold", "--all"}, {"resume", "web"}, {"resume", "--all"}, {"retry", "web"}, {"history", "web"}, {"verify", "web"}, {"events"}, {"remove", "web", "-y"},
	} {
		code, out, err := run(args...)
		if code != exitUnreachable || out != "" || !strings.Contains(err, "cannot reach slipwayd") || !strings.Contains(err, "hint: ") {
			t.Errorf("%q: exit code %d\nstdout %q\nstderr %q", args, code, out, err)
		}
	}
}

func TestACommandLineThatCannotBeMeantEndsWithTwoBeforeAnybodyIsAsked(t *testing.T) {
	host := oneApp42()
	run := serving(t, host)
	for _, args := range [][]string{
		{"apply"}, {"apply", "a", "b"}, {"apply", "Web"}, {"why"}, {"why", "../etc"}, {"revert", "web"}, {"hold"}, {"hold", "web", "--for", "soon"},
		{"hold", "web", "--for", "-1h"}, {"hold", "web", "--for", "1h", "--until", "10:00"}, {"history", "web", "-n", "x"}, {"history", "web", "-n", "1001"},
		{"status", "web", "web"}, {"status", "--watch", "--json"}, {"refresh", "web"}, {"remove", "web"}, {"doctor", "x"}, {"init"}, {"add"}, {"add", "a/b"}, {"nothing"}, {"--nothing"},
	} {
		code, out, err := run(args...)
		if code != exitUsage || out != "" || !strings.HasPrefix(err, "slipway: error: ") {
			t.Errorf("%q: exit code %d\nstdout %q\nstderr %q", args, code, out, err)
		}
	}
	if got := host.lastCall(); got != "" {
		t.Errorf("the host was asked for %q", got)
	}
}

// TestWithJSONStandardOutputIsJSONAndNothingElse is what scripts rely on; names are pinned where the wire's own test does not see
// them.
func TestWithJSONStandardOutputIsJSONAndNothingElse(t *testing.T) {
	for _, one := range []struct {
		args  []string
		names string
	}{
		{[]string{"status"}, "host environment apps"}, {[]string{"status", "web"}, "app phase revision why"}, {[]string{"why", "web"}, "app phase why"},
		{[]string{"refresh"}, "changed message"}, {[]string{"apply", "web", "--dry-run"}, "message"}, {[]string{"apply", "web", "--no-wait"}, "revision message"},
		{[]string{"hold", "web"}, "revision message"}, {[]string{"hold", "--all"}, "revision message"}, {[]string{"resume", "web"}, "revision message"},
		{[]string{"retry", "web"}, "revision message"}, {[]string{"revert", "web", "-r", "x", "--no-wait"}, "revision message"},
		{[]string{"verify", "web"}, "app release ok files"}, {[]string{"add", "other"}, "app file"}, {[]string{"remove", "web", "--yes"}, "app removed"},
	} {
		code, out, err := serving(t, oneApp42())(append(one.args, "--json")...)
		var got map[string]any
		d := json.NewDecoder(strings.NewReader(out))
		if jerr := d.Decode(&got); jerr != nil || code != exitDone {
			t.Errorf("%q: exit code %d, %v\nstdout %q\nstderr %q", one.args, code, jerr, out, err)
			continue
		}
		if _, jerr := d.Token(); jerr != io.EOF {
			t.Errorf("%q: something follows the answer: %q", one.args, out)
		}
		for name := range strings.FieldsSeq(one.names) {
			if _, ok := got[name]; !ok {
				t.Errorf("%q: the answer has no %q: %s", one.args, name, out)
			}
		}
	}
}

func TestAListWithoutEntriesIsAListInJSON(t *testing.T) {
	if code, out, err := serving(t, oneApp42())("history", "web", "--json"); code != exitDone || out != "[]\n" {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, out, err)
	}
	host := oneApp42()
	host.status.Apps = []api.AppStatus{}
	if _, out, _ := serving(t, host)("status", "--json"); !strings.Contains(out, `"apps": []`) {
		t.Errorf("stdout %q", out)
	}
}

func TestColumnsLineUpWhateverIsInThem(t *testing.T) {
	var out bytes.Buffer
	c := &cli{out: &out}
	c.table(&out, [][]cell{
		{{"A", dim}, {"B", dim}, {"C", dim}},
		{{"größe", bold}, {"", ""}, {"two\nlines", ""}},
		{{"x\x1b[31m", red}, {"yy", ""}, {"", ""}},
		{{"only", ""}},
	})
	want := "A       B   C\ngröße       two lines\nx?[31m  yy\nonly\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
	out.Reset()
	c.table(&out, nil)
	if out.Len() != 0 {
		t.Errorf("a table of nothing is %q", out.String())
	}
}

func TestAHoldEndsWhenItSays(t *testing.T) {
	at := func(text string) time.Time {
		v, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, one := range []struct {
		until string
		span  time.Duration
		want  time.Time
	}{
		{"", 0, time.Time{}}, {"", 90 * time.Minute, at("2026-03-01T16:00:00Z")}, {"14:31", 0, at("2026-03-01T14:31:00Z")}, {"14:30", 0, at("2026-03-02T14:30:00Z")},
		{"2026-03-05 08:00", 0, at("2026-03-05T08:00:00Z")}, {"2026-03-01T15:00:00+01:00", 0, time.Time{}}, {"2026-03-01T16:00:00+01:00", 0, at("2026-03-01T15:00:00Z")},
	} {
		got, err := holdEnd(now, one.until, one.span)
		if past := one.until == "2026-03-01T15:00:00+01:00"; past != (err != nil) || !past && !got.Equal(one.want) {
			t.Errorf("--until %q --for %s: %s, %v; want %s", one.until, one.span, got, err, one.want)
		}
	}
}
