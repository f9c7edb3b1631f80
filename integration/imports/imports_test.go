// Package imports holds the project's rooms apart: which package of ours may import which.
package imports

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/slipway-deploy/slipway/"

// allowed is the table of docs/architecture.md. A leaf imports nothing of ours. Adding an arrow is a decision: make it here
// and there, or move the code.
var allowed = map[string]string{
	"agent":                          "agent/audit agent/durable agent/gate agent/health agent/release agent/rollout agent/state agent/store agent/units",
	"agent/api":                      "",
	"agent/audit":                    "agent/durable",
	"agent/config":                   "",
	"agent/durable":                  "",
	"agent/fleet":                    "agent/durable agent/release",
	"agent/gate":                     "agent/release",
	"agent/health":                   "",
	"agent/hub":                      "agent/fleet agent/release agent/rollout",
	"agent/hub/ca":                   "agent/durable agent/fleet agent/release",
	"agent/hub/etcd":                 "agent/hub",
	"agent/hub/etcd/etcdtest":        "",
	"agent/hub/etcd/etcdtest/member": "",
	"agent/hub/storetest":            "agent/hub",
	"agent/hub/roster":               "agent/fleet agent/hub agent/hub/ca agent/release",
	"agent/hub/serve":                "agent/fleet agent/hub agent/hub/roster agent/release",
	"agent/release":                  "",
	"agent/rollout":                  "agent/release",
	"agent/server":                   "agent/api agent/state",
	"agent/state":                    "agent/durable agent/release",
	"agent/store":                    "agent/durable agent/release",
	"agent/units":                    "agent/durable agent/release",
	"cmd/slipway-hub":                "agent/config agent/durable agent/fleet agent/hub agent/hub/ca agent/hub/etcd agent/hub/roster agent/hub/serve agent/release agent/rollout systemd tuf/client tuf/keys",
	"cmd/slipway":                    "agent/api agent/audit agent/config agent/fleet agent/release agent/rollout",
	"cmd/slipway-repo":               "agent/durable agent/release agent/rollout tuf/client tuf/destination tuf/keys tuf/repository",
	"cmd/slipway-sign-pkcs11":        "tuf/signer",
	"cmd/slipwayd":                   "agent agent/api agent/audit agent/config agent/durable agent/fleet agent/health agent/release agent/rollout agent/server agent/state agent/store agent/units systemd systemd/process tuf/client",
	"systemd":                        "",
	"systemd/process":                "systemd",
	"systemd/units":                  "",
	"tuf/bundle":                     "",
	"tuf/client":                     "agent/durable tuf/bundle",
	"tuf/conformance":                "tuf/client",
	"tuf/destination":                "agent/durable",
	"tuf/keys":                       "tuf/signer",
	"tuf/repository":                 "agent/durable agent/release tuf/bundle tuf/client tuf/keys",
	"tuf/signer":                     "",
	"tuf/tuftest":                    "agent/release tuf/keys tuf/repository",
	"integration/apps":               "",
	"integration/demo":               "",
	"integration/imports":            "",
}

type pkg struct {
	ImportPath string
	Name       string
	Imports    []string
	Deps       []string
	GoFiles    []string
}

func list(t *testing.T, patterns ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Name,Imports,Deps,GoFiles"}, patterns...)...)
	cmd.Dir = "../.."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

func TestEveryImportIsInTheTable(t *testing.T) {
	for _, p := range list(t, "./...") {
		name := strings.TrimPrefix(p.ImportPath, module)
		if strings.HasPrefix(name, "integration/") && name != "integration/demo" {
			continue // no production code
		}
		var ours []string
		for _, i := range p.Imports {
			if rest, ok := strings.CutPrefix(i, module); ok {
				ours = append(ours, rest)
			}
		}
		t.Logf("%-18s -> %s", name, strings.Join(ours, " "))
		row, ok := allowed[name]
		if !ok && name != "integration" {
			t.Errorf("package %s is not in the table", name)
		}
		for _, o := range ours {
			if !slices.Contains(strings.Fields(row), o) {
				t.Errorf("%s imports %s: that arrow is not in the table", name, o)
			}
		}
	}
}

func TestTheDaemonLinksNoPublisher(t *testing.T) {
	for _, p := range list(t, "./cmd/slipwayd", "./cmd/slipway") {
		for _, d := range p.Deps {
			if strings.HasPrefix(d, module+"tuf/repository") || strings.HasPrefix(d, module+"tuf/keys") {
				t.Errorf("%s links %s", p.ImportPath, d)
			}
		}
	}
}

func TestTheHubAloneLinksEtcd(t *testing.T) {
	for _, p := range list(t, "./cmd/...") {
		etcd := slices.ContainsFunc(p.Deps, func(d string) bool { return strings.HasPrefix(d, "go.etcd.io/") })
		if want := p.ImportPath == module+"cmd/slipway-hub"; etcd != want {
			t.Errorf("%s links etcd: %v, want %v", p.ImportPath, etcd, want)
		}
	}
}

// maxDaemon is what the stripped program may weigh, in bytes: it is on every host.
const maxDaemon = 14_000_000

func TestTheDaemonStaysSmall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "slipwayd")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "./cmd/slipwayd")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", info.Size())
	if info.Size() > maxDaemon {
		t.Errorf("slipwayd has %d bytes, at most %d are wanted", info.Size(), maxDaemon)
	}
}
