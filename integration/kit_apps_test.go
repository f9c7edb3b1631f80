package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/integration/lab"
)

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Ports that the story apps listen on, on every address of their host.
const (
	natsMonitor = 8222
	harborPort  = 8080
)

// natsTree is a release of nats-server as a team would ship it: its own user, its own data directory, its monitoring as the
// health check. Further flags of the program make it go wrong.
func natsTree(t testing.TB, version string, flags ...string) tree {
	t.Helper()
	unit := `[Unit]
Description=NATS ` + version + `

[Service]
User=nats
ExecStart=@current@/bin/nats-server -a 127.0.0.1 -p 4222 -m 8222 -sd /var/lib/nats -js ` + strings.Join(flags, " ") + `
Restart=no

[Install]
WantedBy=multi-user.target
`
	toml := `restart = "restart"

[[units]]
name = "nats.service"
path = "units/nats.service"

[[users]]
name = "nats"
home = "/var/lib/nats"

[[directories]]
path = "/var/lib/nats"
mode = "0750"
user = "nats"

[[checks]]
name = "healthz"
kind = "http"
url = "http://127.0.0.1:8222/healthz"
interval = "300ms"
failure_threshold = 2
start_period = "2s"
`
	return tree{toml: toml, files: map[string]file{
		"bin/nats-server":    {data: mustRead(t, lab.NATSServer(t, "v"+version)), mode: 0o755},
		"units/nats.service": {data: []byte(unit)},
	}}
}

// natsAnswers checks that the server itself is of the version.
func (h *fleetHost) natsAnswers(version string) {
	h.t.Helper()
	h.WaitFor(h.t, 10*time.Second, "nats-server answers as "+version, func(ctx context.Context) error {
		// The monitoring port listens where the clients' does, on the loopback.
		r, err := h.Exec(ctx, "curl", "-sSf", "-m", "3", fmt.Sprintf("http://127.0.0.1:%d/varz", natsMonitor))
		if err == nil {
			err = r.Err()
		}
		if err != nil {
			return err
		}
		var varz struct{ Version string }
		if err := json.Unmarshal([]byte(r.Stdout), &varz); err != nil {
			return err
		}
		if varz.Version != version {
			return fmt.Errorf("it says it is %s", varz.Version)
		}
		return nil
	})
}

// harborTree is a release of harbor, the small service that behaves as told; see integration/apps/harbor. Edits change the
// unit or release.toml before they are packed.
func (s *stage) harborTree(version, behaviour string, edits ...func(*tree)) tree {
	s.t.Helper()
	unit := fmt.Sprintf("[Unit]\nDescription=Harbor\n\n[Service]\nDynamicUser=yes\nExecStart=@current@/bin/harbor -listen 0.0.0.0:%d\n\n[Install]\nWantedBy=multi-user.target\n", harborPort)
	tr := tree{toml: harborTOML("harbor", harborPort), files: map[string]file{
		"bin/harbor":           {data: mustRead(s.t, filepath.Join(filepath.Dir(s.keys), "bin", "harbor")), mode: 0o755},
		"bin/version":          {data: []byte(version + "\n")},
		"bin/behaviour":        {data: []byte(behaviour + "\n")},
		"units/harbor.service": {data: []byte(unit)},
	}}
	for _, edit := range edits {
		edit(&tr)
	}
	return tr
}

func harborTOML(app string, port int) string {
	return fmt.Sprintf(`restart = "restart"

[[units]]
name = "%[1]s.service"
path = "units/%[1]s.service"

[[checks]]
name = "web"
kind = "http"
url = "http://127.0.0.1:%[2]d/healthz"
interval = "300ms"
timeout = "1s"
failure_threshold = 2
start_period = "1s"
`, app, port)
}

// replaceIn changes text of one of a tree's files; "" names release.toml.
func replaceIn(name, old, replacement string) func(*tree) {
	return func(tr *tree) {
		if name == "" {
			tr.toml = strings.ReplaceAll(tr.toml, old, replacement)
			return
		}
		f := tr.files[name]
		f.data = []byte(strings.ReplaceAll(string(f.data), old, replacement))
		tr.files[name] = f
	}
}

// harborAnswers checks that the service itself is of the version.
func (h *fleetHost) harborAnswers(version string) {
	h.t.Helper()
	h.WaitFor(h.t, 10*time.Second, "harbor answers as "+version, func(ctx context.Context) error {
		got, err := h.get(ctx, harborPort, "/version")
		if err == nil && strings.TrimSpace(got) != version {
			err = fmt.Errorf("it says it is %s", got)
		}
		return err
	})
}
