package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
)

// maxFile bounds a configuration file: whatever is larger is not one.
const maxFile = 256 << 10

// Load reads and validates everything below dir. Its error is Problems, complete; the Host is nil then.
func Load(dir string) (*Host, error) { return LoadCopy(dir, dir) }

// LoadCopy is Load of a copy of the configuration of original: files that are not configuration, such as the pinned root, are
// still looked for where the original has them.
func LoadCopy(dir, original string) (*Host, error) {
	l := &loader{dir: dir, host: defaults()}
	l.host.Repository.Root = filepath.Join(original, "root.json")
	l.readHost()
	l.readApps()
	if len(l.problems) > 0 {
		return nil, l.problems.sorted()
	}
	return l.host, nil
}

type loader struct {
	dir      string
	host     *Host
	problems Problems
}

func (l *loader) problem(file, format string, args ...any) {
	l.problems = append(l.problems, Problem{File: file, Message: fmt.Sprintf(format, args...)})
}

func (l *loader) readHost() {
	main := filepath.Join(l.dir, "slipway.toml")
	if _, err := os.Stat(main); errors.Is(err, fs.ErrNotExist) {
		l.problem(main, "there is no such file; run slipway init --root FILE --environment ENV")
		return
	}
	tree := l.tree(main)
	whole := tree != nil
	for _, file := range l.list("slipway.d") {
		over := l.tree(file)
		switch {
		case over == nil:
			whole = false
		case tree == nil:
			tree = over
		default:
			tree = merge(tree, over)
		}
	}
	if tree == nil {
		return
	}
	tree.file, tree.line, tree.col = main, 0, 0
	r := root(tree, &l.problems)
	readHost(r, l.host, whole)
}

func (l *loader) readApps() {
	for _, file := range l.list("apps.d") {
		name := strings.TrimSuffix(filepath.Base(file), ".toml")
		if err := CheckApp(name); err != nil {
			l.problem(file, "the file's name: %v", err)
			continue
		}
		if tree := l.tree(file); tree != nil {
			app := App{Enabled: true}
			readApp(root(tree, &l.problems), &app, &l.host.unsafe)
			l.host.Apps[name] = app
		}
	}
}

// list names the *.toml files of a directory in byte order. A directory that does not exist is empty.
func (l *loader) list(sub string) []string {
	dir := filepath.Join(l.dir, sub)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.problem(dir, "cannot be read: %v", reason(err))
	}
	var out []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".toml") && !strings.HasPrefix(e.Name(), ".") {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	sort.Strings(out)
	return out
}

// tree reads and parses one file; problems are noted and nil returned.
func (l *loader) tree(file string) *node {
	data, err := readFile(file)
	if err != nil {
		l.problem(file, "%v", err)
		return nil
	}
	l.host.Files = append(l.host.Files, file)
	n, p := parse(file, data)
	if p != nil {
		l.problems = append(l.problems, *p)
		return nil
	}
	return n
}

func readFile(file string) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot be opened: %v", reason(err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %v", reason(err))
	}
	if err := checkOwner(info); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %v", reason(err))
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("is larger than %s", formatSize(maxFile))
	}
	return data, nil
}

// checkOwner refuses files that somebody other than root and this process's user could write: whoever can edit them decides who
// is admin.
func checkOwner(info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return errors.New("is not a regular file")
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("can be written by others than its owner (mode %04o); run chmod go-w on it", info.Mode().Perm())
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("belongs to uid %d; it must belong to root", st.Uid)
	}
	return nil
}

func reason(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
