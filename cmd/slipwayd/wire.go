package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/slipway-deploy/slipway/agent"
	"github.com/slipway-deploy/slipway/agent/audit"
	"github.com/slipway-deploy/slipway/agent/config"
	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/server"
	"github.com/slipway-deploy/slipway/agent/state"
	"github.com/slipway-deploy/slipway/agent/store"
	"github.com/slipway-deploy/slipway/agent/units"
	"github.com/slipway-deploy/slipway/systemd"
	"github.com/slipway-deploy/slipway/systemd/process"
	"github.com/slipway-deploy/slipway/tuf/client"
)

// wired is everything the daemon can do, put together in one place.
type wired struct {
	log      hclog.Logger
	clock    clock
	hostID   string
	store    *store.Store
	state    *state.Dir
	manager  manager
	source   *source
	events   *events
	notifier *systemd.Notifier
	host     *agent.Host
	deps     agent.Deps
	hold     *hostHold
	local    *localMirrors

	identity    *identity
	coordinator *coordinator

	mu      sync.Mutex
	cfg     *config.Host
	refused string // the problems of the last edit that was not taken
}

func (d *wired) config() *config.Host {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cfg
}

func (d *wired) warnings() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := d.cfg.Unsafe()
	if d.refused != "" {
		out = append([]string{"an edit of the configuration was refused and the old one stays in force: " + d.refused}, out...)
	}
	if d.identity.unfit != "" {
		out = append([]string{d.identity.unfit}, out...)
	}
	return out
}

// systemUnitDirs are where other people's units live. A release may not bring a unit of the same name.
var systemUnitDirs = []string{"/usr/lib/systemd/system", "/lib/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system"}

// wire puts the parts together. early is for the boot guardian, when there is no bus yet; helpers (guard, boot, settle) never
// touch the network, and what they write is what the daemon would write.
func wire(ctx context.Context, cfg *config.Host, log hclog.Logger, early bool) (*wired, error) {
	d := &wired{
		cfg: cfg, log: log, clock: newClock(cfg), source: &source{}, notifier: systemd.NewNotifier(),
		store: store.Open(cfg.Paths.Install),
	}
	var err error
	if d.hostID, err = hostID(cfg); err != nil {
		return nil, err
	}
	if d.state, err = state.Open(cfg.Paths.State); err != nil {
		return nil, err
	}
	if d.hold, err = openHold(filepath.Join(cfg.Paths.State, "hold.json"), d.state.UseReserve, d.clock.Now()); err != nil {
		log.Error("THE HOLD OF THE HOST IS DAMAGED", "error", err)
	}
	if d.manager, err = supervise(ctx, cfg, log, early); err != nil {
		return nil, err
	}
	sink := openSink(cfg, log)
	d.identity = &identity{home: fleet.Home(filepath.Join(cfg.Paths.State, "identity")), host: d.hostID}
	d.coordinator = newCoordinator(d)
	d.events = newEvents(func(line string) { _ = d.notifier.Status(line) })
	d.deps = agent.Deps{
		Source: d.source, Store: d.store, State: d.state, Units: unitDir(cfg), Manager: d.manager, Tasks: d.manager, Guards: d.manager,
		Accounts: accountsFor(cfg, d.manager), Sink: sink, Observe: d.events.observe, Clock: d.clock, Log: log,
		StageSlots: make(chan struct{}, 1), Coordinator: d.coordinator,
	}
	d.host = agent.NewHost(d.deps)
	d.local = newLocalMirrors(log.Named("local"), d.host.Poke)
	return d, nil
}

// openSink opens the audit log. One that cannot be opened refuses every event: that stops activations and, as everywhere, no
// revert.
func openSink(cfg *config.Host, log hclog.Logger) audit.Sink {
	f, err := audit.OpenFile(filepath.Join(cfg.Paths.State, "audit", "events.jsonl"))
	if err != nil {
		log.Error("events cannot be recorded, so nothing will be activated", "error", err)
		return unwritable{err}
	}
	return f
}

type unwritable struct{ error }

func (u unwritable) Append(audit.Event) error { return u.error }

func unitDir(cfg *config.Host) units.Dir {
	dir := units.Dir{Path: cfg.Paths.Units}
	if cfg.Supervisor == config.SupervisorSystemd {
		dir.Search = systemUnitDirs
	}
	return dir
}

func accountsFor(cfg *config.Host, tasks agent.Tasks) agent.Accounts {
	if cfg.Supervisor == config.SupervisorProcess {
		return plainAccounts{}
	}
	return accounts{tasks: tasks, etc: "/etc"}
}

func supervise(ctx context.Context, cfg *config.Host, log hclog.Logger, early bool) (manager, error) {
	var s supervisor
	var err error
	switch {
	case cfg.Supervisor == config.SupervisorProcess:
		s, err = startProcesses(cfg, log)
	case early:
		s, err = systemd.ConnectPrivate(ctx)
	default:
		s, err = systemd.Connect(ctx)
	}
	if err != nil {
		return manager{}, err
	}
	about, err := s.Version(ctx)
	if err != nil {
		return manager{}, err
	}
	return manager{supervisor: s, about: about}, nil
}

func startProcesses(cfg *config.Host, log hclog.Logger) (supervisor, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("cannot find this program to run guards with: %w", err)
	}
	return process.New(process.Config{
		Units: cfg.Paths.Units, State: filepath.Join(cfg.Paths.State, "process"), Guard: []string{self, "--config", configDir(cfg), "guard"}, Log: log.Named("process"),
	})
}

// configDir is the directory the configuration was read from.
func configDir(cfg *config.Host) string {
	if len(cfg.Files) == 0 {
		return config.DefaultDir
	}
	return filepath.Dir(cfg.Files[0])
}

// hostID is what the configuration says, or a name derived from the machine's own.
func hostID(cfg *config.Host) (string, error) {
	if cfg.HostID != "" {
		return cfg.HostID, nil
	}
	data, err := os.ReadFile("/etc/machine-id")
	id := strings.TrimSpace(string(data))
	if err != nil || id == "" {
		name, herr := os.Hostname()
		if herr != nil {
			return "", fmt.Errorf("cannot name this host: %w; set host_id", errors.Join(err, herr))
		}
		id = name
	}
	return release.Sum([]byte("slipway/host/v1\x00" + id)).String()[:32], nil
}

// settings splits the host's configuration into what each app's machine needs, and refuses apps that own each other's names.
func (d *wired) settings(cfg *config.Host) (map[release.App]agent.Settings, error) {
	out, err := settingsOf(cfg, d.hostID, d.identity.why())
	if err != nil {
		return nil, err
	}
	for a := range out {
		for b := range out {
			if a != b && a.Owns(b.String()) {
				return nil, fmt.Errorf("cannot run both %s and %s: the names of the second's units and users belong to the first; rename one", a, b)
			}
		}
	}
	return out, nil
}

func settingsOf(cfg *config.Host, hostID, unfit string) (map[release.App]agent.Settings, error) {
	env, err := release.ParseEnvironment(cfg.Environment)
	if err != nil {
		return nil, err
	}
	out := map[release.App]agent.Settings{}
	for name, a := range cfg.Apps {
		app, err := release.ParseApp(name)
		if err != nil {
			return nil, err
		}
		s := agent.Settings{
			Disabled: !a.Enabled, Environment: env, HostID: hostID, Labels: cfg.Labels, Env: a.Env, Credentials: a.Credentials, AllowRoot: a.AllowRoot,
			Endpoints: map[string]agent.Endpoint{}, SpaceReserve: cfg.Space.Reserve, Keep: cfg.Retention.Keep, KeepFor: cfg.Retention.MinAge,
			MaxBundleAge: cfg.Repository.MaxBundleAge, SlotPoll: cfg.Fleet.Poll, Unfit: unfit,
		}
		for check, o := range a.Checks {
			s.Endpoints[check] = agent.Endpoint{URL: o.URL, Address: o.Address, Port: o.Port}
		}
		out[app] = s
	}
	return out, nil
}

// adopt takes a valid configuration into force.
func (d *wired) adopt(cfg *config.Host) error {
	apps, err := d.settings(cfg)
	if err != nil {
		return err
	}
	c, err := openClient(cfg, d.clock, d.state.UseReserve, d.log)
	if err != nil {
		d.log.Error("the repository cannot be used", "error", err)
	}
	d.source.use(c)
	d.local.use(cfg.Repository.Mirrors)
	d.coordinator.use(cfg)
	d.mu.Lock()
	d.cfg, d.refused = cfg, ""
	d.mu.Unlock()
	for _, s := range cfg.Unsafe() {
		d.log.Warn("unsafe option: " + s)
	}
	d.configure(apps, cfg)
	return nil
}

// configure holds new apps with the host before their machines start, and asks again after it: an operator may have held the host
// in between and not have found them.
func (d *wired) configure(apps map[release.App]agent.Settings, cfg *config.Host) {
	var fresh []release.App
	for app := range apps {
		if _, running := d.host.Machine(app); !running {
			fresh = append(fresh, app)
		}
	}
	d.holdNew(context.Background(), fresh)
	d.host.Configure(apps, cfg.Poll.Interval, cfg.Poll.Jitter)
	d.holdNew(context.Background(), fresh)
}

func openClient(cfg *config.Host, clk clock, spare func(func() error) error, log hclog.Logger) (*client.Client, error) {
	root, err := os.ReadFile(cfg.Repository.Root)
	if err != nil {
		return nil, fmt.Errorf("cannot read the pinned root: %w; slipway init --root FILE puts it in place", err)
	}
	c := client.Config{
		Dir: filepath.Join(cfg.Paths.State, "tuf"), Root: root, MaxClockStep: cfg.Clock.MaxStep, Logger: log.Named("tuf"),
		MaxBundleAge: cfg.Repository.MaxBundleAge, Spare: spare,
		HTTP: client.HTTP{
			Proxy: cfg.Repository.Proxy, CAFile: cfg.Repository.CAFile, CertFile: cfg.Repository.ClientCert, KeyFile: cfg.Repository.ClientKey,
			AuthHeaderFile: cfg.Repository.AuthHeaderFile, UserAgent: "slipwayd/" + version,
		},
		Clock: client.Clock{Now: clk.Now, Synced: clk.Synchronised, Wait: clk.wait},
	}
	for _, m := range cfg.Repository.Mirrors {
		c.Mirrors = append(c.Mirrors, client.Mirror{Metadata: m.Metadata, Targets: m.Targets})
	}
	return client.Open(c)
}

// clockPatience bounds one wait for synchronisation; the poll after it waits again, and status says why meanwhile.
const clockPatience = 20 * time.Second

// wait blocks until the clock is synchronised; right after boot that may take a while, and nothing signed can be judged before.
func (c clock) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, clockPatience)
	defer cancel()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for !c.Synchronised() {
		select {
		case <-ctx.Done():
			return errors.New("the clock is not synchronised, so nothing signed can be judged; start a time service such as systemd-timesyncd or chrony")
		case <-tick.C:
		}
	}
	return nil
}

func serverConfig(d *wired) server.Config {
	return server.Config{
		Host: &control{d: d}, Version: version, Logger: d.log.Named("api"), Metrics: metrics{d},
		Roles: func() server.Roles { return roles(d.config().Roles) },
		Audit: func(r server.Record) {
			e := audit.Event{
				Time: r.Time, Type: "request", App: r.App, Cause: r.Outcome, Message: fmt.Sprintf("%s by %s (uid %d, pid %d): %s", r.Request, r.Caller.User, r.Caller.UID, r.Caller.PID, r.Outcome),
				Fields: map[string]string{"type": r.Type, "role": r.Caller.Role},
			}
			if err := d.deps.Sink.Append(e); err != nil {
				d.log.Error("a request could not be recorded", "error", err)
			}
		},
	}
}

func roles(r config.Roles) server.Roles {
	of := func(m config.Members) server.Members { return server.Members{Users: m.Users, Groups: m.Groups} }
	return server.Roles{Viewer: of(r.Viewer), Operator: of(r.Operator), Security: of(r.Security), Admin: of(r.Admin)}
}

// listeners are the sockets systemd hands over, or our own when it hands none.
func listeners(cfg *config.Host) (map[string]net.Listener, error) {
	given, err := systemd.Listeners()
	if err != nil || len(given) > 0 {
		return given, err
	}
	control, err := listenUnix(filepath.Join(cfg.Paths.Run, "slipway.sock"), 0o660)
	if err != nil {
		return nil, err
	}
	readOnly, err := listenUnix(filepath.Join(cfg.Paths.Run, "slipway-ro.sock"), 0o666)
	if err != nil {
		return nil, err
	}
	return map[string]net.Listener{"control": control, "readonly": readOnly}, nil
}

// listenUnix makes a socket unless a living daemon answers on it already.
func listenUnix(path string, mode os.FileMode) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", path, err)
	}
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("cannot listen on %s: another slipwayd answers there", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot listen on %s: %w", path, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", path, err)
	}
	return l, os.Chmod(path, mode)
}
