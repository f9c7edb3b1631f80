// Package s3 runs real S3-compatible stores for tests: versitygw, and gofakes3 as a second opinion.
package s3

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
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
	versitygw, versitygwVersion = "github.com/versity/versitygw/cmd/versitygw", "v1.8.0"
	gofakes3, gofakes3Version   = "github.com/johannesboyne/gofakes3/cmd/gofakes3", "v1.2.0"

	// AccessKey and SecretKey are the stores' only account; they are put into this process's environment.
	AccessKey = "slipway-test"
	SecretKey = "slipway-test-secret"
)

// Server is a running store.
type Server struct {
	// Endpoint is http://127.0.0.1:PORT.
	Endpoint string

	create  func(bucket string) error
	buckets atomic.Int32
}

// Start runs versitygw until the test and its subtests end. The program is built once per machine, through the module proxy.
func Start(t testing.TB) *Server {
	t.Helper()
	dir := t.TempDir()
	data, meta := filepath.Join(dir, "data"), filepath.Join(dir, "meta")
	for _, d := range []string{data, meta} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t, versitygw, versitygwVersion, func(address string) []string {
		return []string{"--port", address, "--access", AccessKey, "--secret", SecretKey, "posix", "--sidecar", meta, data}
	})
	s.create = func(bucket string) error { return os.Mkdir(filepath.Join(data, bucket), 0o755) }
	return s
}

// StartFake runs gofakes3, which keeps everything in memory and checks no signature.
func StartFake(t testing.TB) *Server {
	t.Helper()
	s := start(t, gofakes3, gofakes3Version, func(address string) []string {
		return []string{"-host", address, "-backend", "memory", "-autobucket"}
	})
	s.create = func(string) error { return nil }
	return s
}

// Heedless is the store s, which checks no signature, behind a proxy that makes it one without conditional writes.
func (s *Server) Heedless(t testing.TB) *Server {
	t.Helper()
	to, err := url.Parse(s.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host
		if r.In.Method == http.MethodPut {
			r.Out.Header.Del("If-Match")
			r.Out.Header.Del("If-None-Match")
		}
	}})
	t.Cleanup(proxy.Close)
	return &Server{Endpoint: proxy.URL, create: s.create}
}

func start(t testing.TB, module, version string, arguments func(address string) []string) *Server {
	t.Helper()
	binary, err := lab.BuildModule(t.Context(), module, version)
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{"AWS_ACCESS_KEY_ID": AccessKey, "AWS_SECRET_ACCESS_KEY": SecretKey} {
		if err := os.Setenv(key, value); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		var endpoint string
		if endpoint, err = run(t, binary, arguments); err == nil {
			return &Server{Endpoint: endpoint}
		}
	}
	t.Fatal(err)
	return nil
}

// run tries one port, which somebody else may take first.
func run(t testing.TB, binary string, arguments func(address string) []string) (endpoint string, err error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	address := l.Addr().String()
	_ = l.Close()
	cmd := exec.Command(binary, arguments(address)...)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		return "", err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		select {
		case err := <-ended:
			return "", fmt.Errorf("cannot start %s on %s: %v: %s", filepath.Base(binary), address, err, output.String())
		case <-time.After(20 * time.Millisecond):
		}
		if c, err := net.Dial("tcp4", address); err == nil {
			_ = c.Close()
			t.Cleanup(func() {
				_ = cmd.Process.Kill()
				<-ended
			})
			return "http://" + address, nil
		}
	}
	_ = cmd.Process.Kill()
	<-ended
	return "", fmt.Errorf("cannot start %s on %s: it does not answer: %s", filepath.Base(binary), address, output.String())
}

// Bucket makes a fresh bucket and returns its reference, as slipway-repo's --to takes it, and its name.
func (s *Server) Bucket(t testing.TB) (ref, name string) {
	t.Helper()
	name = fmt.Sprintf("%s-%d", strings.Trim(regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(t.Name()), "-"), "-"), s.buckets.Add(1))
	if len(name) > 60 {
		name = strings.Trim(name[len(name)-60:], "-")
	}
	if err := s.create(name); err != nil {
		t.Fatal(err)
	}
	return "s3://" + name + "/deploy?endpoint=" + s.Endpoint, name
}
