// Package s3 runs a real S3-compatible store, versitygw, for tests.
package s3

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/integration/lab"
)

const (
	module  = "github.com/versity/versitygw/cmd/versitygw"
	version = "v1.8.0"

	// AccessKey and SecretKey are the store's only account; Start puts them into this process's environment.
	AccessKey = "slipway-test"
	SecretKey = "slipway-test-secret"
)

// Server is a running store. Buckets are directories below Root.
type Server struct {
	// Endpoint is http://127.0.0.1:PORT.
	Endpoint string
	Root     string

	buckets atomic.Int32
}

// Start runs a store until the test and its subtests end. The program is built once per machine, through the module proxy.
func Start(t testing.TB) *Server {
	t.Helper()
	binary, err := lab.BuildModule(t.Context(), module, version)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := &Server{Root: filepath.Join(dir, "data")}
	meta := filepath.Join(dir, "meta")
	for _, d := range []string{s.Root, meta} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for key, value := range map[string]string{"AWS_ACCESS_KEY_ID": AccessKey, "AWS_SECRET_ACCESS_KEY": SecretKey} {
		if err := os.Setenv(key, value); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		if err = s.run(t, binary, meta); err == nil {
			return s
		}
	}
	t.Fatal(err)
	return nil
}

// run tries one port, which somebody else may take first.
func (s *Server) run(t testing.TB, binary, meta string) error {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := l.Addr().String()
	_ = l.Close()
	cmd := exec.Command(binary, "--port", address, "--access", AccessKey, "--secret", SecretKey, "--health", "/health", "posix", "--sidecar", meta, s.Root)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		select {
		case err := <-ended:
			return fmt.Errorf("cannot start versitygw on %s: %v: %s", address, err, output.String())
		case <-time.After(20 * time.Millisecond):
		}
		if c, err := net.Dial("tcp4", address); err == nil {
			_ = c.Close()
			s.Endpoint = "http://" + address
			t.Cleanup(func() {
				_ = cmd.Process.Kill()
				<-ended
			})
			return nil
		}
	}
	_ = cmd.Process.Kill()
	return fmt.Errorf("cannot start versitygw on %s: it does not answer: %s", address, output.String())
}

// Bucket makes a fresh bucket and returns its reference, as slipway-repo's --to takes it, and its name.
func (s *Server) Bucket(t testing.TB) (ref, name string) {
	t.Helper()
	name = fmt.Sprintf("%s-%d", strings.Trim(regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(t.Name()), "-"), "-"), s.buckets.Add(1))
	if len(name) > 60 {
		name = strings.Trim(name[len(name)-60:], "-")
	}
	if err := os.Mkdir(filepath.Join(s.Root, name), 0o755); err != nil {
		t.Fatal(err)
	}
	return "s3://" + name + "/deploy?endpoint=" + s.Endpoint, name
}
