package main

import (
	"bytes"
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"golang.org/x/term"
)

// ask finds the passphrase of a key file: the passphrase file if one is named, else the terminal.
func (t *tool) ask(file string) ([]byte, error) {
	if t.passphrase != "" {
		return firstLine(t.passphrase)
	}
	return t.prompt("Passphrase for " + file + ": ")
}

func (t *tool) newPassphrase(file string) ([]byte, error) {
	if t.passphrase != "" {
		return firstLine(t.passphrase)
	}
	first, err := t.prompt("New passphrase for " + file + ": ")
	if err != nil {
		return nil, err
	}
	second, err := t.prompt("The same again: ")
	if err != nil {
		return nil, err
	}
	if len(first) == 0 || subtle.ConstantTimeCompare(first, second) != 1 {
		return nil, usage("the passphrases differ or are empty: nothing was written")
	}
	return first, nil
}

func firstLine(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read passphrase: %w", err)
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 {
		return nil, fmt.Errorf("cannot use %s: its first line is empty", path)
	}
	return line, nil
}

func (t *tool) prompt(words string) ([]byte, error) {
	in, ok := t.in.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return nil, errors.New("there is no terminal to ask for a passphrase; use --passphrase-file or SLIPWAY_PASSPHRASE_FILE")
	}
	fmt.Fprint(t.err, words)
	line, err := term.ReadPassword(int(in.Fd()))
	fmt.Fprintln(t.err)
	return line, err
}

// hubUser is whom the package lets the hub run as.
const hubUser = "slipway-hub"

// giveToHub hands a directory that root made, and what is in it, to the user the hub runs as, if there is one.
func giveToHub(dir string) error {
	u, err := user.Lookup(hubUser)
	if os.Geteuid() != 0 || err != nil {
		return nil
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	entries, err3 := os.ReadDir(dir)
	if err := errors.Join(err1, err2, err3); err != nil {
		return fmt.Errorf("cannot hand %s to the user %s: %w", dir, hubUser, err)
	}
	paths := []string{dir}
	for _, e := range entries {
		paths = append(paths, filepath.Join(dir, e.Name()))
	}
	for _, p := range paths {
		if err := os.Lchown(p, uid, gid); err != nil {
			return fmt.Errorf("cannot hand %s to the user %s: %w", p, hubUser, err)
		}
	}
	return nil
}

// giveTreeToHub is giveToHub for everything below dir.
func giveTreeToHub(dir string) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return err
		}
		return giveToHub(path)
	})
}
