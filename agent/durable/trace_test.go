package durable_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestSystemCallsAreTheOnesTheManualShows(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil && os.Getuid() != 0 {
		t.Skip("strace is not installed")
	}
	for _, c := range []struct{ manual, helper, path, arg string }{
		{`WriteFile("d/name", data, perm):`, "write", "name", "data"},
		{`SwapLink("d/current", "releases/2"):`, "swap", "current", "releases/2"},
	} {
		t.Run(c.helper, func(t *testing.T) {
			want := manualTrace(t, c.manual)
			got := strings.Join(strace(t, c.helper, c.path, c.arg), " ")
			if got != want {
				t.Errorf("\n got %s\nwant %s", got, want)
			}
		})
	}
}

// manualTrace reads the first word of each line below heading in the package comment.
func manualTrace(t *testing.T, heading string) string {
	t.Helper()
	_, after, ok := strings.Cut(read(t, "doc.go"), "// "+heading+"\n//\n")
	if !ok {
		t.Fatalf("doc.go has no %q", heading)
	}
	var calls []string
	for line := range strings.SplitSeq(after, "\n") {
		text, ok := strings.CutPrefix(line, "//\t")
		if !ok {
			break
		}
		calls = append(calls, strings.Fields(text)[0])
	}
	return strings.Join(calls, " ")
}

var call = regexp.MustCompile(`(?m)^(?:\d+ +)?(\w+)\((.*)$`)

// strace returns the calls that touched the directory; -y shows which file a descriptor is.
func strace(t *testing.T, name, path, arg string) []string {
	t.Helper()
	dir, log := t.TempDir(), filepath.Join(t.TempDir(), "log")
	cmd := exec.Command("strace", "-f", "-y", "-o", log,
		"-e", "trace=openat,fchmod,write,pwrite64,fsync,fdatasync,close,rename,renameat,renameat2,readlinkat,symlinkat,linkat,unlinkat",
		self(t), filepath.Join(dir, path), arg)
	cmd.Env = append(os.Environ(), helperEnv+"="+name)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("strace: %v: %s", err, out)
	}
	var calls []string
	for _, m := range call.FindAllStringSubmatch(read(t, log), -1) {
		if strings.Contains(m[2], dir) {
			calls = append(calls, m[1])
		}
	}
	return calls
}
