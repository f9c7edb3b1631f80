package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

// natsModule is the real program that stories deploy.
const natsModule = "github.com/nats-io/nats-server/v2"

// NATSServer returns a static nats-server binary of the version, such as "v2.15.1", built once per
// machine through the Go module proxy; -m PORT gives it an HTTP port with /healthz.
func NATSServer(t testing.TB, version string) string {
	t.Helper()
	binary, err := BuildModule(t.Context(), natsModule, version)
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

var majorSuffix = regexp.MustCompile(`/v[0-9]+$`)

// BuildModule builds the main package of a module at a version, stripped and static, into the cache,
// and returns the binary's path. Concurrent callers wait for one another.
func BuildModule(ctx context.Context, module, version string) (string, error) {
	name := path.Base(majorSuffix.ReplaceAllString(module, ""))
	bin := filepath.Join(CacheDir(), "bin")
	binary := filepath.Join(bin, fmt.Sprintf("%s-%s-%s-%s", name, version, runtime.GOOS, runtime.GOARCH))
	if exists(binary) {
		return binary, nil
	}
	unlock, err := lockFile(ctx, binary+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if exists(binary) {
		return binary, nil
	}
	making, err := os.MkdirTemp(bin, ".making-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(making)
	cmd := exec.CommandContext(ctx, "go", "install", "-trimpath", "-ldflags=-s -w", module+"@"+version)
	cmd.Dir = making // outside of our module: its go.mod has no say
	cmd.Env = append(os.Environ(), "GOBIN="+making, "GOFLAGS=", "CGO_ENABLED=0", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot build %s@%s: %w: %s", module, version, err, tail(string(out), 1000))
	}
	return binary, os.Rename(filepath.Join(making, name), binary)
}

// GoBuild builds a package of this repository as a static binary at out, with -X values such as
// "main.version=1.0.0"; it is called from tests, whose working directory is inside the module.
func GoBuild(ctx context.Context, pkg, out string, values ...string) error {
	flags := "-s -w"
	for _, value := range values {
		flags += " -X '" + strings.ReplaceAll(value, "'", "") + "'"
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags="+flags, "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build %s: %w: %s", pkg, err, tail(string(output), 1000))
	}
	return nil
}
