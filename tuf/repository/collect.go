package repository

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/keys"
)

// NewChange opens a change with nothing in it yet, for other commands to add to: what belongs together is then signed and
// published together.
func (r *Repository) NewChange(ctx context.Context, title string, o Origin) (*Change, error) {
	if strings.TrimSpace(title) == "" || len(title) > 200 || title != harmless(title) {
		return nil, refuse("a change has a title", "cannot open a change without a title of one line and at most 200 bytes", "say what it is for")
	}
	if o.Into != "" {
		return nil, refuse("a change is opened once", "cannot open a change in a change", "leave --change out")
	}
	return r.change(ctx, "change", o, func(*draft) (string, error) { return title, nil })
}

// Collected is one signature that came back.
type Collected struct {
	Change string `json:"change"`
	Role   string `json:"role"`
	Key    string `json:"key"`
	// New is false for a signature that the change had already.
	New bool `json:"new"`

	c    *Change
	name string
	data []byte
}

// ForeignError means that a signature belongs to no open change, or is not one that counts.
type ForeignError struct{ File, Reason, Remedy string }

func (e *ForeignError) Error() string {
	return fmt.Sprintf("cannot collect %s: %s; %s", e.File, e.Reason, e.Remedy)
}

// BrokenRule is the rule in a few words.
func (e *ForeignError) BrokenRule() string { return "a signature is for exactly what it signs" }

// Kind is the class of the error for logs and metrics.
func (e *ForeignError) Kind() string { return "foreign-signature" }

// Collect brings signatures back into the open changes they were made for: from signature files, from directories of them, and
// from copies of change folders. Each must be a good signature over exactly the payload that an open change has, by a key
// that counts for it; one that is not makes Collect take none. A signature that is there already is no news and no error.
func (r *Repository) Collect(ctx context.Context, paths ...string) ([]Collected, error) {
	lock, err := r.edit(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	g := &gathering{r: r}
	if g.s, err = load(r.metadataDir()); err != nil {
		return nil, err
	}
	if g.open, err = r.Changes(); err != nil {
		return nil, err
	}
	for _, path := range paths {
		files, err := signatureFiles(path)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			if err := g.take(f); err != nil {
				return nil, err
			}
		}
	}
	for _, one := range g.out {
		if err := one.keep(); err != nil {
			return nil, err
		}
	}
	return g.out, nil
}

func (one Collected) keep() error {
	if !one.New {
		return nil
	}
	dir := filepath.Join(one.c.dir, "signatures")
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, one.name), one.data, 0o644)
}

// signatureFiles finds the signatures at path: itself, what lies in it, or what lies in the signatures of a change's folder.
func signatureFiles(path string) ([]string, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, fmt.Errorf("cannot collect: %w", err)
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	dir := path
	if sub, err := os.Lstat(filepath.Join(path, "signatures")); err == nil && sub.IsDir() {
		dir = filepath.Join(path, "signatures")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot collect: %w", err)
	}
	var out []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".json") && !strings.HasPrefix(e.Name(), ".") && e.Name() != changeName {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	if len(out) == 0 {
		return nil, &ForeignError{File: path, Reason: "there is no signature in it", Remedy: "give a signature file, or a change's folder that somebody has signed"}
	}
	return out, nil
}

// gathering judges every signature before the first one is kept.
type gathering struct {
	r    *Repository
	s    *state
	open []*Change
	out  []Collected
}

func (g *gathering) take(path string) error {
	foreign := func(reason, remedy string) error {
		return &ForeignError{File: path, Reason: harmless(reason), Remedy: remedy}
	}
	raw, err := readBounded(path, maxSignature)
	if err != nil {
		return fmt.Errorf("cannot collect: %w", err)
	}
	var f signatureFile
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return foreign("it is not a signature file: "+err.Error(), "give the file that change sign wrote into signatures/")
	}
	c, text, err := g.changeOf(f)
	if err != nil {
		return err
	}
	if c == nil {
		return foreign(fmt.Sprintf("no open change has the payload of %s that it signs (sha256 %s)", f.Role, f.Payload.Short()),
			"it was made for another change, or for a state of this one that was edited since: have the folder as it is now signed")
	}
	key, err := g.counts(c, f, text)
	if err != nil {
		return err
	}
	if key.IsZero() {
		return foreign(fmt.Sprintf("key %q does not sign %s in change %s, or its signature is not good", f.KeyID, f.Role, c.ID), "have it signed with change sign by a key that change status names")
	}
	one := Collected{Change: c.ID, Role: f.Role, Key: key.String(), New: true, c: c, name: f.Role + "." + key.ID + ".json"}
	if one.data, err = indent(f); err != nil {
		return fmt.Errorf("cannot encode signature: %w", err)
	}
	have, err := c.signatures(f.Role, text)
	if err != nil {
		return err
	}
	one.New = !slices.ContainsFunc(have, func(s signature) bool { return s.KeyID == key.ID && key.Verify(text, s.Sig) == nil }) &&
		!slices.ContainsFunc(g.out, func(o Collected) bool { return o.Change == one.Change && o.name == one.name })
	g.out = append(g.out, one)
	return nil
}

// changeOf finds the open change whose payload the signature is about.
func (g *gathering) changeOf(f signatureFile) (*Change, []byte, error) {
	for _, c := range g.open {
		if _, ok := c.Base[f.Role]; !ok {
			continue
		}
		text, err := c.canonicalOf(f.Role)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if release.Sum(text) == f.Payload {
			return c, text, nil
		}
	}
	return nil, nil, nil
}

// counts is the key of a good signature that counts towards a threshold of the role; zero otherwise.
func (g *gathering) counts(c *Change, f signatureFile, text []byte) (keys.Public, error) {
	authorities, err := g.r.authorities(g.s, nil, c, f.Role)
	if err != nil {
		return keys.Public{}, err
	}
	for _, by := range authorities {
		for _, k := range by.keys {
			if k.ID == f.KeyID && k.Verify(text, f.Sig) == nil {
				return k, nil
			}
		}
	}
	return keys.Public{}, nil
}
