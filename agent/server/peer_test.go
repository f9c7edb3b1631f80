package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/agent/server"
)

// TestMain lets the test binary be the unprivileged caller: started with this variable it makes one request and prints the kind.
func TestMain(m *testing.M) {
	if request := os.Getenv("SLIPWAY_TEST_REQUEST"); request != "" {
		fmt.Print(asCaller(strings.Fields(request)))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func asCaller(f []string) string {
	c, ctx := api.NewClient(f[1], "", "1.2.3"), context.Background()
	var err error
	switch f[0] {
	case "status":
		_, err = c.Status(ctx)
	case "history":
		_, err = c.History(ctx, "web", 1)
	case "apply":
		_, err = c.Apply(ctx, "web", api.ApplyRequest{ExpectRevision: 7})
	case "remove":
		_, err = c.Remove(ctx, "web", api.RemoveRequest{ExpectRevision: 7})
	}
	if err == nil {
		return "ok"
	}
	data, _ := json.Marshal(api.Wire(err))
	return api.Wire(err).Kind() + " " + string(data)
}

// callable copies this test binary to where every user may run it.
func callable(t *testing.T) string {
	t.Helper()
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "slipway-caller")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/caller", exe, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir + "/caller"
}

// run makes a request as another user, in a process of its own: credentials are the kernel's, not ours to say.
func run(t *testing.T, copied string, uid, gid uint32, groups []uint32, request, socket string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), copied)
	cmd.Dir = "/"
	cmd.Env = []string{"GORACE=atexit_sleep_ms=0", "SLIPWAY_TEST_REQUEST=" + request + " " + socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid, Groups: groups}}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func TestTheKernelSaysWhoMayDoWhat(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to become other users")
	}
	caller := callable(t)
	b := start(t, server.Roles{
		Viewer:   server.Members{Users: []string{"40001"}},
		Operator: server.Members{Groups: []string{"40500"}},
		Security: server.Members{Groups: []string{"no-such-group"}, Users: []string{"no-such-user"}},
		Admin:    server.Members{Users: []string{"40003"}, Groups: []string{"65534"}},
	})
	for _, one := range []struct {
		name     string
		uid, gid uint32
		groups   []uint32
		want     map[string]string
	}{
		{"anyone", 40009, 40009, nil, map[string]string{"status": "ok", "history": "forbidden", "apply": "forbidden", "remove": "forbidden"}},
		{"viewer by user", 40001, 40001, nil, map[string]string{"status": "ok", "history": "ok", "apply": "forbidden"}},
		{"operator by supplementary group", 40002, 40002, []uint32{1, 2, 40500}, map[string]string{"history": "ok", "apply": "stale-or-ok", "remove": "forbidden"}},
		{"operator by primary group", 40004, 40500, nil, map[string]string{"history": "ok", "remove": "forbidden"}},
		{"operator in very many groups", 40005, 40005, manyGroups(40500), map[string]string{"history": "ok", "remove": "forbidden"}},
		{"admin", 40003, 40003, nil, map[string]string{"history": "ok", "remove": "stale-or-ok"}},
		{"the overflow user", 65534, 65534, nil, map[string]string{"status": "ok", "history": "forbidden"}},
	} {
		for request, want := range one.want {
			got := run(t, caller, one.uid, one.gid, one.groups, request, b.control)
			kind, _, _ := strings.Cut(got, " ")
			if want == "stale-or-ok" && (kind == "ok" || kind == api.KindStale) {
				continue
			}
			if kind != want {
				t.Errorf("%s asks for %s: %s, want %s", one.name, request, got, want)
			}
		}
	}
	for _, r := range b.audit() {
		if r.Outcome == api.KindForbidden && (r.Caller.UID < 40000 || r.Caller.PID == int32(os.Getpid()) || r.Caller.Role == "") {
			t.Errorf("a denial names the wrong caller: %+v", r)
		}
	}
}

func manyGroups(last uint32) []uint32 {
	var out []uint32
	for g := range uint32(300) {
		out = append(out, 50000+g)
	}
	return append(out, last)
}
