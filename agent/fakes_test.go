package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slipway-deploy/slipway/agent"
	"github.com/slipway-deploy/slipway/agent/health"
	"github.com/slipway-deploy/slipway/agent/release"
)

// source is a repository in memory. What it hands out is bytes, as a verified repository would.
type source struct {
	mu      sync.Mutex
	docs    map[string]agent.Document
	ships   map[release.Digest]*ship
	errs    map[string]error
	expires map[string]time.Time
	// flaky is how often Stage still fails; corrupt makes it hand out damaged archives.
	flaky   int
	corrupt bool
	staged  int
	// slow, if set, runs at the beginning of every Stage; refreshHangs makes Refresh wait for its end.
	slow         func(context.Context, func(agent.Progress))
	refreshHangs bool
	refreshed    int
}

func newSource() *source {
	return &source{docs: map[string]agent.Document{}, ships: map[release.Digest]*ship{}, errs: map[string]error{}, expires: map[string]time.Time{}}
}

func (s *source) Refresh(ctx context.Context) (agent.Metadata, error) {
	s.mu.Lock()
	hangs := s.refreshHangs
	s.refreshed++
	s.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return agent.Metadata{}, ctx.Err()
	}
	return s.Known(ctx)
}

func (s *source) Known(context.Context) (agent.Metadata, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := agent.Metadata{Issued: time.Now(), Verified: time.Now(), Versions: map[string]int64{"timestamp": 1}, Expires: map[string]time.Time{}}
	for _, role := range []string{"root", "targets", "snapshot", "timestamp"} {
		m.Expires[role] = time.Now().Add(24 * time.Hour)
	}
	maps.Copy(m.Expires, s.expires)
	return m, s.errs["known"]
}

func (s *source) Document(_ context.Context, path string) (agent.Document, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.errs[path]; err != nil {
		return agent.Document{}, err
	}
	d, ok := s.docs[path]
	if !ok {
		return d, agent.ErrNoDocument
	}
	return d, nil
}

func (s *source) Stage(ctx context.Context, a release.Artifact, dir string, progress func(agent.Progress)) ([]byte, error) {
	s.mu.Lock()
	sh, flaky, corrupt := s.ships[a.Archive.SHA256], s.flaky > 0, s.corrupt
	if flaky {
		s.flaky--
	}
	s.staged++
	s.mu.Unlock()
	if sh == nil {
		return nil, errors.New("no such archive")
	}
	archive := sh.archive
	if corrupt {
		archive = bytes.Clone(archive)
		archive[len(archive)/2] ^= 0xff
	}
	if flaky {
		archive = archive[:len(archive)/2]
	}
	m, err := release.ParseManifest(sh.manifest)
	if err != nil {
		return nil, err
	}
	if s.slow != nil {
		s.slow(ctx, progress)
	}
	progress(agent.Progress{Step: "fetch", Done: int64(len(archive)), Total: a.Archive.Length})
	if err := release.Unpack(ctx, bytes.NewReader(archive), m, dir, release.UnpackOptions{}); err != nil {
		return nil, err
	}
	return sh.manifest, nil
}

func (s *source) refreshes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refreshed
}

func (s *source) put(path string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.docs[path] = agent.Document{Path: path, Bytes: data, Roles: []string{"test"}, KeyIDs: []string{"k1"}, AllKeyIDs: []string{"k1", "k2"}}
}

func (s *source) publish(sh *ship) {
	s.put(release.ReleasePath(sh.app, sh.version), sh.doc)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ships[sh.art.Archive.SHA256] = sh
}

func (s *source) set(f func(*source)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

// temper is how the processes of a release behave.
type temper struct {
	FailStart, HangStart, NeverReady bool
	// DiesAfter fails the unit so long after its start; ChurnsAfter restarts it.
	DiesAfter, ChurnsAfter time.Duration
}

type unitRun struct {
	Release   string    `json:"release"`
	Active    bool      `json:"active"`
	Limited   bool      `json:"limited"`
	PID       int       `json:"pid"`
	Failed    string    `json:"failed,omitempty"` // systemd's word for why it failed, if not its exit status
	StartedAt time.Time `json:"started_at"`
}

type armedGuard struct {
	Ticket   string        `json:"ticket"`
	Deadline time.Duration `json:"deadline"`
}

// supervisor is a service manager in memory: it runs what `current` names when a unit starts, from the unit files it read at
// its last reload. With a file it outlives the process, as the real one outlives the daemon.
type supervisor struct {
	mu      sync.Mutex
	file    string
	unitDir string
	appRoot string // <install>, below which every app has its own directory
	tempers map[string]temper
	// failing makes every call fail as an unreachable manager would; armFails only the guards.
	unreachable, armFails bool
	// tmp, if set, is where the manager makes a private directory for every service that it starts.
	tmp string
	// onJob, if set, runs before a job, without the lock.
	onJob func(verb, unit string)
	log   []string
	tasks []string
	// taskTakes is how long every task runs.
	taskTakes time.Duration
	exit      map[string]int // exit status of tasks by last argument

	supervised
}

type supervised struct {
	Loaded map[string]string     `json:"loaded"`
	Units  map[string]*unitRun   `json:"units"`
	Guards map[string]armedGuard `json:"guards"`
	Queued []string              `json:"queued"`
	Starts []string              `json:"starts"` // every release that ran, in order
	PID    int                   `json:"pid"`
}

func newSupervisor(dir, file string) *supervisor {
	s := &supervisor{
		file: file, unitDir: filepath.Join(dir, "units"), appRoot: filepath.Join(dir, "opt"), tempers: map[string]temper{}, exit: map[string]int{},
		supervised: supervised{Loaded: map[string]string{}, Units: map[string]*unitRun{}, Guards: map[string]armedGuard{}},
	}
	if data, err := os.ReadFile(file); err == nil {
		check(json.Unmarshal(data, &s.supervised))
	}
	return s
}

func (s *supervisor) save() {
	if s.file == "" {
		return
	}
	data, err := json.Marshal(s.supervised)
	check(err)
	check(os.WriteFile(s.file+".new", data, 0o600))
	check(os.Rename(s.file+".new", s.file))
}

type unreachableError struct{}

func (unreachableError) Error() string { return "the service manager does not answer" }
func (unreachableError) Kind() string  { return "systemd-unreachable" }

// enter begins a call: it takes the lock and says whether the manager answers. The caller unlocks.
func (s *supervisor) enter(what string) error {
	s.mu.Lock()
	s.log = append(s.log, what)
	if s.unreachable {
		return unreachableError{}
	}
	return nil
}

func (s *supervisor) set(f func(*supervisor)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
	s.save()
}

func (s *supervisor) Describe() string { return "a supervisor in memory" }

func (s *supervisor) Reload(context.Context) error {
	defer s.mu.Unlock()
	if err := s.enter("reload"); err != nil {
		return err
	}
	s.reload()
	s.save()
	return nil
}

func (s *supervisor) reload() {
	s.Loaded = map[string]string{}
	entries, _ := os.ReadDir(s.unitDir)
	for _, e := range entries {
		if data, err := os.ReadFile(filepath.Join(s.unitDir, e.Name())); err == nil {
			s.Loaded[e.Name()] = string(data)
		}
	}
}

func (s *supervisor) Job(ctx context.Context, verb, unit string) error {
	if s.onJob != nil {
		s.onJob(verb, unit)
	}
	defer s.mu.Unlock()
	if err := s.enter(verb + " " + unit); err != nil {
		return err
	}
	defer s.save()
	if verb == "stop" {
		delete(s.Units, unit)
		return nil
	}
	if verb == "start" && s.Units[unit] != nil && s.Units[unit].Active {
		return nil
	}
	if t := s.temper(unit); t.HangStart {
		s.mu.Unlock()
		<-ctx.Done()
		s.mu.Lock()
		return ctx.Err()
	}
	return s.run(unit)
}

// appOf finds whose unit it is: names begin with the app's.
func appOf(unit string) string {
	return strings.FieldsFunc(unit, func(r rune) bool { return r == '.' || r == '-' || r == '@' })[0]
}

// wouldRun is the release that a start of unit would run now.
func (s *supervisor) wouldRun(unit string) string {
	target, err := os.Readlink(filepath.Join(s.appRoot, appOf(unit), "current"))
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}

func (s *supervisor) temper(unit string) temper {
	version, _, _ := strings.Cut(s.wouldRun(unit), "-")
	return s.tempers[appOf(unit)+" "+version]
}

// run starts unit anew. A unit that failed refuses until its failure is reset, as start limits do.
func (s *supervisor) run(unit string) error {
	file := unit
	if stem, rest, ok := strings.Cut(unit, "@"); ok {
		file = stem + "@" + filepath.Ext(rest)
	}
	if _, ok := s.Loaded[file]; !ok {
		return fmt.Errorf("unit %s is not loaded", unit)
	}
	was := s.Units[unit]
	if was != nil && was.Limited {
		return fmt.Errorf("job for %s: start request repeated too quickly", unit)
	}
	if filepath.Ext(unit) != ".service" {
		s.Units[unit] = &unitRun{Active: true, StartedAt: time.Now()}
		return nil
	}
	id := s.wouldRun(unit)
	if id == "" {
		return fmt.Errorf("job for %s: no such program", unit)
	}
	if s.tmp != "" {
		if err := os.WriteFile(filepath.Join(s.tmp, unit+".tmp"), make([]byte, 1<<20), 0o600); err != nil {
			s.Units[unit] = &unitRun{Release: id, Failed: "resources"}
			return fmt.Errorf("job for %s: %w", unit, err)
		}
	}
	s.PID++
	s.Starts = append(s.Starts, id)
	s.Units[unit] = &unitRun{Release: id, Active: true, PID: s.PID, StartedAt: time.Now()}
	if s.temper(unit).FailStart {
		s.Units[unit].Active, s.Units[unit].Limited = false, true
		return fmt.Errorf("job for %s: failed", unit)
	}
	return nil
}

func (s *supervisor) StartNoBlock(_ context.Context, unit string) error {
	defer s.mu.Unlock()
	if err := s.enter("queue " + unit); err != nil {
		return err
	}
	s.Queued = append(s.Queued, unit)
	s.save()
	return nil
}

func (s *supervisor) Kill(_ context.Context, unit string) error {
	defer s.mu.Unlock()
	if err := s.enter("kill " + unit); err != nil {
		return err
	}
	delete(s.Units, unit)
	s.save()
	return nil
}

func (s *supervisor) ResetFailed(_ context.Context, unit string) error {
	defer s.mu.Unlock()
	if err := s.enter("reset " + unit); err != nil {
		return err
	}
	if u := s.Units[unit]; u != nil {
		u.Limited = false
	}
	s.save()
	return nil
}

func (s *supervisor) Instances(_ context.Context, template string) (names []string, err error) {
	defer s.mu.Unlock()
	if err := s.enter("instances of " + template); err != nil {
		return nil, err
	}
	stem, kind, _ := strings.Cut(template, "@.")
	for name := range s.Units {
		if strings.HasPrefix(name, stem+"@") && strings.HasSuffix(name, "."+kind) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

func (s *supervisor) Unit(_ context.Context, unit string) (health.UnitStatus, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unreachable {
		return health.UnitStatus{}, unreachableError{}
	}
	u := s.Units[unit]
	if u == nil {
		return health.UnitStatus{Load: "loaded", Active: "inactive", Sub: "dead"}, nil
	}
	version, _, _ := strings.Cut(u.Release, "-")
	t, age := s.tempers[appOf(unit)+" "+version], time.Since(u.StartedAt)
	st := health.UnitStatus{Load: "loaded", Active: "active", Sub: "running", MainPID: u.PID, InvocationID: fmt.Sprint("i", u.PID)}
	switch {
	case u.Failed != "":
		return health.UnitStatus{Load: "loaded", Active: "failed", Sub: "failed", Result: u.Failed}, nil
	case !u.Active, t.DiesAfter > 0 && age >= t.DiesAfter:
		u.Limited = true
		return health.UnitStatus{Load: "loaded", Active: "failed", Sub: "failed", Result: "exit-code", ExecStatus: 1}, nil
	case t.NeverReady:
		st.Active, st.Sub = "activating", "start"
	case t.ChurnsAfter > 0:
		st.NRestarts = int(age / t.ChurnsAfter)
	}
	return st, nil
}

func (s *supervisor) Run(_ context.Context, t agent.Task) (agent.TaskResult, error) {
	if s.taskTakes > 0 {
		time.Sleep(s.taskTakes)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	last := t.Command[len(t.Command)-1]
	s.tasks = append(s.tasks, last+" as "+t.User)
	if s.unreachable {
		return agent.TaskResult{}, unreachableError{}
	}
	return agent.TaskResult{Exit: s.exit[last], Output: "said " + last}, nil
}

func (s *supervisor) Arm(_ context.Context, g agent.Ticket, deadline time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unreachable || s.armFails {
		return unreachableError{}
	}
	s.log = append(s.log, "arm")
	s.Guards[g.Attempt] = armedGuard{Ticket: g.String(), Deadline: deadline}
	s.save()
	return nil
}

func (s *supervisor) Disarm(_ context.Context, _ release.App, attempt string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unreachable {
		return unreachableError{}
	}
	s.log = append(s.log, "disarm")
	delete(s.Guards, attempt)
	s.save()
	return nil
}

// powerOff ends every process and timer; powerOn reads unit files and starts what was queued and what the boot links want.
func (s *supervisor) powerOff() {
	s.set(func(s *supervisor) {
		s.Units, s.Guards, s.Loaded, s.Queued = map[string]*unitRun{}, map[string]armedGuard{}, map[string]string{}, nil
	})
}

func (s *supervisor) powerOn() {
	s.set(func(s *supervisor) {
		s.reload()
		wanted, _ := filepath.Glob(filepath.Join(s.unitDir, "*.wants", "*"))
		for _, w := range wanted {
			s.Queued = append(s.Queued, filepath.Base(w))
		}
		slices.Sort(s.Queued)
		for _, unit := range slices.Compact(s.Queued) {
			_ = s.run(unit)
		}
		s.Queued = nil
	})
}

// running is the release whose process the app's service has now, or "".
func (s *supervisor) running(app release.App) string {
	unit := app.String() + ".service"
	st, err := s.Unit(context.Background(), unit)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil || st.Active != "active" || s.Units[unit] == nil {
		return ""
	}
	return s.Units[unit].Release
}

func (s *supervisor) did() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log)
}

// clock is the host's time. A reboot gives it another boot and sets its boot time back.
type clock struct {
	mu       sync.Mutex
	boot     string
	bootedAt time.Time
	unsynced bool
	// seen, if set, is a file that keeps the newest time for the next process.
	seen string
}

func newClock() *clock { return &clock{boot: "boot-1", bootedAt: time.Now().Add(-time.Hour)} }

func (c *clock) Now() time.Time {
	c.note()
	return time.Now()
}

// note is called by the machine's step and by its watch at once.
func (c *clock) note() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen != "" {
		check(os.WriteFile(c.seen+".new", []byte(time.Now().Format(time.RFC3339Nano)), 0o600))
		check(os.Rename(c.seen+".new", c.seen)) // a kill finds the old time or the new one
	}
}

func (c *clock) Boot() time.Duration {
	c.note()
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.bootedAt)
}

func (c *clock) BootID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.boot
}

func (c *clock) Synchronised() bool { return !c.unsynced }

func (c *clock) reboot() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.boot, c.bootedAt = c.boot+"'", time.Now()
}
