package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/systemd"
)

// TestMain lets the test binary be a socket-activated service, and a daemon that dies.
func TestMain(m *testing.M) {
	switch os.Getenv("SLIPWAY_TEST_ROLE") {
	case "server":
		serveOnce()
	case "ready":
		n := systemd.NewNotifier()
		stop := make(chan os.Signal, 1)
		signalNotify(stop)
		_ = errors.Join(n.Status("well"), n.Ready())
		<-stop
	case "reload":
		hup := make(chan os.Signal, 1)
		signal.Notify(hup, syscall.SIGHUP)
		fmt.Println("up")
		for range hup {
			fmt.Println("reloaded")
		}
	case "daemon":
		dieWithChild()
	default:
		os.Exit(m.Run())
	}
}

// serveOnce is a socket-activated HTTP service that answers every connection it accepted. http.Server.Shutdown would not do:
// it hangs up on a request that arrives on an accepted connection once it has begun.
func serveOnce() {
	listeners, err := systemd.Listeners()
	ln := listeners["http"]
	if err != nil || ln == nil {
		fmt.Println("no listener:", err)
		os.Exit(3)
	}
	var open sync.WaitGroup
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, os.Getpid()) }),
		ConnState: func(_ net.Conn, s http.ConnState) {
			switch s {
			case http.StateNew:
				open.Add(1)
			case http.StateClosed:
				open.Done()
			}
		},
	}
	stop := make(chan os.Signal, 1)
	signalNotify(stop)
	go func() {
		<-stop
		ln.Close()
	}()
	_ = srv.Serve(ln)
	open.Wait()
}

type host struct {
	*Control
	t     *testing.T
	units string
	state string
}

func newHost(t *testing.T, guard ...string) *host {
	t.Helper()
	dir := t.TempDir()
	h := &host{t: t, units: filepath.Join(dir, "units"), state: filepath.Join(dir, "state")}
	c, err := New(Config{Units: h.units, State: h.state, Guard: guard})
	if err != nil {
		t.Fatal(err)
	}
	h.Control = c
	t.Cleanup(func() { c.Close() })
	return h
}

// unit writes a unit file, or a drop-in when name holds a slash.
func (h *host) unit(name, text string) {
	h.t.Helper()
	path := filepath.Join(h.units, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) must(verb systemd.Verb, unit string) {
	h.t.Helper()
	if err := h.Job(h.t.Context(), verb, unit); err != nil {
		h.t.Fatalf("%v\n%s", err, h.log(unit))
	}
}

func (h *host) status(unit string) systemd.UnitStatus {
	h.t.Helper()
	s, err := h.Unit(h.t.Context(), unit)
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

func (h *host) log(unit string) string {
	text, _ := os.ReadFile(h.logPath(unit))
	return string(text)
}

func (h *host) until(what string, ok func() bool) {
	h.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			h.t.Fatalf("never: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func sh(script string) string { return "/bin/sh -c '" + script + "'" }

func TestAServiceStartsRestartsAndStops(t *testing.T) {
	h := newHost(t)
	h.unit("a.service", "[Service]\nExecStart=/bin/sleep 1000\n")
	if s := h.status("a.service"); s.Load != "loaded" || s.Active != "inactive" || s.MainPID != 0 {
		t.Errorf("before its start: %+v", s)
	}
	h.must(systemd.Start, "a.service")
	first := h.status("a.service")
	if first.Active != "active" || first.Sub != "running" || first.MainPID == 0 || first.InvocationID == "" || first.ActiveEnter == 0 {
		t.Errorf("running: %+v", first)
	}
	h.must(systemd.Start, "a.service")
	if s := h.status("a.service"); s != first {
		t.Errorf("a second start changed it: %+v", s)
	}
	h.must(systemd.Restart, "a.service")
	if s := h.status("a.service"); s.MainPID == first.MainPID || s.InvocationID == first.InvocationID || s.NRestarts != 0 {
		t.Errorf("restarted: %+v", s)
	}
	h.must(systemd.Stop, "a.service")
	if s := h.status("a.service"); s.Active != "inactive" || s.Result != "success" || s.MainPID != 0 {
		t.Errorf("stopped: %+v", s)
	}
	h.must(systemd.TryRestart, "a.service")
	if s := h.status("a.service"); s.Active != "inactive" {
		t.Errorf("try-restart started it: %+v", s)
	}
}

func TestAbsentAndUnsupportedUnitsAreNamed(t *testing.T) {
	h := newHost(t)
	var job *systemd.JobError
	if err := h.Job(t.Context(), systemd.Start, "no.service"); !errors.As(err, &job) || job.Result != "not-found" {
		t.Errorf("an absent unit: %v", err)
	}
	if err := errors.Join(h.Job(t.Context(), systemd.Stop, "no.service"), h.ResetFailed(t.Context(), "no.service"), h.Kill(t.Context(), "no.service", syscall.SIGKILL)); err != nil {
		t.Error(err)
	}
	if s := h.status("no.service"); s.Load != "not-found" {
		t.Errorf("an absent unit is %+v", s)
	}
	for name, text := range map[string]string{
		"forking.service": "[Service]\nType=forking\nExecStart=/bin/true\n", "empty.service": "[Service]\n", "two.service": "[Service]\nExecStart=/bin/a\nExecStart=/bin/b\n",
		"rel.service": "[Service]\nExecStart=true\n", "quote.service": "[Service]\nExecStart=/bin/sh 'x\n", "span.service": "[Service]\nExecStart=/bin/a\nRestartSec=soon\n",
		"accept.socket": "[Socket]\nListenStream=1\nAccept=yes\n", "dgram.socket": "[Socket]\nListenDatagram=1\n", "none.socket": "[Socket]\n", "x.timer": "[Timer]\nOnBootSec=1\n",
		"signal.service": "[Service]\nExecStart=/bin/a\nKillSignal=SIGNOPE\n",
	} {
		h.unit(name, text)
		if err := h.Job(t.Context(), systemd.Start, name); !errors.As(err, &job) || job.Result != "refused" || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		if s := h.status(name); s.Load != "bad-setting" {
			t.Errorf("%s is %+v", name, s)
		}
	}
}

func TestAProcessGetsItsSurroundings(t *testing.T) {
	h := newHost(t)
	dir := t.TempDir()
	for name, text := range map[string]string{"env": "# x\nB=\"from file\"\nC=3\n", "secret": "s3cret"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.unit("a@.service", fmt.Sprintf(`[Service]
Type=oneshot
Environment=A=1 "D=two words"
Environment=E=%%i
EnvironmentFile=%[1]s/env
EnvironmentFile=-%[1]s/absent
WorkingDirectory=%[1]s
StateDirectory=a
LoadCredential=token:%[1]s/secret
SetCredential=plain:text
ExecStart=/bin/sh -c 'echo "$0" "$@"; pwd; cat $CREDENTIALS_DIRECTORY/token $CREDENTIALS_DIRECTORY/plain; stat -c %%%%a $CREDENTIALS_DIRECTORY; test -d $STATE_DIRECTORY && echo state' ${A} ${B} $D ${E} $$x
`, dir))
	h.unit("a@x.service.d/10-more.conf", "[Service]\nEnvironment=A=dropped-in\n")
	h.must(systemd.Start, "a@x.service")
	want := "dropped-in from file two words x $x\n" + dir + "\ns3crettext700\nstate\n"
	if got := h.log("a@x.service"); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if left, _ := os.ReadDir(filepath.Join(h.state, "credentials")); len(left) != 0 {
		t.Errorf("credentials outlived their service: %v", left)
	}
}

func TestReadinessIsAwaited(t *testing.T) {
	h := newHost(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h.unit("good.service", "[Service]\nType=notify\nTimeoutStartSec=20s\nEnvironment=SLIPWAY_TEST_ROLE=ready\nExecStart="+self+"\n")
	h.unit("slow.service", "[Service]\nType=notify\nTimeoutStartSec=200ms\nExecStart=/bin/sleep 1000\n")
	h.unit("dies.service", "[Service]\nType=notify\nExecStart="+sh("exit 5")+"\n")
	h.must(systemd.Start, "good.service")
	if s := h.status("good.service"); s.Active != "active" || s.MainPID == 0 || s.StatusText != "well" {
		t.Errorf("ready: %+v", s)
	}
	for name, want := range map[string]string{"slow.service": "timeout", "dies.service": "exit-code"} {
		if err := h.Job(t.Context(), systemd.Start, name); err == nil {
			t.Errorf("%s counts as started", name)
		}
		if s := h.status(name); s.Active != "failed" || s.Result != want || s.MainPID != 0 {
			t.Errorf("%s: %+v", name, s)
		}
	}
	if s := h.status("dies.service"); s.ExecStatus != 5 {
		t.Errorf("exit status %d, want 5", s.ExecStatus)
	}
}

func TestRestartsAreCountedAndLimited(t *testing.T) {
	h := newHost(t)
	h.unit("loop.service", "[Unit]\nStartLimitBurst=3\nStartLimitIntervalSec=1h\n[Service]\nRestart=always\nRestartSec=10ms\nExecStart="+sh("exit 4")+"\n")
	h.must(systemd.Start, "loop.service")
	h.until("it is given up", func() bool { return h.status("loop.service").Active == "failed" })
	if s := h.status("loop.service"); s.NRestarts != 3 || s.Result != "start-limit-hit" {
		t.Errorf("given up as %+v", s)
	}
	if err := h.Job(t.Context(), systemd.Start, "loop.service"); err == nil {
		t.Error("a start beyond the limit was accepted")
	}
	if err := h.ResetFailed(t.Context(), "loop.service"); err != nil {
		t.Fatal(err)
	}
	h.must(systemd.Start, "loop.service")
	h.must(systemd.Stop, "loop.service")
	for range 3 {
		<-time.After(20 * time.Millisecond)
		if s := h.status("loop.service"); s.Active == "active" || s.Active == "activating" {
			t.Fatalf("it runs again after a stop: %+v", s)
		}
	}
	h.unit("killed.service", "[Service]\nRestart=on-failure\nRestartSec=10ms\nExecStart=/bin/sleep 1000\n")
	h.must(systemd.Start, "killed.service")
	first := h.status("killed.service").MainPID
	if err := h.Kill(t.Context(), "killed.service", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.until("it is back", func() bool {
		s := h.status("killed.service")
		return s.NRestarts == 1 && s.MainPID != 0 && s.MainPID != first
	})
}

func TestStopGivesUpAStartThatHangs(t *testing.T) {
	h := newHost(t)
	h.unit("hang.service", "[Service]\nType=notify\nTimeoutStartSec=infinity\nExecStart=/bin/sleep 1000\n")
	started := make(chan error, 1)
	go func() { started <- h.Job(t.Context(), systemd.Start, "hang.service") }()
	h.until("it runs", func() bool { return h.status("hang.service").MainPID != 0 })
	h.must(systemd.Stop, "hang.service")
	if err := <-started; err == nil {
		t.Error("the start succeeded")
	}
	if s := h.status("hang.service"); s.MainPID != 0 {
		t.Errorf("it still runs: %+v", s)
	}
}

func TestAProcessThatIgnoresItsSignalIsKilledInTime(t *testing.T) {
	h := newHost(t)
	h.unit("deaf.service", "[Service]\nTimeoutStopSec=200ms\nExecStart="+sh(`trap "" TERM; echo up; while :; do sleep 1000; done`)+"\n")
	h.must(systemd.Start, "deaf.service")
	h.until("it is up", func() bool { return h.log("deaf.service") != "" })
	begin := time.Now()
	_ = h.Job(t.Context(), systemd.Stop, "deaf.service")
	if s := h.status("deaf.service"); s.MainPID != 0 || time.Since(begin) > 5*time.Second {
		t.Errorf("after %s it is %+v", time.Since(begin), s)
	}
}

func TestReloadRunsItsCommandAndKeepsTheProcess(t *testing.T) {
	h := newHost(t)
	self, err := os.Executable() // no shell: dash can lose a signal between two commands
	if err != nil {
		t.Fatal(err)
	}
	h.unit("a.service", "[Service]\nEnvironment=SLIPWAY_TEST_ROLE=reload\nExecStart="+self+"\nExecReload=/bin/kill -HUP $MAINPID\n")
	h.must(systemd.Start, "a.service")
	h.until("it is up", func() bool { return strings.Contains(h.log("a.service"), "up") })
	pid := h.status("a.service").MainPID
	h.must(systemd.ReloadUnit, "a.service")
	h.until("it has reloaded", func() bool { return strings.Contains(h.log("a.service"), "reloaded") })
	h.must(systemd.ReloadOrRestart, "a.service")
	if s := h.status("a.service"); s.MainPID != pid || s.Active != "active" {
		t.Errorf("after reloads: %+v", s)
	}
}

func TestEditedFilesCountAfterReload(t *testing.T) {
	h := newHost(t)
	h.unit("a.service", "[Service]\nType=oneshot\nExecStart=/bin/echo one\n")
	h.must(systemd.Start, "a.service")
	h.unit("a.service", "[Service]\nType=oneshot\nExecStart=/bin/echo two\n")
	if !h.status("a.service").NeedReload {
		t.Error("an edit is not noticed")
	}
	h.must(systemd.Start, "a.service")
	if err := h.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.must(systemd.Start, "a.service")
	if got := h.log("a.service"); got != "one\none\ntwo\n" {
		t.Errorf("it ran %q", got)
	}
	if err := os.Remove(filepath.Join(h.units, "a.service")); err != nil {
		t.Fatal(err)
	}
	if err := h.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := h.status("a.service"); s.Load != "not-found" {
		t.Errorf("a removed unit is %+v", s)
	}
}

func TestRequestsWaitWhileASocketsServiceRestarts(t *testing.T) {
	h := newHost(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	h.unit("web.socket", "[Socket]\nListenStream="+path+"\nFileDescriptorName=http\nSocketMode=0600\n")
	h.unit("web.service", "[Unit]\nStartLimitBurst=0\n[Service]\nEnvironment=SLIPWAY_TEST_ROLE=server GORACE=atexit_sleep_ms=0\nExecStart="+self+"\n")
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	get := func() (string, error) {
		resp, err := client.Get("http://web/")
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return string(body), err
	}
	h.must(systemd.Start, "web.socket")
	if s := h.status("web.socket"); s.Active != "active" || s.Sub != "listening" || h.status("web.service").Active != "inactive" {
		t.Errorf("the socket is %+v", s)
	}
	if pid, err := get(); err != nil || pid != strconv.Itoa(h.status("web.service").MainPID) {
		t.Fatalf("activation: %q, %v\n%s", pid, err, h.log("web.service"))
	}
	stop, failures, served := make(chan struct{}), make(chan error, 100), 0
	var load sync.WaitGroup
	load.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := get(); err != nil {
				failures <- err
			}
			served++
		}
	})
	for range 3 {
		h.must(systemd.Restart, "web.service")
	}
	close(stop)
	load.Wait()
	if len(failures) > 0 {
		t.Errorf("%d of %d requests failed, such as: %v", len(failures), served, <-failures)
	}
	h.must(systemd.Stop, "web.service")
	if _, err := get(); err != nil {
		t.Errorf("a stopped service was not activated again: %v", err)
	}
	h.must(systemd.Stop, "web.socket")
	if _, err := get(); err == nil {
		t.Error("a stopped socket still answers")
	}
}

func TestWatchSeesChanges(t *testing.T) {
	h := newHost(t)
	h.unit("a.service", "[Service]\nExecStart=/bin/sleep 1000\n")
	ctx, cancel := context.WithCancel(t.Context())
	states := h.Watch(ctx, "a.service")
	await := func(want string) {
		t.Helper()
		for s := range states {
			if s.Active == want {
				return
			}
		}
		t.Fatalf("never saw %s", want)
	}
	await("inactive")
	h.must(systemd.Start, "a.service")
	await("active")
	h.must(systemd.Stop, "a.service")
	await("inactive")
	cancel()
	h.until("the channel closes", func() bool { _, open := <-states; return !open })
	if found, err := h.UnitsMatching(t.Context(), "*.service", "a*"); err != nil || len(found) != 1 {
		t.Errorf("listed %+v, %v", found, err)
	}
}

func TestNothingOutlivesClose(t *testing.T) {
	h := newHost(t)
	h.unit("a.service", "[Service]\nRestart=always\nExecStart="+sh("sleep 1000 & sleep 1000")+"\n")
	h.must(systemd.Start, "a.service")
	pid := h.status("a.service").MainPID
	h.Close()
	h.until("the whole group is gone", func() bool { return errors.Is(syscall.Kill(-pid, 0), syscall.ESRCH) })
}

// dieWithChild is a daemon that is killed while its child runs.
func dieWithChild() {
	c, err := New(Config{Units: os.Getenv("UNITS"), State: os.Getenv("STATE")})
	if err == nil {
		err = c.Job(context.Background(), systemd.Start, "a.service")
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	s, _ := c.Unit(context.Background(), "a.service")
	fmt.Println(s.MainPID)
	select {}
}

func TestChildrenDieWithTheDaemon(t *testing.T) {
	h := newHost(t)
	h.unit("a.service", "[Service]\nExecStart=/bin/sleep 1000\n")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SLIPWAY_TEST_ROLE=daemon", "UNITS="+h.units, "STATE="+h.state)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil || pid == 0 {
		t.Fatalf("the child's pid: %d, %v", pid, err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	h.until("the child is dead", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
}
