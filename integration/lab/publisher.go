package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Publisher is a throwaway repository with all its keys, worked through the real slipway-repo. Root is
// one key; every environment has three approvers of whom two sign; every app has one key.
type Publisher struct {
	// Repo is the directory to serve.
	Repo string
	tool string
	keys string
	work string
}

// NewPublisher makes a repository with the environments in a directory; tool is the slipway-repo binary.
func NewPublisher(ctx context.Context, tool, dir string, environments ...string) (*Publisher, error) {
	p := &Publisher{Repo: filepath.Join(dir, "repo"), tool: tool, keys: filepath.Join(dir, "keys"), work: filepath.Join(dir, "work")}
	for _, d := range []string{p.keys, p.work} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	if err := p.generate(ctx, "root", "online"); err != nil {
		return nil, err
	}
	err := p.all(ctx, []string{"init", "--root-key", p.pub("root"), "--allow-no-spare", "throwaway", "--online-key", p.pub("online"),
		"--use-online", p.Key("online"), "--sign", p.Key("root")}, []string{"publish"})
	for _, env := range environments {
		if err == nil {
			err = p.addEnvironment(ctx, env)
		}
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Publisher) addEnvironment(ctx context.Context, env string) error {
	args := []string{"env", "add", env, "--threshold", "2", "--sign", p.Key("root")}
	for i := range 3 {
		name := fmt.Sprintf("%s-approver-%d", env, i+1)
		if err := p.generate(ctx, name); err != nil {
			return err
		}
		args = append(args, "--key", p.pub(name))
	}
	return p.all(ctx, args, []string{"publish"})
}

// AddApp adds an app with a key of its own.
func (p *Publisher) AddApp(ctx context.Context, app string) error {
	if err := p.generate(ctx, "app-"+app); err != nil {
		return err
	}
	return p.all(ctx, []string{"app", "add", app, "--key", p.pub("app-" + app), "--allow-no-spare", "throwaway", "--sign", p.Key("root")},
		[]string{"publish"})
}

// Release packs a tree with its release.toml, signs it with the app's key and publishes it.
func (p *Publisher) Release(ctx context.Context, app, version, tree, toml string) error {
	out := filepath.Join(p.work, app+"-"+version)
	return p.all(ctx,
		[]string{"release", "pack", tree, "--app", app, "--version", version, "--platform", runtime.GOOS + "/" + runtime.GOARCH,
			"--config", toml, "--out", out},
		[]string{"release", "publish", out, "--sign", p.Key("app-" + app)},
		[]string{"publish"})
}

// Deploy signs, with two approvers, that the environment runs the version, and publishes it; more are
// further flags of `slipway-repo deploy new`, for example "--min-healthy", "4s".
func (p *Publisher) Deploy(ctx context.Context, env, app, version string, more ...string) error {
	args := []string{"deploy", "new", "--env", env, "--app", app, "--release", version, "--reason", "lab",
		"--sign", p.Key(env + "-approver-1"), "--sign", p.Key(env + "-approver-2")}
	return p.all(ctx, slices.Concat(args, more), []string{"publish"})
}

// Root is the file that hosts pin.
func (p *Publisher) Root() string { return filepath.Join(p.Repo, "metadata", "1.root.json") }

// Key is a private key's file: "root", "online", "app-APP" or "ENV-approver-N".
func (p *Publisher) Key(name string) string { return filepath.Join(p.keys, name) }

func (p *Publisher) pub(name string) string { return p.Key(name) + ".pub" }

func (p *Publisher) generate(ctx context.Context, names ...string) error {
	for _, name := range names {
		if _, err := p.Command(ctx, "key", "gen", p.Key(name), "--unencrypted"); err != nil {
			return err
		}
	}
	return nil
}

func (p *Publisher) all(ctx context.Context, commands ...[]string) error {
	for _, command := range commands {
		if _, err := p.Command(ctx, command...); err != nil {
			return err
		}
	}
	return nil
}

// Command runs slipway-repo on the repository and returns what it printed.
func (p *Publisher) Command(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, p.tool, append([]string{"-C", p.Repo}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("cannot run slipway-repo %s: %w: %s", strings.Join(args, " "), err, tail(string(out), 1500))
	}
	return string(out), nil
}

// HarborTree writes a release of integration/apps/harbor into dir and its release.toml beside it, whose
// path it returns. The service listens on port 8080 of all addresses and is checked on /healthz.
func HarborTree(harbor, dir, version, behaviour string) (string, error) {
	binary, err := os.ReadFile(harbor)
	if err != nil {
		return "", err
	}
	toml := `restart = "restart"

[[units]]
name = "harbor.service"
path = "units/harbor.service"

[[checks]]
name = "web"
kind = "http"
url = "http://127.0.0.1:8080/healthz"
interval = "500ms"
failure_threshold = 2
start_period = "1s"
`
	unit := `[Unit]
Description=Harbor, a small web service

[Service]
Type=notify
DynamicUser=yes
ExecStart=@current@/bin/harbor -listen :8080

[Install]
WantedBy=multi-user.target
`
	files := []struct {
		name, content string
		mode          os.FileMode
	}{
		{filepath.Join(dir, "bin", "harbor"), string(binary), 0o755},
		{filepath.Join(dir, "bin", "version"), version + "\n", 0o644},
		{filepath.Join(dir, "bin", "behaviour"), behaviour + "\n", 0o644},
		{filepath.Join(dir, "units", "harbor.service"), unit, 0o644},
		{dir + ".toml", toml, 0o644},
	}
	for _, f := range files {
		if err := os.MkdirAll(filepath.Dir(f.name), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(f.name, []byte(f.content), f.mode); err != nil {
			return "", err
		}
	}
	return dir + ".toml", nil
}

// Configure does what an administrator does after installing the package: pin the root, name the
// environment and the mirror, list the apps, start the daemon. more is a drop-in of further TOML.
func (h *Host) Configure(ctx context.Context, p *Publisher, url, environment, more string, apps ...string) error {
	if err := h.Push(p.Root(), "/root/root.json"); err != nil {
		return err
	}
	if err := h.WriteFile("/etc/slipway/slipway.d/lab.toml", []byte(more), 0o644); err != nil {
		return err
	}
	commands := [][]string{{"slipway", "init", "--root", "/root/root.json", "--environment", environment, "--repository", url}}
	for _, app := range apps {
		commands = append(commands, []string{"slipway", "add", app})
	}
	for _, command := range append(commands, []string{"systemctl", "restart", "slipwayd.service"}) {
		r, err := h.Exec(ctx, command...)
		if err == nil {
			err = r.Err()
		}
		if err != nil {
			return err
		}
	}
	return nil
}
