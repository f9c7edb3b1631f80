package process

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// execution is the surroundings of a unit's processes: environment, identity, log, and for the main process its credentials
// and its readiness socket, which end with it.
type execution struct {
	env    []string
	dir    string
	cred   *syscall.Credential
	log    *os.File
	notify *net.UnixConn
	ready  chan struct{}
	once   sync.Once
	clean  []string
}

// prepare builds the surroundings. The main process alone gets credentials and a readiness socket.
func (c *Control) prepare(u *runtimeUnit, s *spec, isMain bool) (p *execution, err error) {
	p = &execution{ready: make(chan struct{})}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	p.log, err = os.OpenFile(c.logPath(u.name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return p, fmt.Errorf("cannot open the log of %s: %w", u.name, err)
	}
	var identity []string
	if p.cred, identity, err = credential(s.user, s.group); err != nil {
		return p, err
	}
	p.env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "INVOCATION_ID=" + u.invocation}, identity...)
	if err = p.setDir(s.dir); err != nil {
		return p, err
	}
	if err = c.directories(p, s); err != nil {
		return p, err
	}
	if isMain {
		if err = c.credentials(p, u, s); err != nil {
			return p, err
		}
		if s.typ == "notify" {
			if err = c.listenReady(p, u); err != nil {
				return p, err
			}
		}
	}
	p.env = append(p.env, s.env...)
	return p, p.readEnv(s.envFiles)
}

func (c *Control) logPath(unit string) string { return filepath.Join(c.cfg.State, "logs", unit+".log") }

// setDir checks WorkingDirectory=; a leading "-" makes an absent one fine.
func (p *execution) setDir(dir string) error {
	dir, optional := strings.CutPrefix(dir, "-")
	if dir == "" {
		p.dir = "/"
		return nil
	}
	if _, err := os.Stat(dir); err != nil && !optional {
		return fmt.Errorf("cannot use WorkingDirectory: %w", err)
	} else if err == nil {
		p.dir = dir
	}
	return nil
}

// directories makes StateDirectory= and RuntimeDirectory= below our own state, where no root is needed.
func (c *Control) directories(p *execution, s *spec) error {
	for variable, names := range map[string][]string{"STATE_DIRECTORY": s.stateDirs, "RUNTIME_DIRECTORY": s.runtimeDirs} {
		var paths []string
		for _, name := range names {
			if !filepath.IsLocal(name) {
				return fmt.Errorf("cannot make %s %q: it leaves its parent", variable, name)
			}
			path := filepath.Join(c.cfg.State, strings.ToLower(variable), name)
			if err := os.MkdirAll(path, 0o755); err != nil {
				return fmt.Errorf("cannot make %s: %w", variable, err)
			}
			if err := p.give(path); err != nil {
				return err
			}
			paths = append(paths, path)
		}
		if len(paths) > 0 {
			p.env = append(p.env, variable+"="+strings.Join(paths, ":"))
		}
	}
	return nil
}

func (p *execution) give(path string) error {
	if p.cred == nil {
		return nil
	}
	return os.Chown(path, int(p.cred.Uid), int(p.cred.Gid))
}

// credentials copies LoadCredential= and SetCredential= into a directory that only the service may read, gone when it ends.
func (c *Control) credentials(p *execution, u *runtimeUnit, s *spec) error {
	if len(s.loadCreds)+len(s.setCreds) == 0 {
		return nil
	}
	parent := filepath.Join(c.cfg.State, "credentials")
	if err := os.MkdirAll(parent, 0o711); err != nil {
		return fmt.Errorf("cannot keep credentials: %w", err)
	}
	dir, err := os.MkdirTemp(parent, u.name+"-")
	if err != nil {
		return fmt.Errorf("cannot keep credentials: %w", err)
	}
	p.clean = append(p.clean, dir)
	put := func(name string, data []byte) error {
		if name == "" || name != filepath.Base(name) {
			return fmt.Errorf("cannot load credential %q: not a file name", name)
		}
		path := filepath.Join(dir, name)
		return errors.Join(os.WriteFile(path, data, 0o400), p.give(path))
	}
	for _, line := range s.setCreds {
		name, text, _ := strings.Cut(line, ":")
		if err := put(name, []byte(text)); err != nil {
			return err
		}
	}
	for _, line := range s.loadCreds {
		name, path, _ := strings.Cut(line, ":")
		data, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("cannot load credential %s: %w", name, err)
		}
		if err := put(name, data); err != nil {
			return err
		}
	}
	p.env = append(p.env, "CREDENTIALS_DIRECTORY="+dir)
	return p.give(dir)
}

// readEnv adds EnvironmentFile= lines; a leading "-" makes an absent file fine.
func (p *execution) readEnv(files []string) error {
	for _, file := range files {
		file, optional := strings.CutPrefix(file, "-")
		data, err := os.ReadFile(file)
		if optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot read EnvironmentFile: %w", err)
		}
		for n, line := range strings.Split(string(data), "\n") {
			line = strings.TrimSpace(line)
			if line == "" || line[0] == '#' || line[0] == ';' {
				continue
			}
			name, value, ok := strings.Cut(line, "=")
			if !ok || !isName(name) {
				return fmt.Errorf("cannot read EnvironmentFile %s: line %d is not NAME=value", file, n+1)
			}
			p.env = append(p.env, name+"="+unquote(value))
		}
	}
	return nil
}

func unquote(value string) string {
	if n := len(value); n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
		return value[1 : n-1]
	}
	return value
}

// command is one process in these surroundings. Listeners arrive by the socket activation protocol; the shell in between only
// knows the process id that LISTEN_PID must name.
func (p *execution) command(what command, fds []passed) (*exec.Cmd, error) {
	args := what.expand(p.env)
	cmd := &exec.Cmd{Path: what.path, Args: args, Env: p.env, Dir: p.dir, Stdout: p.log, Stderr: p.log}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.cred}
	if p.notify != nil {
		cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+p.notify.LocalAddr().String())
	}
	if len(fds) == 0 {
		return cmd, nil
	}
	var names []string
	for _, fd := range fds {
		cmd.ExtraFiles = append(cmd.ExtraFiles, fd.file)
		names = append(names, fd.name)
	}
	cmd.Env = append(cmd.Env, fmt.Sprintf("LISTEN_FDS=%d", len(fds)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	cmd.Path = "/bin/sh"
	cmd.Args = append([]string{"sh", "-c", `export LISTEN_PID=$$; exec "$@"`, "sh", what.path}, args[1:]...)
	return cmd, nil
}

// listenReady opens the socket for READY=1 and STATUS=.
func (c *Control) listenReady(p *execution, u *runtimeUnit) error {
	dir, err := os.MkdirTemp("", "slipway-notify-")
	if err != nil {
		return fmt.Errorf("cannot listen for readiness: %w", err)
	}
	p.clean = append(p.clean, dir)
	path := filepath.Join(dir, "notify")
	p.notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("cannot listen for readiness: %w", err)
	}
	if err := errors.Join(p.give(dir), p.give(path)); err != nil {
		return err
	}
	go c.hear(p, u, p.notify)
	return nil
}

func (c *Control) hear(p *execution, u *runtimeUnit, conn *net.UnixConn) {
	buf := make([]byte, 8<<10)
	isReady := false
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		for _, line := range strings.Split(string(buf[:n]), "\n") {
			if text, ok := strings.CutPrefix(line, "STATUS="); ok {
				c.mu.Lock()
				u.said = text
				c.touch()
				c.mu.Unlock()
			}
			if line == "READY=1" && !isReady {
				isReady = true
				close(p.ready)
			}
		}
	}
}

// close ends what belongs to the main process. It may be called twice.
func (p *execution) close() {
	p.once.Do(func() {
		if p.log != nil {
			p.log.Close()
		}
		if p.notify != nil {
			p.notify.Close()
		}
		for _, path := range p.clean {
			os.RemoveAll(path)
		}
	})
}
