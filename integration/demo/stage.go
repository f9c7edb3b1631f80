package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stage holds what the demo runs on: a directory, a web server, a daemon.
type stage struct {
	ctx    context.Context
	dir    string
	start  time.Time
	port   int
	url    string
	server *http.Server
	daemon *exec.Cmd
	log    *os.File

	mu       sync.Mutex
	tampered string
	served   int
}

func (s *stage) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

func (s *stage) title(text string) { fmt.Printf("\n\033[1m== %s\033[0m\n", text) }

func (s *stage) say(format string, args ...any) { fmt.Printf("\n"+format+"\n", args...) }

// repo runs slipway-repo on the demo's repository.
func (s *stage) repo(args ...string) error {
	if args[0] != "key" {
		fmt.Printf("   $ slipway-repo %s\n", strings.ReplaceAll(strings.Join(args, " "), s.dir+"/", ""))
	}
	c := exec.CommandContext(s.ctx, s.path("bin", "slipway-repo"), append([]string{"-C", s.path("repo")}, args...)...)
	c.Dir = s.dir
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("slipway-repo %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

func (s *stage) slipwayCommand(args ...string) *exec.Cmd {
	common := []string{"--config", s.path("etc"), "--socket", s.path("run", "slipway.sock")}
	return exec.CommandContext(s.ctx, s.path("bin", "slipway"), append(common, args...)...)
}

// slipway runs the host's command and shows what it prints.
func (s *stage) slipway(args ...string) error {
	fmt.Printf("   $ slipway %s\n", strings.ReplaceAll(strings.Join(args, " "), s.dir+"/", ""))
	out, err := s.slipwayCommand(args...).CombinedOutput()
	for _, line := range strings.Split(strings.TrimRight(string(out), "\n"), "\n") {
		fmt.Printf("     %s\n", strings.ReplaceAll(line, s.dir+"/", ""))
	}
	if err != nil {
		return fmt.Errorf("slipway %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// serve serves the repository on the loopback, and changes what it serves below the tampered path.
func (s *stage) serve() error {
	var err error
	if s.port, err = freePort(); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.url = "http://" + l.Addr().String()
	files := http.FileServer(http.Dir(s.path("repo")))
	s.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.serveTampered(w, r) {
			return
		}
		files.ServeHTTP(w, r)
	})}
	go s.server.Serve(l)
	fmt.Printf("   the repository is served on %s\n", s.url)
	return nil
}

func (s *stage) tamper(path string) {
	s.mu.Lock()
	s.tampered = path
	s.mu.Unlock()
}

func (s *stage) serveTampered(w http.ResponseWriter, r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tampered == "" || !strings.Contains(r.URL.Path, s.tampered) || !strings.HasSuffix(r.URL.Path, ".tar.zst") {
		return false
	}
	data, err := os.ReadFile(s.path("repo", filepath.FromSlash(strings.TrimPrefix(r.URL.Path, "/"))))
	if err != nil {
		return false
	}
	s.served++
	data[len(data)/2] ^= 1
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	return true
}

// refused reports that the changed archive was fetched and that the daemon says so.
func (s *stage) refused(why, version string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.served > 0 && strings.Contains(why, "cannot stage") && strings.Contains(why, version)
}

func (s *stage) startDaemon() error {
	log, err := os.Create(s.path("slipwayd.log"))
	if err != nil {
		return err
	}
	s.log = log
	s.daemon = exec.Command(s.path("bin", "slipwayd"), "--config", s.path("etc"))
	s.daemon.Stdout, s.daemon.Stderr = log, log
	fmt.Println("   $ slipwayd --config etc &")
	return s.daemon.Start()
}

func (s *stage) close() {
	if s.daemon != nil && s.daemon.Process != nil {
		_ = s.daemon.Process.Signal(syscall.SIGTERM)
		done := make(chan struct{})
		go func() { _ = s.daemon.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(15 * time.Second):
			_ = s.daemon.Process.Kill()
			<-done
		}
	}
	if s.server != nil {
		s.server.Close()
	}
	if s.log != nil {
		s.log.Close()
	}
}

func (s *stage) showLogs() {
	data, err := os.ReadFile(s.path("slipwayd.log"))
	if err == nil {
		fmt.Fprintf(os.Stderr, "\nslipwayd said:\n%s", data)
	}
}

// appStatus is the part of `slipway status --json` the demo looks at.
type appStatus struct {
	App         string `json:"app"`
	Phase       string `json:"phase"`
	Version     string `json:"version"`
	Why         string `json:"why"`
	LastOutcome struct {
		Result, Version string
	} `json:"last_outcome"`
	Quarantine []struct{ Version, Cause string } `json:"quarantine"`
}

func (s *stage) status() (appStatus, error) {
	out, err := s.slipwayCommand("status", "--json").Output()
	if err != nil {
		return appStatus{}, err
	}
	var all struct{ Apps []appStatus }
	if err := json.Unmarshal(out, &all); err != nil {
		return appStatus{}, err
	}
	for _, a := range all.Apps {
		if a.App == "harbor" {
			return a, nil
		}
	}
	return appStatus{}, errors.New("the daemon does not know harbor yet")
}

// await polls the daemon until ok, telling each new reason on the way, and then shows status and why.
func (s *stage) await(what string, ok func(appStatus) bool) error {
	deadline := time.Now().Add(time.Minute)
	last, said := appStatus{}, ""
	var err error
	for time.Now().Before(deadline) && s.ctx.Err() == nil {
		if last, err = s.status(); err == nil {
			if last.Why != said {
				said = last.Why
				fmt.Printf("     … %s\n", said)
			}
			if ok(last) {
				fmt.Printf("   ✓ %s\n", what)
				if err := s.slipway("status"); err != nil {
					return err
				}
				return s.slipway("why", "harbor")
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("this did not happen: %s (last: %+v, %v)", what, last, err)
}

func (s *stage) committed(version string) func(appStatus) bool {
	return func(a appStatus) bool {
		return a.Version == version && a.Phase == "idle" && a.LastOutcome.Result == "committed"
	}
}

// answers asks the service itself which version it is.
func (s *stage) answers(version string) error {
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/version", s.port))
	if err != nil {
		return fmt.Errorf("the service does not answer: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 100))
	if got := strings.TrimSpace(string(body)); err != nil || got != version {
		return fmt.Errorf("the service says it is %q, not %q (%v)", got, version, err)
	}
	fmt.Printf("   ✓ the service itself answers: %s\n", version)
	return nil
}
