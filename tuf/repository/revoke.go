package repository

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/keys"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// RoleView is who signs a role, by which metadata, as published. Version is 0 and Expires zero while it has signed nothing.
type RoleView struct {
	Role      string        `json:"role"`
	By        string        `json:"by"`
	Threshold int           `json:"threshold"`
	Keys      []keys.Public `json:"keys"`
	Version   int64         `json:"version"`
	Expires   time.Time     `json:"expires,omitzero"`
}

// Roles describes the published roles of these names; none means every role, root first.
func (r *Repository) Roles(names ...string) ([]RoleView, error) {
	s, err := load(r.metadataDir())
	if err != nil {
		return nil, err
	}
	if !s.published() {
		return nil, refuse("the first change comes first", "cannot show roles: nothing is published yet", "sign and publish the repository's first change")
	}
	d := &draft{r: r, state: s}
	if len(names) == 0 {
		if names, err = d.roleNames(); err != nil {
			return nil, err
		}
	}
	out := []RoleView{}
	for _, name := range names {
		by, err := d.signersOf(name)
		if err != nil {
			return nil, err
		}
		row, err := roleRow(s, by)
		if err != nil {
			return nil, err
		}
		out = append(out, RoleView{Role: name, By: by.by, Threshold: by.threshold, Keys: by.keys, Version: row.Version, Expires: row.Expires})
	}
	return out, nil
}

// roleNames lists every role that somebody may sign, whether it has signed anything or not.
func (d *draft) roleNames() ([]string, error) {
	names := []string{classRoot, classTargets, classSnapshot, classTimestamp}
	targets, err := d.peek(classTargets)
	if err != nil || targets == nil || targets.Delegations == nil {
		return names, err
	}
	for _, role := range targets.Delegations.Roles {
		names = append(names, role.Name)
	}
	return names, nil
}

// RevokeOptions is which key goes, and what comes instead.
type RevokeOptions struct {
	// Key is an id or fingerprint, eight or more characters of its beginning, or a name.
	Key string
	// Replace takes its place in every role; zero leaves the roles with the keys they have left.
	Replace   keys.Public
	NoSpare   string
	Reason    string
	UseOnline []string
	Origin    Origin
}

// Revoke opens one change that takes a key out of every role and every environment's template that has it. What the key
// has signed and no longer verifies without it is in the change, for the others to sign. It is refused, with the names of
// the roles, when one would be left with too few keys.
func (r *Repository) Revoke(ctx context.Context, o RevokeOptions) (*Change, error) {
	if err := checkReason(o.Reason); err != nil {
		return nil, err
	}
	return r.change(ctx, "revoke", o.Origin, func(d *draft) (string, error) {
		d.useOnline(o.UseOnline)
		v := &revocation{d: d, o: o, envs: map[release.Environment]*Template{}}
		if err := v.find(); err != nil {
			return "", err
		}
		if err := v.check(); err != nil {
			return "", err
		}
		if err := v.checkOpen(); err != nil {
			return "", err
		}
		if err := v.carryOut(); err != nil {
			return "", err
		}
		words := "revoke " + v.key.String() + " in " + strings.Join(v.names(), ", ")
		if !o.Replace.IsZero() {
			words += ", replaced by " + o.Replace.String()
		}
		return summary(words, o.NoSpare, o.Reason), nil
	})
}

// revocation is a key's departure while it is prepared: every role and template that has the key, as it is now.
type revocation struct {
	d     *draft
	o     RevokeOptions
	key   keys.Public
	roles []signers
	envs  map[release.Environment]*Template
}

func (v *revocation) find() error {
	names, err := v.d.roleNames()
	if err != nil {
		return err
	}
	var all []keys.Public
	var roles []signers
	for _, name := range names {
		s, err := v.d.signersOf(name)
		if err != nil {
			return err
		}
		roles, all = append(roles, s), append(all, s.keys...)
	}
	for _, t := range v.d.policy.Environments {
		all = append(all, t.Keys...)
	}
	if v.key, err = pick("the repository", distinct(all), v.o.Key); err != nil {
		return err
	}
	for _, s := range roles {
		if _, ok := s.find(v.key); ok {
			v.roles = append(v.roles, s)
		}
	}
	for env, t := range v.d.policy.Environments {
		if _, ok := (signers{keys: t.Keys}).find(v.key); ok {
			v.envs[env] = t
		}
	}
	return nil
}

func (v *revocation) names() []string {
	var out []string
	for _, s := range v.roles {
		out = append(out, s.role)
	}
	for _, env := range sortedEnvironments(v.envs) {
		out = append(out, "the template of "+env.String())
	}
	return out
}

func sortedEnvironments(m map[release.Environment]*Template) []release.Environment {
	return slices.SortedFunc(maps.Keys(m), func(a, b release.Environment) int { return strings.Compare(a.String(), b.String()) })
}

// left is the keys after the revocation. A replacement that is there already does not count twice.
func (v *revocation) left(list []keys.Public) []keys.Public {
	next := without(list, v.key)
	if _, ok := (signers{keys: list}).find(v.o.Replace); !ok && !v.o.Replace.IsZero() {
		next = append(next, v.o.Replace)
	}
	return next
}

// check names every role at once: whoever revokes a stolen key has no time to find them one by one.
func (v *revocation) check() error {
	if !v.o.Replace.IsZero() && v.o.Replace.Fingerprint() == v.key.Fingerprint() {
		return refuse("a revoked key is gone", fmt.Sprintf("cannot replace key %s by itself", v.key), "make a new key with key gen")
	}
	var broken, bare []string
	judge := func(name string, list []keys.Public, threshold int) {
		next := len(v.left(list))
		switch {
		case next < threshold:
			broken = append(broken, fmt.Sprintf("%s needs %d and would have %d", name, threshold, next))
		case next == threshold && threshold > 1 && next < len(list) && v.o.NoSpare == "":
			bare = append(bare, fmt.Sprintf("%s needs %d and would have %d", name, threshold, next))
		}
	}
	for _, s := range v.roles {
		judge(s.role, s.keys, s.threshold)
		if err := v.checkReplacement(s.role); err != nil {
			return err
		}
	}
	for _, env := range sortedEnvironments(v.envs) {
		judge("the template of "+env.String(), v.envs[env].Keys, v.envs[env].Threshold)
	}
	if len(broken) > 0 {
		return refuse("a threshold can be reached", fmt.Sprintf("cannot revoke key %s: too few keys would be left: %s", v.key, strings.Join(append(broken, bare...), "; ")),
			"name its successor with --replace-with FILE.pub, or add keys to those roles first with role set")
	}
	if len(bare) > 0 {
		return refuse("a key can be lost", fmt.Sprintf("cannot revoke key %s: no key could be lost after that: %s", v.key, strings.Join(bare, "; ")),
			"name its successor with --replace-with FILE.pub, or say why with --allow-no-spare REASON")
	}
	return nil
}

func (v *revocation) checkReplacement(role string) error {
	if v.o.Replace.IsZero() {
		return nil
	}
	return v.d.checkApart(role, []keys.Public{v.o.Replace})
}

// checkOpen refuses beside an open change that would give the key a role again.
func (v *revocation) checkOpen() error {
	for _, c := range v.d.open {
		if v.d.into != nil && v.d.into.ID == c.ID {
			continue
		}
		role, err := v.givenBy(c)
		if err != nil {
			return err
		}
		if role != "" {
			return &ConflictError{Role: role, Change: c.ID}
		}
	}
	return nil
}

func (v *revocation) givenBy(c *Change) (string, error) {
	root, err := c.root()
	if err != nil {
		return "", err
	}
	targets, err := c.targets(classTargets)
	if err != nil {
		return "", err
	}
	switch {
	case root != nil && v.listed(root.doc.Keys):
		return classRoot, nil
	case targets != nil && targets.doc.Delegations != nil && v.listed(targets.doc.Delegations.Keys):
		return classTargets, nil
	case c.Policy == nil:
		return "", nil
	}
	for env, t := range c.Policy.Environments {
		if _, ok := (signers{keys: t.Keys}).find(v.key); ok || v.envs[env] != nil {
			return "environment " + env.String(), nil
		}
	}
	return "", nil
}

func (v *revocation) listed(all map[string]*metadata.Key) bool {
	for id, k := range all {
		if have, err := keys.FromTUF(id, k); err == nil && have.Fingerprint() == v.key.Fingerprint() {
			return true
		}
	}
	return false
}

func (v *revocation) carryOut() error {
	for _, s := range v.roles {
		s.keys = v.left(s.keys)
		if err := v.d.appoint(s); err != nil {
			return err
		}
	}
	for env, t := range v.envs {
		next := *t
		next.Keys = v.left(t.Keys)
		if next.Threshold == len(next.Keys) && next.Threshold > 1 && next.NoSpare == "" {
			next.NoSpare = v.o.NoSpare
		}
		v.d.additions().Environments[env] = &next
	}
	return nil
}
