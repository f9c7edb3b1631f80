package process

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/unit"
	"golang.org/x/sys/unix"
)

// errNotFound means that no file in the unit directory defines the unit.
var errNotFound = errors.New("no such unit file")

// spec is a unit file with its drop-ins, as far as this package follows it.
type spec struct {
	path    string
	content []byte // file and drop-ins, to notice edits

	typ, restart, killMode              string
	pre, start, reload, stop            []command
	env, envFiles                       []string
	dir, user, group                    string
	stateDirs, runtimeDirs              []string
	restartDelay, startTimeout, stopFor time.Duration
	limitInterval                       time.Duration
	limitBurst                          int
	killSignal                          syscall.Signal
	remain                              bool
	loadCreds, setCreds                 []string
	requires, sockets                   []string

	listen     []string
	fdName     string
	socketMode fs.FileMode
	service    string
}

// readUnit reads a unit and its drop-ins from dir. An instance a@b.service may come from a template a@.service.
func readUnit(dir, name string) (*spec, error) {
	if name != filepath.Base(name) {
		return nil, fmt.Errorf("cannot read unit %q: not a unit name", name)
	}
	template, instance := name, ""
	if at := strings.IndexByte(name, '@'); at >= 0 {
		template = name[:at+1] + filepath.Ext(name)
		instance = strings.TrimSuffix(name[at+1:], filepath.Ext(name))
	}
	path := filepath.Join(dir, name)
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		path = filepath.Join(dir, template)
		content, err = os.ReadFile(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNotFound
	}
	if err != nil {
		return nil, err
	}
	s := newSpec(path)
	parts := [][]byte{content}
	for _, conf := range dropIns(dir, name, template) {
		more, err := os.ReadFile(conf)
		if err != nil {
			return nil, err
		}
		parts = append(parts, more)
	}
	for _, part := range parts {
		if err := s.apply(part, name, instance); err != nil {
			return nil, fmt.Errorf("cannot use unit %s: %w", name, err)
		}
	}
	s.content = bytes.Join(parts, []byte{0})
	return s, s.check(name)
}

func newSpec(path string) *spec {
	return &spec{
		path: path, typ: "simple", restart: "no", killMode: "control-group", killSignal: syscall.SIGTERM,
		restartDelay: 100 * time.Millisecond, startTimeout: 90 * time.Second, stopFor: 90 * time.Second,
		limitInterval: 10 * time.Second, limitBurst: 5, socketMode: 0o666,
	}
}

func dropIns(dir string, names ...string) []string {
	var found []string
	for _, name := range slices.Compact(names) {
		more, _ := filepath.Glob(filepath.Join(dir, name+".d", "*.conf"))
		found = append(found, more...)
	}
	slices.SortFunc(found, func(a, b string) int { return strings.Compare(filepath.Base(a), filepath.Base(b)) })
	return found
}

func (s *spec) apply(content []byte, name, instance string) error {
	options, err := unit.DeserializeOptions(bytes.NewReader(content))
	if err != nil {
		return err
	}
	for _, o := range options {
		value := specifiers(o.Value, name, instance)
		if err := s.set(o.Section+"."+o.Name, value); err != nil {
			return fmt.Errorf("%s=: %w", o.Name, err)
		}
	}
	return nil
}

// specifiers replaces the few that release units use.
func specifiers(value, name, instance string) string {
	stem := strings.TrimSuffix(name, filepath.Ext(name))
	prefix, _, _ := strings.Cut(stem, "@")
	return strings.NewReplacer("%%", "%", "%n", name, "%N", stem, "%p", prefix, "%i", instance, "%I", instance).Replace(value)
}

// set applies one setting. Unknown ones are ignored: most are sandboxing that plain processes cannot have.
func (s *spec) set(key, value string) error {
	switch key {
	case "Unit.Requires", "Unit.BindsTo", "Unit.Wants":
		s.requires = append(s.requires, strings.Fields(value)...)
	case "Unit.StartLimitIntervalSec":
		return span(&s.limitInterval, value)
	case "Unit.StartLimitBurst":
		n, err := strconv.Atoi(value)
		s.limitBurst = n
		return err
	}
	section, name, _ := strings.Cut(key, ".")
	switch section {
	case "Service":
		return s.setService(name, value)
	case "Socket":
		return s.setSocket(name, value)
	}
	return nil
}

func (s *spec) setService(name, value string) error {
	texts := map[string]*string{
		"Type": &s.typ, "Restart": &s.restart, "KillMode": &s.killMode, "WorkingDirectory": &s.dir, "User": &s.user, "Group": &s.group,
	}
	spans := map[string]*time.Duration{"RestartSec": &s.restartDelay, "TimeoutStartSec": &s.startTimeout, "TimeoutStopSec": &s.stopFor}
	commands := map[string]*[]command{"ExecStartPre": &s.pre, "ExecStart": &s.start, "ExecReload": &s.reload, "ExecStop": &s.stop}
	lists := map[string]*[]string{"EnvironmentFile": &s.envFiles, "LoadCredential": &s.loadCreds, "SetCredential": &s.setCreds}
	words := map[string]*[]string{
		"Environment": &s.env, "StateDirectory": &s.stateDirs, "RuntimeDirectory": &s.runtimeDirs, "Sockets": &s.sockets,
	}
	switch {
	case texts[name] != nil:
		*texts[name] = value
	case spans[name] != nil:
		return span(spans[name], value)
	case name == "TimeoutSec":
		return errors.Join(span(&s.startTimeout, value), span(&s.stopFor, value))
	case commands[name] != nil:
		return appendCommand(commands[name], value)
	case lists[name] != nil:
		appendOrReset(lists[name], value, []string{value})
	case words[name] != nil:
		more, err := splitWords(value)
		appendOrReset(words[name], value, more)
		return err
	case name == "RemainAfterExit":
		s.remain = truth(value)
	case name == "KillSignal":
		return s.setSignal(value)
	}
	return nil
}

func (s *spec) setSocket(name, value string) error {
	switch name {
	case "ListenStream":
		appendOrReset(&s.listen, value, []string{value})
	case "ListenDatagram", "ListenSequentialPacket", "ListenFIFO", "ListenNetlink", "ListenSpecial", "ListenMessageQueue":
		return errors.New("plain processes know stream sockets only")
	case "Accept":
		if truth(value) {
			return errors.New("one process per connection is not supported with plain processes")
		}
	case "FileDescriptorName":
		s.fdName = value
	case "Service":
		s.service = value
	case "SocketMode":
		mode, err := strconv.ParseUint(value, 8, 12)
		s.socketMode = fs.FileMode(mode)
		return err
	}
	return nil
}

// setSignal takes SIGTERM, TERM or 15.
func (s *spec) setSignal(value string) error {
	if n, err := strconv.Atoi(value); err == nil {
		s.killSignal = syscall.Signal(n)
		return nil
	}
	s.killSignal = unix.SignalNum("SIG" + strings.TrimPrefix(value, "SIG"))
	if s.killSignal == 0 {
		return fmt.Errorf("%q is no signal", value)
	}
	return nil
}

func span(into *time.Duration, value string) error {
	d, err := parseSpan(value)
	*into = d
	return err
}

func truth(value string) bool {
	return slices.Contains([]string{"1", "yes", "y", "true", "t", "on"}, strings.ToLower(value))
}

// appendOrReset follows systemd: an empty assignment empties the list.
func appendOrReset(list *[]string, value string, more []string) {
	if value == "" {
		*list = nil
		return
	}
	*list = append(*list, more...)
}

func appendCommand(list *[]command, value string) error {
	if value == "" {
		*list = nil
		return nil
	}
	c, err := parseCommand(value)
	*list = append(*list, c)
	return err
}

// check refuses what this package cannot do, by name, instead of doing something else.
func (s *spec) check(name string) error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("cannot use unit %s as a plain process: "+format, append([]any{name}, args...)...)
	}
	switch filepath.Ext(name) {
	case ".socket":
		if len(s.listen) == 0 {
			return refuse("it has no ListenStream=")
		}
		return nil
	case ".target":
		return nil
	case ".service":
	default:
		return refuse("only services, sockets and targets are supported")
	}
	if !slices.Contains([]string{"simple", "exec", "notify", "oneshot"}, s.typ) {
		return refuse("Type=%s is not supported", s.typ)
	}
	if len(s.start) != 1 && s.typ != "oneshot" || len(s.start) == 0 {
		return refuse("it has %d ExecStart= lines, want 1", len(s.start))
	}
	return nil
}
