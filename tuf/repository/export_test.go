package repository

import (
	"context"
	"fmt"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/keys"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Inflate publishes n releases that nobody can fetch, to have a large role without making n files.
func (r *Repository) Inflate(ctx context.Context, app release.App, n int, by keys.Signer, online []keys.Signer) error {
	s, err := load(r.metadataDir())
	if err != nil {
		return err
	}
	policy, err := r.Policy()
	if err != nil {
		return err
	}
	role := AppRole(app)
	doc := metadata.Targets(r.expires(policy, role)).Signed
	for i := range n {
		path := fmt.Sprintf("releases/%s/0.%d.0/release.json", app, i)
		sum := release.Sum([]byte(path)).Bytes()
		doc.Targets[path] = &metadata.TargetFiles{Length: 1000, Hashes: metadata.Hashes{"sha256": sum[:]}}
	}
	raw, err := encode(&doc)
	if err != nil {
		return err
	}
	text, err := canonical(raw)
	if err != nil {
		return err
	}
	sig, err := keys.Sign(ctx, by, text)
	if err != nil {
		return err
	}
	data, err := envelope{Signed: raw, Signatures: []signature{{KeyID: by.Public().ID, Sig: sig}}}.bytes()
	if err != nil {
		return err
	}
	p := &plan{r: r, before: s, root: s.root, policy: policy, targets: map[string]*metadata.TargetsType{role: &doc}, metas: map[string][]byte{role: data}}
	if err := p.signOnline(ctx, online); err != nil {
		return err
	}
	return p.edition().commit(s.dir)
}

// PatternOf is the pattern that a role of this name gets.
func PatternOf(role string) (string, error) { return rolePattern(role) }

// Owns says whether a role may list a path.
func Owns(role, path string) bool { return ownsPath(role, path) }

// Retell gives a change that was edited by hand the words of what it does now, as somebody does who forges the whole folder.
func (r *Repository) Retell(id string) error {
	c, err := r.Change(id)
	if err != nil {
		return err
	}
	s, err := load(r.metadataDir())
	if err != nil {
		return err
	}
	if err := c.describe(r, s); err != nil {
		return err
	}
	return c.write()
}

// CanonicalOf is what the signers of a role sign.
func CanonicalOf(c *Change, role string) ([]byte, error) { return c.canonicalOf(role) }
