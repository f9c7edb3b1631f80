package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipway-deploy/slipway/tuf/keys"
	"github.com/slipway-deploy/slipway/tuf/repository"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// ask finds the passphrase of a key file: the passphrase file if one is named, else the terminal.
func (t *tool) ask(file string) ([]byte, error) {
	if t.passphrase != "" {
		return firstLine(t.passphrase)
	}
	return t.prompt("Passphrase for " + file + ": ")
}

func firstLine(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read passphrase: %w", err)
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 {
		return nil, fmt.Errorf("cannot use passphrase file %s: its first line is empty", path)
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

// confirm asks a yes or no question; anything but yes is no.
func (t *tool) confirm(question string) (bool, error) {
	fmt.Fprintf(t.err, "%s [y/N] ", question)
	line, err := bufio.NewReader(t.in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("cannot read the answer: %w", err)
	}
	return slices.Contains([]string{"y", "yes"}, strings.ToLower(strings.TrimSpace(line))), nil
}

func publicKeys(paths []string) ([]keys.Public, error) {
	var out []keys.Public
	for _, p := range paths {
		k, err := keys.LoadPublic(p)
		if err != nil {
			return nil, err
		}
		out = append(out, k)
	}
	return out, nil
}

// person is whom signers ask and tell.
func (t *tool) person() keys.Person { return keys.Person{Passphrase: t.ask, Stderr: t.err} }

func (t *tool) signers(ctx context.Context, refs []string) ([]keys.Signer, error) {
	var out []keys.Signer
	for _, ref := range refs {
		s, err := keys.Open(ctx, ref, t.person())
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// online opens the online keys named by flag, else by the policy.
func (t *tool) online(ctx context.Context, r *repository.Repository, refs []string) ([]keys.Signer, error) {
	if len(refs) > 0 {
		return t.signers(ctx, refs)
	}
	p, err := r.Policy()
	if err != nil {
		return nil, err
	}
	if len(p.OnlineKeys) == 0 {
		return nil, usage("name the online key: --online-key FILE, or online_keys in policy.json")
	}
	return t.remembered(r, p.OnlineKeys)
}

// remembered opens key files that the repository names, in its policy or in a change. A repository comes by git or mail: it may
// point at a key, and must not bring a program to run.
func (t *tool) remembered(r *repository.Repository, refs []string) ([]keys.Signer, error) {
	var out []keys.Signer
	for _, ref := range refs {
		path, err := keys.FilePath(ref)
		if err != nil {
			return nil, err
		}
		if !filepath.IsAbs(path) {
			path = filepath.Join(r.Dir(), path)
		}
		s, err := keys.OpenFile(path, t.person())
		if err != nil {
			return nil, err
		}
		if _, ok := s.(*keys.External); ok && within(r.Dir(), path) {
			return nil, &repository.RefusedError{Rule: "a repository names no program to run",
				Reason: "cannot use external key " + path + ": it lies in the repository, which others write too",
				Remedy: "keep the file elsewhere, such as in /etc/slipway-repo, and name it there"}
		}
		out = append(out, s)
	}
	return out, nil
}

// within reports whether path leads into dir, links followed. What cannot be followed counts as within.
func within(dir, path string) bool {
	var real [2]string
	for i, p := range []string{dir, path} {
		abs, err := filepath.Abs(p)
		if err == nil {
			abs, err = filepath.EvalSymlinks(abs)
		}
		if err != nil {
			return true
		}
		real[i] = abs
	}
	rel, err := filepath.Rel(real[0], real[1])
	return err != nil || filepath.IsLocal(rel)
}

// changing is what every command that makes a change has in common.
type changing struct {
	sign   []string
	into   string
	author string
}

func (m *changing) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringArrayVar(&m.sign, "sign", nil, "key `file`, or exec:PROGRAM, to sign the change with at once (repeatable)")
	f.StringVar(&m.into, "change", "", "add to the open change with this `id`")
	f.StringVar(&m.author, "requested-by", "", "`who` asks for it, for the signers to see")
}

func (m *changing) origin() repository.Origin {
	return repository.Origin{RequestedBy: m.author, Into: m.into}
}

// make opens the signers first, so that a wrong passphrase leaves no half-signed change behind.
func (t *tool) make(ctx context.Context, m *changing, build func(*repository.Repository) (*repository.Change, error)) error {
	r, err := t.open()
	if err != nil {
		return err
	}
	signers, err := t.signers(ctx, m.sign)
	if err != nil {
		return err
	}
	c, err := build(r)
	if err != nil {
		return err
	}
	return t.signAndShow(ctx, r, c, signers)
}

func (t *tool) signAndShow(ctx context.Context, r *repository.Repository, c *repository.Change, signers []keys.Signer) error {
	if err := t.signHere(ctx, r, c, signers); err != nil {
		return fmt.Errorf("%w (change %s stays open)", err, c.ID)
	}
	return t.showChange(r, c)
}

type changeAnswer struct {
	ID       string                `json:"change"`
	Summary  string                `json:"summary"`
	Dir      string                `json:"dir"`
	Complete bool                  `json:"complete"`
	Progress []repository.Progress `json:"progress"`
}

func (t *tool) showChange(r *repository.Repository, c *repository.Change) error {
	progress, err := r.Progress(c)
	if err != nil {
		return err
	}
	a := changeAnswer{ID: c.ID, Summary: c.Summary, Dir: c.Dir(), Complete: true, Progress: progress}
	for _, p := range progress {
		a.Complete = a.Complete && p.Done()
	}
	a.Complete = a.Complete && !c.Empty()
	return t.answer(a, func(w io.Writer) {
		fmt.Fprintf(w, "%s\n  %s\n", a.ID, a.Summary)
		showPromotions(w, c)
		for _, p := range progress {
			fmt.Fprintf(w, "  %s (keys of %s)\n", p, p.By)
		}
		if c.Empty() {
			t.say("nothing is in it yet: add to it with --change %s", a.ID)
			return
		}
		if a.Complete {
			t.say("all signatures are there: run slipway-repo publish")
			return
		}
		t.say("not complete: run slipway-repo change sign %s --key FILE", a.ID)
	})
}
