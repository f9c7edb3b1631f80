package main

import (
	"bufio"
	"context"
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

func TestMain(m *testing.M) {
	if os.Getenv("HARBOR_TEST_RUN") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// start runs harbor as a process of its own on a free port and returns its address and output lines.
func start(t *testing.T, env ...string) (*exec.Cmd, string, *bufio.Scanner) {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	_, port, _ := net.SplitHostPort(address)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), "HARBOR_TEST_RUN=1", "PORT="+port), env...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd, "http://" + address, bufio.NewScanner(stdout)
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			return resp.StatusCode, string(body)
		}
		if ctx.Err() != nil {
			t.Fatalf("%s: %v", url, err)
		}
		<-tick.C
	}
}

func TestHarborServesItsVersionAndStopsGracefully(t *testing.T) {
	cmd, url, _ := start(t, "HARBOR_VERSION=1.2.3", "HARBOR_BEHAVIOUR=slow=300ms")
	if status, body := get(t, url+"/healthz"); status != 200 || !strings.Contains(body, `"version":"1.2.3"`) {
		t.Errorf("healthz: %d %s", status, body)
	}
	running, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer running.Close()
	if _, err := io.WriteString(running, "GET /path HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	get(t, url+"/version") // connections are accepted in order: once this is answered, the one above is in
	cmd.Process.Signal(syscall.SIGTERM)
	answer, err := io.ReadAll(running)
	if err != nil || !strings.HasSuffix(string(answer), "harbor 1.2.3: GET /path\n") {
		t.Errorf("the running request got %q, %v", answer, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

func TestHarborTurnsUnhealthyWhenTold(t *testing.T) {
	_, url, _ := start(t, "HARBOR_BEHAVIOUR=unhealthy-after=1h")
	if status, _ := get(t, url+"/healthz"); status != 200 {
		t.Errorf("before its time: %d", status)
	}
	_, url, _ = start(t, "HARBOR_BEHAVIOUR=unhealthy-after=0s")
	if status, _ := get(t, url+"/healthz"); status != 503 {
		t.Errorf("after its time: %d", status)
	}
}

func TestHarborExitsAtStartWithOne(t *testing.T) {
	for _, told := range []string{"exit-at-start", "nonsense", "slow=soon", "ok=1s"} {
		cmd, _, _ := start(t, "HARBOR_BEHAVIOUR="+told)
		cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != 1 {
			t.Errorf("%s: exit %d, want 1", told, got)
		}
	}
}

func TestHarborReadsItsFilesAgainThroughTheSamePathOnHangup(t *testing.T) {
	root := t.TempDir()
	self, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{"1", "2"} {
		dir := filepath.Join(root, v)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "harbor"), self, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "version"), []byte("v"+v+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	current := filepath.Join(root, "current")
	if err := os.Symlink("1", current); err != nil {
		t.Fatal(err)
	}
	old := os.Args[0]
	os.Args[0] = filepath.Join(current, "harbor")
	defer func() { os.Args[0] = old }()
	cmd, url, lines := start(t)
	if _, body := get(t, url+"/version"); body != "v1\n" {
		t.Fatalf("first: %q", body)
	}
	if err := os.Remove(current); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("2", current); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Signal(syscall.SIGHUP)
	for lines.Scan() && !strings.Contains(lines.Text(), "reloaded") {
	}
	if _, body := get(t, url+"/version"); body != "v2\n" {
		t.Errorf("after the swap and SIGHUP: %q", body)
	}
}

func TestHarborTakesAnInheritedSocketAndSaysReady(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	inherited, err := listener.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer inherited.Close()
	path := filepath.Join(t.TempDir(), "notify")
	notifications, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notifications.Close()
	// LISTEN_PID has to be the new process's own pid, which only a shell between us can know.
	cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0"`, os.Args[0])
	cmd.Env = append(os.Environ(), "HARBOR_TEST_RUN=1", "NOTIFY_SOCKET="+path)
	cmd.ExtraFiles = []*os.File{inherited}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	message := make([]byte, 64)
	notifications.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := notifications.Read(message)
	if err != nil || string(message[:n]) != "READY=1" {
		t.Fatalf("notification %q, %v", message[:n], err)
	}
	if status, _ := get(t, fmt.Sprintf("http://%s/healthz", listener.Addr())); status != 200 {
		t.Errorf("over the inherited socket: %d", status)
	}
}
