package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// The ceremonies in testdata are tests and manual at once. Each person has a machine: a directory with their own keys and their
// own pinned roots, which no other machine reads. What a line does:
//
//	== text              a heading, for people
//	include FILE         what another file says
//	on NAME              go to a machine
//	$ slipway-repo ARGS  run a command there
//	> TEXT               the output has this line, after the one expected before; … stands for anything
//	! TEXT               no line of the output matches
//	? N                  the last command's exit code; without this line it must have been 0
//	host NAME DIR        a host looks into a repository, and remembers what it saw; ? 1 says that it believes nothing new
//	id NAME              remember the change that the last output begins with or tells of, as $NAME
//	send FILE WHO:PATH   a file or folder travels to another machine, in place of what is there
//	edit FILE OLD => NEW somebody changes a file in transit; OLD and NEW are regular expression and replacement
//	link FILE TARGET     somebody puts a symbolic link in place of a file
//	delete FILE          somebody takes a file away
//	write FILE           followed by lines that begin with |: a file of that content
type ceremony struct {
	t        *testing.T
	dir      string
	where    string
	out      string
	code     int
	codeSeen bool
	pos      int
	names    map[string]string
	file     string
	included map[string]string
}

func TestCeremonies(t *testing.T) {
	names, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(names) == 0 {
		t.Fatal("no ceremonies", err)
	}
	included := map[string]string{}
	for _, name := range []string{"founded.inc", "running.inc"} {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		included[name] = string(text)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) { hold(t, name, string(text), included) })
	}
}

func hold(t *testing.T, name, text string, included map[string]string) {
	t.Setenv("SLIPWAY_PASSPHRASE_FILE", "")
	t.Setenv("SLIPWAY_REPOSITORY", "repo")
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	c := &ceremony{t: t, dir: t.TempDir(), codeSeen: true, names: map[string]string{}, included: included}
	c.read(name, text)
	c.exited()
}

func (c *ceremony) read(name, text string) {
	for i, line := range strings.Split(text, "\n") {
		c.where = name + ":" + strconv.Itoa(i+1)
		if other, ok := strings.CutPrefix(line, "include "); ok {
			c.read(other, c.included[other])
			continue
		}
		c.line(strings.TrimRight(line, " "))
		if c.t.Failed() {
			c.t.Fatalf("%s: the last command said (exit %d)\n%s", c.where, c.code, c.out)
		}
	}
}

func (c *ceremony) line(line string) {
	if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "==") {
		return
	}
	for name, value := range c.names {
		line = strings.ReplaceAll(line, "$"+name, value)
	}
	verb, rest, _ := strings.Cut(line, " ")
	if verb != "|" && strings.HasPrefix(verb, "|") {
		verb, rest = "|", strings.TrimPrefix(line, "|")
	}
	args := strings.Fields(rest)
	switch verb {
	case "on":
		c.goTo(rest)
	case "$":
		c.run(rest)
	case ">":
		c.expect(rest)
	case "!":
		if pattern(rest).MatchString(c.out) {
			c.t.Errorf("%s: the output has %q", c.where, rest)
		}
	case "?":
		if want, err := strconv.Atoi(rest); err != nil || want != c.code {
			c.t.Errorf("%s: exit %d, want %s", c.where, c.code, rest)
		}
		c.codeSeen = true
	case "id":
		c.names[rest] = regexp.MustCompile(`[0-9]{8}-[0-9]{6}-[a-z0-9.-]+-[0-9a-f]{4}`).FindString(c.out)
	case "host":
		c.exited()
		c.look(args[0], args[1])
	case "write":
		c.file = rest
		c.must(os.MkdirAll(filepath.Dir(rest), 0o755))
		c.must(os.WriteFile(rest, nil, 0o755))
	case "|":
		f, err := os.OpenFile(c.file, os.O_APPEND|os.O_WRONLY, 0)
		c.must(err)
		_, err = f.WriteString(rest + "\n")
		c.must(err)
		c.must(f.Close())
	default:
		c.tamper(verb, args, rest)
	}
}

func (c *ceremony) tamper(verb string, args []string, rest string) {
	switch verb {
	case "send":
		who, path, _ := strings.Cut(args[1], ":")
		c.copy(args[0], filepath.Join(c.dir, who, path))
	case "edit":
		name, change, _ := strings.Cut(rest, " ")
		was, now, _ := strings.Cut(change, " => ")
		for _, f := range c.glob(name) {
			data, err := os.ReadFile(f)
			c.must(err)
			next := regexp.MustCompile(was).ReplaceAll(data, []byte(now))
			if bytes.Equal(next, data) {
				c.t.Errorf("%s: nothing in %s matches %s", c.where, f, was)
			}
			c.must(os.Remove(f)) // what travelled may be a hard link here
			c.must(os.WriteFile(f, next, 0o644))
		}
	case "link":
		c.must(os.RemoveAll(args[0]))
		c.must(os.Symlink(args[1], args[0]))
	case "delete":
		for _, f := range c.glob(args[0]) {
			c.must(os.RemoveAll(f))
		}
	default:
		c.t.Fatalf("%s: there is no verb %q", c.where, verb)
	}
}

func (c *ceremony) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatalf("%s: %v", c.where, err)
	}
}

func (c *ceremony) glob(name string) []string {
	found, err := filepath.Glob(name)
	c.must(err)
	if len(found) == 0 {
		c.t.Fatalf("%s: there is no %s", c.where, name)
	}
	return found
}

func (c *ceremony) copy(from, to string) {
	for _, f := range c.glob(from) {
		dest := to
		if strings.HasSuffix(to, "/") || strings.ContainsAny(from, "*") {
			dest = filepath.Join(to, filepath.Base(f))
		}
		info, err := os.Stat(f)
		c.must(err)
		c.must(os.MkdirAll(filepath.Dir(dest), 0o755))
		c.must(os.RemoveAll(dest))
		if info.IsDir() {
			c.must(os.CopyFS(dest, os.DirFS(f)))
			continue
		}
		data, err := os.ReadFile(f)
		c.must(err)
		c.must(os.WriteFile(dest, data, info.Mode().Perm()))
	}
}

func (c *ceremony) goTo(name string) {
	home := filepath.Join(c.dir, name)
	c.must(os.MkdirAll(home, 0o755))
	c.t.Chdir(home)
	c.t.Setenv("SLIPWAY_TRUST", filepath.Join(home, "trust"))
}

func (c *ceremony) exited() {
	if !c.codeSeen && c.code != 0 {
		c.t.Fatalf("%s: the command before failed with %d\n%s", c.where, c.code, c.out)
	}
}

func (c *ceremony) run(line string) {
	c.exited()
	args := words(strings.TrimPrefix(line, "slipway-repo "))
	var both bytes.Buffer
	c.code = run(context.Background(), args, streams{in: strings.NewReader("y\n"), out: &both, err: &both})
	c.out, c.pos, c.codeSeen = both.String(), 0, false
}

// words splits a command line at spaces, but for those in double quotes.
func words(line string) []string {
	var out []string
	for i, part := range strings.Split(line, `"`) {
		if i%2 == 1 {
			out = append(out, part)
			continue
		}
		out = append(out, strings.Fields(part)...)
	}
	return out
}

func pattern(text string) *regexp.Regexp {
	return regexp.MustCompile(`(?m)^\s*` + strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(text)), "…", ".*") + `$`)
}

func (c *ceremony) expect(text string) {
	at := pattern(text).FindStringIndex(c.out[c.pos:])
	if at == nil {
		c.t.Errorf("%s: no line %q after what was expected before", c.where, text)
		return
	}
	c.pos += at[1]
}
