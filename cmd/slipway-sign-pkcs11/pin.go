package main

import (
	"bytes"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/slipway-deploy/slipway/tuf/signer"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// pinVariable is the environment variable with the PIN. There is no flag for it: everybody can read command lines.
const pinVariable = "SLIPWAY_PKCS11_PIN"

// pinSource is where the PIN comes from: the file, else the environment, else the terminal.
type pinSource struct{ file string }

// asks reports whether a person is asked, who can read what the token says first.
func (p pinSource) asks() bool { return p.file == "" && os.Getenv(pinVariable) == "" }

func (p pinSource) read(token string) ([]byte, error) {
	pin := []byte(os.Getenv(pinVariable))
	var err error
	switch {
	case p.file != "":
		pin, err = pinFile(p.file)
	case p.asks():
		pin, err = terminal("PIN of token " + token + ": ")
	}
	if err == nil && len(pin) == 0 {
		err = fmt.Errorf("%w: the PIN is empty", signer.ErrRefused)
	}
	return pin, err
}

func pinFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read PIN: %w", err)
	}
	if signer.Exposed(info) {
		return nil, fmt.Errorf("cannot use PIN file %s: its mode %#o lets others read it; run chmod 600 %s", path, info.Mode().Perm(), path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read PIN: %w", err)
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	return bytes.TrimSuffix(line, []byte("\r")), nil
}

// terminal asks at the terminal itself, since standard input holds the request. A signal that ends the program meanwhile gives
// the terminal its echo back.
func terminal(words string) ([]byte, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("there is no terminal to ask for the PIN (%w); use --pin-file or %s", err, pinVariable)
	}
	defer func() { _ = tty.Close() }()
	fd := int(tty.Fd())
	before, err := term.GetState(fd)
	if err == nil {
		err = silence(fd)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot ask for the PIN: %w", err)
	}
	defer func() { _ = term.Restore(fd, before) }()
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(ends)
	go func() {
		<-ends
		_ = term.Restore(fd, before)
		os.Exit(signer.ExitRefused)
	}()
	fmt.Fprint(tty, words)
	pin, err := term.ReadPassword(fd)
	fmt.Fprintln(tty)
	if err != nil {
		return nil, fmt.Errorf("cannot read the PIN: %w", err)
	}
	return pin, nil
}

// silence stops the echo before the question is asked, for those who type ahead.
func silence(fd int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Lflag &^= unix.ECHO
	return unix.IoctlSetTermios(fd, unix.TCSETS, t)
}
