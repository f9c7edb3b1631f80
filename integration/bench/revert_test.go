package bench

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const harborTOML = `restart = "restart"
[[units]]
path = "units/%[1]s.service"
[[checks]]
name = "web"
kind = "http"
url = "http://127.0.0.1:%[2]d/healthz"
interval = "200ms"
failure_threshold = 2
start_period = "1s"
`

const harborUnit = `[Unit]
Description=Harbor
[Service]
DynamicUser=yes
ExecStart=@current@/bin/harbor -listen 127.0.0.1:%d
[Install]
WantedBy=multi-user.target
`

// service is a small web service whose releases carry a payload beside it.
type service struct {
	app     string
	payload string // a tree that both releases hold too, or ""
	port    int
}

func (s *service) tree(b *testing.B, w *world, version, behaviour string) string {
	b.Helper()
	dir := w.path("trees", s.app+"-"+version)
	check(b, writeFile(filepath.Join(dir, "bin/version"), version+"\n"))
	check(b, writeFile(filepath.Join(dir, "bin/behaviour"), behaviour+"\n"))
	check(b, writeFile(filepath.Join(dir, "units", s.app+".service"), fmt.Sprintf(harborUnit, s.port)))
	timed(b, `cp "$1" "$2"; test -z "$3" || cp -a "$3" "$4"`, w.path("bin", "harbor"), filepath.Join(dir, "bin"), s.payload, filepath.Join(dir, "payload"))
	return dir
}

func (s *service) publish(b *testing.B, w *world, version, behaviour string) {
	b.Helper()
	check(b, w.release(s.app, version, fmt.Sprintf(harborTOML, s.app, s.port), s.tree(b, w, version, behaviour), "active"))
}

// answers says which version serves now.
func (s *service) answers() string {
	c := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get(fmt.Sprintf("http://127.0.0.1:%d/version", s.port))
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 100))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(body))
}

// BenchmarkRevert measures from the moment at which the daemon calls a release unhealthy to the moment at which the old one
// serves, and takes off what the service itself needs to stop and to start.
func BenchmarkRevert(b *testing.B) {
	w := shared(b)
	b.Run("small", func(b *testing.B) { measureRevert(b, w, "") })
	b.Run("one-gigabyte", func(b *testing.B) { measureRevert(b, w, inputs[2].prepare(b, w)) })
}

func measureRevert(b *testing.B, w *world, payload string) {
	for b.Loop() {
		w.rounds++
		s := &service{app: fmt.Sprintf("harbor-%d", w.rounds), payload: payload, port: freePort(b)}
		check(b, w.addApp(s.app))
		s.publish(b, w, "1.0.0", "ok")
		h := w.newHost(b, s.app, "1s")
		h.start(w)
		h.await("1.0.0 is committed", func(e event) bool { return e.Fields["result"] == "committed" })
		s.publish(b, w, "2.0.0", "unhealthy-after=300ms") // well before it could be committed
		verdict := h.await("2.0.0 is unhealthy", func(e event) bool { return e.Phase == "reverting" })
		until(b, "1.0.0 serves again", 30*time.Second, time.Millisecond, func() (bool, error) { return s.answers() == "1.0.0", nil })
		took := time.Since(verdict.Time)
		h.await("the revert ended", func(e event) bool { return e.Fields["result"] == "reverted" })
		report(b, h.memory("VmRSS"), "RSS-after-MB")
		h.stop()
		own := s.bare(b, w)
		report(b, float64(took.Microseconds())/1e3, "verdict-to-serving-ms")
		report(b, float64(own.Microseconds())/1e3, "bare-restart-ms")
		report(b, float64((took-own).Microseconds())/1e3, "added-ms")
		check(b, os.RemoveAll(h.dir))
	}
}

// bare is how long the service alone needs to stop and to serve again.
func (s *service) bare(b *testing.B, w *world) time.Duration {
	b.Helper()
	program := w.path("trees", s.app+"-1.0.0", "bin", "harbor")
	start := func() *exec.Cmd {
		c := exec.Command(program, "-listen", fmt.Sprintf("127.0.0.1:%d", s.port))
		check(b, c.Start())
		until(b, "the service serves", 10*time.Second, time.Millisecond, func() (bool, error) { return s.answers() == "1.0.0", nil })
		return c
	}
	c := start()
	began := time.Now()
	check(b, c.Process.Signal(syscall.SIGTERM))
	_ = c.Wait()
	c = start()
	took := time.Since(began)
	_ = c.Process.Kill()
	_ = c.Wait()
	return took
}

func freePort(b *testing.B) int {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(b, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
