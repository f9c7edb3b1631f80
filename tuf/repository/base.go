package repository

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/release"
)

// baseName is the part of a change's folder that a signer verifies it against: an excerpt of the repository, in the
// repository's own layout, so that the client of the hosts and every reader of this package work on it unchanged.
const baseName = "base"

func (c *Change) baseDir() string { return filepath.Join(c.dir, baseName) }

// excerpt is what of a repository goes into a change's base.
type excerpt struct {
	r     *Repository
	s     *state
	c     *Change
	metas map[string]bool // names in metadata/, but for the timestamp
	files map[string]bool // stored names in targets/
}

// writeBase puts the published state that the change was made from into its folder, or brings it up to date there. Signatures
// do not cover it: each signer verifies it from their own root. The timestamp comes last, so that what is there belongs
// together at every moment.
func (c *Change) writeBase(r *Repository, s *state) error {
	if !s.published() {
		return nil
	}
	x := &excerpt{r: r, s: s, c: c, metas: map[string]bool{}, files: map[string]bool{}}
	if err := x.choose(); err != nil {
		return err
	}
	for _, name := range sortedKeys(x.metas) {
		if err := carry(filepath.Join(r.metadataDir(), name), filepath.Join(c.baseDir(), "metadata", name)); err != nil {
			return err
		}
	}
	for _, name := range sortedKeys(x.files) {
		name = filepath.FromSlash(name)
		if err := carry(filepath.Join(r.targetsDir(), name), filepath.Join(c.baseDir(), "targets", name)); err != nil {
			return err
		}
	}
	data, err := os.ReadFile(s.path(classTimestamp, 0))
	if err != nil {
		return fmt.Errorf("cannot read metadata: %w", err)
	}
	return durable.WriteFile(filepath.Join(c.baseDir(), "metadata", metaName(classTimestamp, 0)), data, 0o644)
}

// carry links or copies a file that never changes under its name. What is there under that name from an interrupted publish
// is replaced.
func carry(from, to string) error {
	if a, err := os.Stat(from); err == nil {
		if b, err := os.Lstat(to); err == nil && os.SameFile(a, b) {
			return nil
		}
	}
	if have, err := os.ReadFile(to); err == nil {
		if want, err := os.ReadFile(from); err == nil && bytes.Equal(have, want) {
			return nil
		}
	}
	return placeFile(source{path: from}, to)
}

func (x *excerpt) choose() error {
	for v := int64(1); v <= x.s.root.Version; v++ {
		x.metas[metaName(classRoot, v)] = true
	}
	x.metas[metaName(classSnapshot, x.s.snapshot.Version)] = true
	roles := append(x.c.Roles(), classTargets)
	retold, err := x.retold()
	if err != nil {
		return err
	}
	for _, role := range append(roles, retold...) {
		if role == classRoot {
			continue
		}
		if err := x.role(role); err != nil {
			return err
		}
	}
	return nil
}

// retold are the published roles whose signers the change's targets replace: whether their signatures still suffice is for
// the signers to see.
func (x *excerpt) retold() ([]string, error) {
	next, err := x.c.targets(classTargets)
	if err != nil || next == nil {
		return nil, err
	}
	old, err := x.s.role(classTargets)
	if err != nil || next.doc.Delegations == nil {
		return nil, err
	}
	var out []string
	for _, d := range next.doc.Delegations.Roles {
		was, err := delegatedSigners(old, d.Name)
		now, nerr := delegatedSigners(next.doc, d.Name)
		if err == nil && nerr == nil && !sameSigners(was, now) {
			out = append(out, d.Name)
		}
	}
	return out, nil
}

// role takes a role's metadata, and the documents that say what is in force; releases and their files stay behind.
func (x *excerpt) role(role string) error {
	v := x.s.version(role)
	if v > 0 {
		x.metas[metaName(role, v)] = true
	}
	class := roleClass(role)
	if class == classDeploy {
		env, app, err := splitDeploy(role)
		if err != nil {
			return err
		}
		// What a deployment is judged by.
		for _, other := range []string{AppRole(app), EmergencyRole(env), InventoryRole(env)} {
			if err := x.role(other); err != nil {
				return err
			}
		}
	}
	if v == 0 || class == classApp || class == classTargets {
		return nil
	}
	t, err := x.s.role(role)
	if err != nil {
		return err
	}
	for path, f := range t.Targets {
		sum, err := release.ParseDigest(f.Hashes["sha256"].String())
		if err != nil {
			return fmt.Errorf("cannot read the digest of %s: %w", path, err)
		}
		x.files[storedName(path, sum)] = true
	}
	return nil
}

// describe brings a change's base and words up to the published state. It changes nothing that is signed.
func (c *Change) describe(r *Repository, s *state) error {
	if err := c.writeBase(r, s); err != nil {
		return fmt.Errorf("cannot take the base into the change: %w", err)
	}
	words, err := r.words(s, c)
	if err != nil {
		return fmt.Errorf("cannot put the change into words: %w", err)
	}
	c.Words = words
	return nil
}

// retell holds a change that is about to be published against its words, which are kept. Of one that an interrupted publish has
// made visible there is nothing left to tell.
func (p *plan) retell(c *Change) error {
	if p.r.fresh(p.before, c) != nil {
		return nil
	}
	does, err := p.r.words(p.before, c)
	if err != nil {
		return fmt.Errorf("cannot publish %s: %w", c.ID, err)
	}
	if err := c.says(does); err != nil {
		return err
	}
	c.Words = does
	return nil
}

// rebase gives the open changes that still fit what is published now its base, and says which could not get it. To a signer who
// has seen the new state, the old base looks like a rollback. It is bookkeeping after the fact: nothing here may make a publish
// that got through look like one that failed.
func (p *plan) rebase() []string {
	s, err := load(p.r.metadataDir())
	if err != nil {
		return []string{err.Error()}
	}
	open, err := p.r.Changes()
	if err != nil {
		return []string{err.Error()}
	}
	var behind []string
	for _, c := range open {
		if len(c.Base) == 0 || p.r.fresh(s, c) != nil {
			continue
		}
		if err := c.moveTo(p.r, s); err != nil {
			behind = append(behind, c.ID+": "+err.Error())
		}
	}
	return behind
}

func (c *Change) moveTo(r *Repository, s *state) error {
	before := c.Words
	if err := c.describe(r, s); err != nil {
		return err
	}
	if before != nil && slices.EqualFunc(before.Roles, c.Words.Roles, RoleWords.equal) {
		return nil
	}
	return c.write()
}
