package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// InUse says for each directory why it must stay, in words; a directory it leaves out may go. An error means that it cannot
// be told, and then everything stays.
type InUse func(dirs []string) (map[string]string, error)

// LiveUsers finds the processes that use a directory: as working directory, root, program, mapped file, open file, or through
// a bind mount of their own. A process that ends during the look is none; one that we may not look into is an error, so
// pruning needs CAP_SYS_PTRACE and a /proc that hides nobody.
func LiveUsers(dirs []string) (map[string]string, error) { return liveUsers("/proc", dirs) }

func liveUsers(proc string, dirs []string) (map[string]string, error) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, fmt.Errorf("cannot list processes: %w", cause(err))
	}
	scan := &scan{proc: proc, dirs: dirs, users: map[string]string{}, mounts: map[string]bool{}}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if err := scan.process(pid); err != nil && !gone(err) {
			return nil, fmt.Errorf("cannot tell which files process %d uses: %w", pid, err)
		}
	}
	return scan.users, nil
}

type scan struct {
	proc   string
	dirs   []string
	users  map[string]string
	mounts map[string]bool // mount namespaces seen
}

func (s *scan) process(pid int) error {
	base := filepath.Join(s.proc, strconv.Itoa(pid))
	for _, name := range []string{"cwd", "root", "exe"} {
		if err := s.path(pid, name, filepath.Join(base, name)); err != nil && !gone(err) {
			return err
		}
	}
	for _, part := range []func(int, string) error{s.files, s.maps, s.mountinfo} {
		if err := part(pid, base); err != nil && !gone(err) {
			return err
		}
	}
	return nil
}

func (s *scan) path(pid int, what, link string) error {
	target, err := os.Readlink(link)
	if err == nil {
		s.match(pid, what, target)
	}
	return err
}

func (s *scan) match(pid int, what, path string) {
	for _, dir := range s.dirs {
		if s.users[dir] == "" && holds(path, filepath.Base(dir)) {
			s.users[dir] = fmt.Sprintf("process %d has it as %s", pid, what)
		}
	}
}

// holds looks for the directory's own name anywhere in path. The path a process shows depends on the links, mounts and root
// it came through; the name, with its digest, does not, so this can find too much but not too little.
func holds(path, name string) bool {
	return strings.Contains(path+"/", "/"+name+"/") || strings.HasSuffix(path, "/"+name+" (deleted)")
}

func (s *scan) files(pid int, base string) error {
	dir := filepath.Join(base, "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := s.path(pid, "open file "+e.Name(), filepath.Join(dir, e.Name())); err != nil && !gone(err) {
			return err
		}
	}
	return nil
}

// maps lines end in a path from their sixth field on; the path may hold spaces.
func (s *scan) maps(pid int, base string) error {
	data, err := os.ReadFile(filepath.Join(base, "maps"))
	if err != nil {
		return err
	}
	for line := range bytes.Lines(data) {
		if at := bytes.IndexByte(line, '/'); at >= 0 {
			s.match(pid, "mapped file", strings.TrimRight(string(line[at:]), "\n"))
		}
	}
	return nil
}

// mountinfo finds bind mounts, through which a process sees the tree under another name. Their fourth field is the path
// that was mounted, inside its filesystem.
func (s *scan) mountinfo(pid int, base string) error {
	namespace, err := os.Readlink(filepath.Join(base, "ns/mnt"))
	if err != nil || s.mounts[namespace] {
		return err
	}
	data, err := os.ReadFile(filepath.Join(base, "mountinfo"))
	if err != nil {
		return err
	}
	s.mounts[namespace] = true
	for line := range bytes.Lines(data) {
		fields := strings.Fields(string(line))
		if len(fields) < 5 {
			continue
		}
		s.match(pid, "mount at "+unescape(fields[4]), unescape(fields[3]))
	}
	return nil
}

// unescape undoes mountinfo's octal escapes.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) }
