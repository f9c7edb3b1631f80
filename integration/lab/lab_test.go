package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestAHostBootsRunsCommandsAndGoesAway(t *testing.T) {
	l := New(t)
	h := l.Host(t, "web1", HostOptions{})
	if got := strings.TrimSpace(h.Run(t, "hostname")); got != "web1" {
		t.Errorf("hostname: got %q, want web1", got)
	}
	if got := h.Try(t, "sh", "-c", "echo out; echo err >&2; exit 7"); got.Exit != 7 || got.Stdout != "out\n" || got.Stderr != "err\n" {
		t.Errorf("exit 7 with output: got %+v", got)
	}
	if got := strings.TrimSpace(h.Run(t, "systemctl", "is-active", "sockets.target")); got != "active" {
		t.Errorf("sockets.target: got %s", got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, trace := range traces(t, l.Run()) {
		t.Errorf("left behind: %s", trace)
	}
}

// traces lists what the machine still holds of a run.
func traces(t *testing.T, runName string) (found []string) {
	t.Helper()
	netns, _ := filepath.Glob("/run/netns/slab-" + runName + "*")
	dirs, _ := filepath.Glob(filepath.Join(CacheDir(), "runs", runName+"*"))
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/slab-" + runName + "*")
	found = slices.Concat(netns, dirs, groups)
	for _, file := range []string{"/proc/self/mountinfo", "/proc/mounts"} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(content), runName) {
			found = append(found, file)
		}
	}
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range lines {
		if content, _ := os.ReadFile(file); strings.Contains(string(content), runName) {
			found = append(found, file+": "+strings.ReplaceAll(string(content), "\x00", " "))
		}
	}
	return found
}

func TestFilesOfAHostAreReachedOnAndOffWithoutLeavingIt(t *testing.T) {
	l := New(t)
	h := l.Host(t, "web1", HostOptions{})
	h.Write(t, "/run/new/dir/a", "on")
	if got := h.Run(t, "cat", "/run/new/dir/a"); got != "on" {
		t.Errorf("the host reads %q", got)
	}
	h.Run(t, "ln", "-s", "/etc/hostname", "/root/absolute")
	if got := h.Read(t, "/root/absolute"); got != "web1\n" {
		t.Errorf("an absolute link left the host: %q", got)
	}
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho pushed\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := h.Push(script, "/usr/local/bin/script"); err != nil {
		t.Fatal(err)
	}
	if got := h.Run(t, "script"); got != "pushed\n" {
		t.Errorf("pushed script says %q", got)
	}
	if err := h.PowerOff(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.Write(t, "/etc/while-off", "off")
	h.MustBoot(t)
	if got := h.Run(t, "cat", "/etc/while-off"); got != "off" {
		t.Errorf("the host reads %q", got)
	}
}

func TestAHostSurvivesRebootAndCrashWithItsJournal(t *testing.T) {
	l := New(t)
	h := l.Host(t, "web1", HostOptions{})
	mark := h.Mark(t)
	h.Run(t, "sh", "-c", "logger -t story first; echo kept > /root/kept")
	h.JournalInOrder(t, 5*time.Second, Filter{After: mark}, "^first$")
	h.MustReboot(t)
	h.Run(t, "logger", "-t", "story", "second")
	h.JournalInOrder(t, 5*time.Second, Filter{After: mark}, "^first$", "^second$")
	if err := h.KillLeader(t.Context()); err != nil {
		t.Fatal(err)
	}
	if h.On() {
		t.Fatal("the host is on after its PID 1 was killed")
	}
	if _, err := h.Exec(t.Context(), "true"); err == nil {
		t.Fatal("a command ran on a host that is off")
	}
	h.MustBoot(t)
	h.Run(t, "logger", "-t", "story", "third")
	entries := h.JournalInOrder(t, 5*time.Second, Filter{After: mark}, "^first$", "^second$", "^third$")
	if entries[0].Boot == entries[1].Boot || entries[1].Boot == entries[2].Boot {
		t.Errorf("three boots share an id: %v", entries)
	}
	if got := h.Boots(); got != 3 {
		t.Errorf("boots: got %d, want 3", got)
	}
	if got := h.Read(t, "/root/kept"); got != "kept\n" {
		t.Errorf("kept file: %q", got)
	}
}

// Two hosts that shared their control groups failed about one boot in thirty, each at another unit.
func TestHostsHaveControlGroupsOfTheirOwn(t *testing.T) {
	l := New(t)
	var seen []string
	for _, name := range []string{"web1", "web2"} {
		h := l.Host(t, name, HostOptions{})
		h.mu.Lock()
		pid := h.leader.pid
		h.mu.Unlock()
		groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(groups), "slab-"+l.Run()+"-"+name) || slices.Contains(seen, string(groups)) {
			t.Errorf("%s is in these control groups:\n%s", name, groups)
		}
		seen = append(seen, string(groups))
	}
}

func TestAPowerCutLosesWhatWasNotSynced(t *testing.T) {
	l := New(t)
	h := l.Host(t, "web1", HostOptions{Loop: true})
	h.Run(t, "sh", "-c", "echo one > /root/synced && sync")
	// Others with a copy of the machine's mounts, here one that keeps it to itself, must not hold the host up.
	other := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private", "sh", "-c", "echo ready; exec sleep 600")
	ready, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Process.Kill(); other.Wait() })
	if _, err := ready.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	h.Run(t, "sh", "-c", "echo two > /root/unsynced; echo other > /root/other; sync /root/other; echo late > /root/late")
	if err := h.PowerCut(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.MustBoot(t)
	if got := h.Read(t, "/root/synced"); got != "one\n" {
		t.Errorf("synced file: %q", got)
	}
	if got, _ := h.ReadFile("/root/unsynced"); string(got) == "two\n" {
		t.Errorf("a file without fsync survived the power cut: the cut is not one")
	}
	if got, err := h.ReadFile("/root/late"); err == nil {
		t.Errorf("the last file written without fsync survived: %q", got)
	}
}

func TestAFullDiskIsFullForTheHostAlone(t *testing.T) {
	l := New(t)
	h := l.Host(t, "web1", HostOptions{DiskMiB: 200})
	r := h.Try(t, "dd", "if=/dev/zero", "of=/root/fill", "bs=1M")
	if r.Exit == 0 || !strings.Contains(r.Stderr, "No space left") {
		t.Fatalf("200 MiB never filled up: %+v", r)
	}
	h.Run(t, "rm", "/root/fill")
	h.Run(t, "sh", "-c", "echo room > /root/room")
}

func TestARepositoryServerMisbehavesOnDemand(t *testing.T) {
	l := New(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "1.root.json"), []byte("genuine"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := l.Serve(t, dir)
	h := l.Host(t, "web1", HostOptions{})
	url := s.URL + "/1.root.json"
	get := func() Result { return h.Try(t, "curl", "-sS", "-f", "-m", "3", url) }

	if r := get(); r.Stdout != "genuine" {
		t.Fatalf("plain: %+v", r)
	}
	s.Tamper("*.root.json", func(b []byte) []byte { return append([]byte("not "), b...) })
	if r := get(); r.Stdout != "not genuine" {
		t.Errorf("tampered: %+v", r)
	}
	s.Honest()
	s.Down(503)
	if r := get(); r.Exit != 22 {
		t.Errorf("503: %+v", r)
	}
	s.Down(0)
	if r := get(); r.Exit != 52 {
		t.Errorf("dropped connection: %+v", r)
	}
	s.Up()
	s.Delay(10 * time.Second)
	if r := get(); r.Exit != 28 {
		t.Errorf("delay beyond curl's patience: %+v", r)
	}
	s.Delay(0)
	if r := h.Try(t, "curl", "-sS", "-r", "3-", url); r.Stdout != "uine" {
		t.Errorf("range: %+v", r)
	}
	if r := h.Try(t, "curl", "-sS", "--path-as-is", s.URL+"/../../../../../../etc/passwd"); !strings.Contains(r.Stdout, "not found") {
		t.Errorf("outside of the directory: %+v", r)
	}
	requests := s.Requests()
	if len(requests) < 6 || requests[0].Status != 200 || requests[2].Status != 503 {
		t.Errorf("requests: %+v", requests)
	}
}

func TestTheNetworkOfAHostIsCutAndRestored(t *testing.T) {
	l := New(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("a"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := l.Serve(t, dir)
	h, other := l.Host(t, "web1", HostOptions{}), l.Host(t, "web2", HostOptions{})
	reach := func(h *Host) int { return h.Try(t, "curl", "-sS", "-m", "2", s.URL+"/a").Exit }
	for name, cut := range map[string]func(context.Context) error{"cable": h.CutNetwork, "silent": h.DropNetwork} {
		if err := cut(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := reach(h); got == 0 {
			t.Errorf("%s: the repository is reachable after the cut", name)
		}
		if got := reach(other); got != 0 {
			t.Errorf("%s: the other host was cut off too: curl %d", name, got)
		}
		if err := h.RestoreNetwork(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.WaitFor(t, 10*time.Second, "reach the repository again", func(ctx context.Context) error {
			r, err := h.Exec(ctx, "curl", "-sS", "-m", "2", s.URL+"/a")
			if err != nil {
				return err
			}
			return r.Err()
		})
	}
}

func TestTheTestIsAClientOfItsHosts(t *testing.T) {
	l := New(t)
	h := l.Host(t, "web1", HostOptions{})
	h.Write(t, "/etc/systemd/system/answer.socket", "[Socket]\nListenStream=8080\nAccept=yes\n")
	h.Write(t, "/etc/systemd/system/answer@.service",
		"[Service]\nStandardInput=socket\nExecStart=printf 'HTTP/1.0 200 OK\\r\\n\\r\\nhello'\n")
	h.Run(t, "systemctl", "daemon-reload")
	h.Run(t, "systemctl", "start", "answer.socket")
	client := &http.Client{Transport: &http.Transport{DialContext: l.DialContext}}
	resp, err := client.Get("http://" + h.Address + ":8080/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); string(body) != "hello" {
		t.Errorf("got %q", body)
	}
}

func TestTwoLabsAtOnceNeverMeet(t *testing.T) {
	one, two := New(t), New(t)
	a, b := one.Host(t, "web1", HostOptions{}), two.Host(t, "web1", HostOptions{})
	if a.Address != b.Address {
		t.Fatalf("the hosts should have the same address: %s and %s", a.Address, b.Address)
	}
	a.Write(t, "/root/who", "one")
	if _, err := b.ReadFile("/root/who"); err == nil {
		t.Error("a file of one lab's host appeared in the other's")
	}
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	b.Run(t, "true")
	if links, err := net.Interfaces(); err != nil || strings.Contains(fmt.Sprint(links), "lab0") {
		t.Errorf("the machine's own network shows the lab: %v %v", links, err)
	}
}

// TestARunThatIsKilledLeavesNothing starts itself again as a run of its own and kills that one.
func TestARunThatIsKilledLeavesNothing(t *testing.T) {
	if os.Getenv("LAB_TEST_VICTIM") != "" {
		l, err := Open(t.Context(), Options{})
		if err != nil {
			t.Fatal(err)
		}
		h, err := l.NewHost(t.Context(), "web1", HostOptions{Loop: true})
		if err != nil {
			t.Fatal(err)
		}
		h.MustBoot(t)
		fmt.Printf("run %s\n", l.Run())
		select {}
	}
	New(t) // skips without root
	victim := exec.Command(os.Args[0], "-test.run=^TestARunThatIsKilledLeavesNothing$")
	victim.Env = append(os.Environ(), "LAB_TEST_VICTIM=1")
	victim.Stderr = os.Stderr
	stdout, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	var name string
	if _, err := fmt.Fscanf(stdout, "run %s\n", &name); err != nil {
		t.Fatalf("the victim never came up: %v", err)
	}
	if len(traces(t, name)) == 0 {
		t.Fatal("a living run leaves no traces: this test sees nothing")
	}
	victim.Process.Kill()
	victim.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := poll(ctx, func() (bool, error) { return len(traces(t, name)) == 0, nil }); err != nil {
		t.Errorf("left behind: %v", traces(t, name))
	}
}

func TestASweepRemovesADeadRunAndSparesALivingOne(t *testing.T) {
	l := New(t)
	dead := filepath.Join(CacheDir(), "runs", "1-dead00")
	if err := os.MkdirAll(filepath.Join(dead, "web1"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dead+".owner", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ipAll(t.Context(), "netns add slab-1-dead00-web1"); err != nil {
		t.Fatal(err)
	}
	if Sweep(t.Context(), t.Logf) == 0 {
		t.Error("nothing was swept")
	}
	if left := traces(t, "1-dead00"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if len(traces(t, l.Run())) == 0 {
		t.Error("the sweep took a living run")
	}
}
