package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/api"
	"github.com/slipway-deploy/slipway/agent/server"
)

// The scripts in testdata are tests and manual at once. A script is commands, then files ("-- name --" and their text):
//
//	host FILE            start slipwayd's server with the fake host of that JSON file
//	after FILE           the state the fake host takes on once it has been asked for a change
//	slipway ARGS…        run a command; $DIR is the script's own directory
//	exit N               the last command's exit code; without this line it must have been 0
//	stdout|stderr TEXT   a regular expression the last command's stream must match; "! stdout TEXT": must not
//	is FILE              standard output is exactly that file
//	calls TEXT           the last change the fake host was asked for
//	file PATH TEXT       a file of the directory matches; "! file PATH": it is not there
//	stdin TEXT           what the next command reads, on what it takes for a terminal
//
// Scripts about a fleet have a real hub over a store in memory:
//
//	hub FILE             start a hub that knows the deployment of that JSON file
//	as NAME              be that operator from now on
//	turn HOST [back]     a host asks for its turn, forward if nothing else is said
//	finish HOST RESULT WHY…  it tells how its update ended
//	later DURATION       the hub's clock goes on
type script struct {
	t     *testing.T
	dir   string
	host  *scriptHost
	hub   *scriptHub
	files map[string]string

	stdin          string
	out, err       bytes.Buffer
	code, codeLine int
	where          string
}

func TestScripts(t *testing.T) {
	names, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(names) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) { runScript(t, name) })
	}
}

func runScript(t *testing.T, name string) {
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "slw") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	commands, files := split(string(data))
	s := &script{t: t, dir: dir, files: files}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i, line := range strings.Split(commands, "\n") {
		s.where = name + ":" + strconv.Itoa(i+1)
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			s.line(line)
		}
	}
	s.checkCode(0)
}

func split(text string) (string, map[string]string) {
	marker := regexp.MustCompile(`(?m)^-- (\S+) --\n`)
	at := marker.FindAllStringSubmatchIndex(text, -1)
	files := map[string]string{}
	if len(at) == 0 {
		return text, files
	}
	for i, m := range at {
		end := len(text)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		files[text[m[2]:m[3]]] = text[m[1]:end]
	}
	return text[:at[0][0]], files
}

func (s *script) line(line string) {
	line = strings.ReplaceAll(line, "$DIR", s.dir)
	not := strings.HasPrefix(line, "! ")
	verb, rest, _ := strings.Cut(strings.TrimPrefix(line, "! "), " ")
	rest = strings.TrimSpace(rest)
	switch verb {
	case "host":
		s.serve(rest)
	case "after":
		s.host.after = s.status(rest)
	case "slipway":
		s.checkCode(0)
		s.run(words(rest))
	case "exit":
		n, err := strconv.Atoi(rest)
		if err != nil {
			s.t.Fatal(err)
		}
		s.checkCode(n)
		s.codeLine = 0
	case "stdout":
		s.match(not, "standard output", s.out.String(), rest)
	case "stderr":
		s.match(not, "standard error", s.err.String(), rest)
	case "is":
		if got, want := strings.ReplaceAll(s.out.String(), s.dir, "$DIR"), s.files[rest]; got != want {
			s.t.Errorf("%s: standard output is\n%swant\n%s", s.where, got, want)
		}
	case "calls":
		if got := strings.TrimSpace(s.host.lastCall()); got != rest {
			s.t.Errorf("%s: the host was asked for %q, want %q", s.where, got, rest)
		}
	case "file":
		path, pattern, _ := strings.Cut(rest, " ")
		data, err := os.ReadFile(path)
		if not {
			if err == nil {
				s.t.Errorf("%s: %s is there", s.where, path)
			}
			return
		}
		s.match(false, path, string(data), pattern)
	case "stdin":
		s.stdin = rest + "\n"
	default:
		if !s.fleetLine(verb, rest) {
			s.t.Fatalf("%s: there is no command %q", s.where, verb)
		}
	}
}

func (s *script) match(not bool, what, text, pattern string) {
	s.t.Helper()
	re, err := regexp.Compile("(?ms)" + pattern)
	if err != nil {
		s.t.Fatalf("%s: %v", s.where, err)
	}
	if re.MatchString(text) == not {
		s.t.Errorf("%s: %s is\n%s\nwith pattern %s (not: %v)", s.where, what, text, pattern, not)
	}
}

// checkCode judges the last command's exit code, unless an exit line has done so.
func (s *script) checkCode(want int) {
	if s.codeLine != 0 && s.code != want {
		s.t.Errorf("%s: exit code %d, want %d\nstandard output: %s\nstandard error: %s", s.where, s.code, want, &s.out, &s.err)
	}
	s.codeLine = 0
}

// words splits like a shell with double quotes.
func words(line string) []string {
	var out []string
	for _, m := range regexp.MustCompile(`"([^"]*)"|(\S+)`).FindAllStringSubmatch(line, -1) {
		out = append(out, m[1]+m[2])
	}
	return out
}

// now is the moment of all scripts, in UTC so that printed clocks are the same everywhere.
var now = time.Date(2026, 3, 1, 14, 30, 0, 0, time.UTC)

func TestMain(m *testing.M) {
	time.Local = time.UTC
	os.Unsetenv("NO_COLOR")
	os.Exit(m.Run())
}

func (s *script) run(args []string) {
	s.t.Helper()
	s.out.Reset()
	s.err.Reset()
	s.t.Setenv("PATH", filepath.Join(s.dir, "bin"))
	c := &cli{in: strings.NewReader(s.stdin), out: &s.out, err: &s.err, now: func() time.Time { return now }, inTTY: s.stdin != ""}
	s.stdin = ""
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s.code = c.main(ctx, append([]string{"--socket", filepath.Join(s.dir, "s.sock"), "--config", filepath.Join(s.dir, "etc")}, args...))
	s.codeLine = 1
}

func (s *script) status(file string) api.Status {
	var st api.Status
	if err := json.Unmarshal([]byte(s.files[file]), &st); err != nil {
		s.t.Fatalf("%s: %v", s.where, err)
	}
	return st
}

func (s *script) serve(file string) {
	s.host = &scriptHost{status: s.status(file)}
	if err := json.Unmarshal([]byte(s.files[file]), &s.host.extra); err != nil {
		s.t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(s.dir, "s.sock"))
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	roles := server.Roles{Admin: server.Members{Users: []string{strconv.Itoa(os.Getuid())}}} // whoever runs the tests
	srv := server.New(server.Config{Host: s.host, Version: "dev", Now: func() time.Time { return now }, Roles: func() server.Roles { return roles }})
	go func() { done <- srv.Serve(ctx, l, server.Control) }()
	s.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	})
}
