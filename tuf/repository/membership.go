package repository

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/keys"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// RoleOptions is what SetRole changes about a role; what is zero stays as it is.
type RoleOptions struct {
	Add []keys.Public
	// Remove names keys the role has: an id or fingerprint, eight or more characters of its beginning, or a name.
	Remove    []string
	Threshold *int
	// Expires is kept in policy.json for every later version. What the role has signed gets it in this change.
	Expires Period
	NoSpare string
	// Apart keeps the requester of a deployment from approving it.
	Apart *bool
	// Reason is for the people who sign, and for those who ask years later.
	Reason string
	// UseOnline replaces the online keys that policy.json remembers, once the change is published.
	UseOnline []string
	Origin    Origin
}

// SetRole opens a change of who signs a role, and how many must. It edits the metadata that delegates the role; when the
// signatures the role has would no longer verify, the role is part of the change, to be signed by its new keys.
func (r *Repository) SetRole(ctx context.Context, role string, o RoleOptions) (*Change, error) {
	if err := checkReason(o.Reason); err != nil {
		return nil, err
	}
	return r.change(ctx, "role", o.Origin, func(d *draft) (string, error) {
		d.useOnline(o.UseOnline)
		words, err := d.setRole(role, o)
		if err != nil {
			return "", err
		}
		return summary(role+": "+strings.Join(words, ", "), o.NoSpare, o.Reason), nil
	})
}

func summary(what, noSpare, reason string) string {
	if noSpare != "" {
		what += ", no spare key: " + noSpare
	}
	return what + ", because: " + reason
}

// checkReason keeps the summary one line: it is shown on the terminals of people who are about to sign.
func checkReason(text string) error {
	if strings.TrimSpace(text) == "" || len(text) > 200 || strings.ContainsFunc(text, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return refuse("keys change for a reason", "cannot change who signs without a reason of one line and at most 200 bytes", "say why with --reason TEXT")
	}
	return nil
}

func (d *draft) setRole(role string, o RoleOptions) ([]string, error) {
	was, err := d.signersOf(role)
	if err != nil {
		return nil, err
	}
	if o.Apart != nil && roleClass(role) != classDeploy {
		return nil, refuse("deployments have requesters", "cannot keep the requester apart in role "+role, "only roles deploy.ENVIRONMENT.APP have one")
	}
	next, words, err := was.with(o)
	if err != nil {
		return nil, err
	}
	expires := o.Expires != 0 && d.policy.expiry(role) != o.Expires
	if len(words) == 0 && !expires {
		return nil, refuse("a change changes something", "cannot set role "+role+": nothing would change",
			"name --add-key, --remove-key, --threshold, --requester-apart or --expires with another value; for fresh signatures use role renew")
	}
	if expires {
		words = append(words, "expires after "+o.Expires.String())
		if topLevel(role) {
			d.additions().Expiry[role] = o.Expires
		} else {
			d.additions().RoleExpiry[role] = o.Expires
		}
		d.policy.merge(d.add)
	}
	if !sameKeys(was, next) {
		if err := checkKeys(role, next.keys, next.threshold, o.NoSpare); err != nil {
			return nil, err
		}
	}
	if !sameSigners(was, next) {
		if err := d.checkApart(role, o.Add); err != nil {
			return nil, err
		}
		if err := d.appoint(next); err != nil {
			return nil, err
		}
	}
	if expires {
		err = d.expireAgain(role)
	}
	return words, err
}

// with is s after the options, and the difference in words.
func (s signers) with(o RoleOptions) (signers, []string, error) {
	next, words := s, []string{}
	next.keys = slices.Clone(s.keys)
	for _, name := range o.Remove {
		k, err := pick("role "+s.role, next.keys, name)
		if err != nil {
			return next, nil, err
		}
		next.keys = without(next.keys, k)
		words = append(words, "remove "+k.String())
	}
	for _, k := range o.Add {
		if other, ok := s.find(k); ok {
			return next, nil, refuse("one key, one vote", fmt.Sprintf("cannot add key %s to role %s: the role has it as %s (id %s)", k, s.role, other, other.ID), "leave it out")
		}
		next.keys = append(next.keys, k)
		words = append(words, "add "+k.String())
	}
	if o.Threshold != nil && *o.Threshold != s.threshold {
		next.threshold = *o.Threshold
	}
	if o.Apart != nil && *o.Apart != s.apart {
		next.apart = *o.Apart
	}
	if next.threshold != s.threshold || len(words) > 0 {
		words = append(words, fmt.Sprintf("%d of %d (was %d of %d)", next.threshold, len(next.keys), s.threshold, len(s.keys)))
	}
	if next.apart && !s.apart {
		words = append(words, "requester and approver must differ")
	} else if s.apart && !next.apart {
		words = append(words, "requester and approver may be one")
	}
	return next, words, nil
}

func without(list []keys.Public, gone keys.Public) []keys.Public {
	return slices.DeleteFunc(slices.Clone(list), func(k keys.Public) bool { return k.Fingerprint() == gone.Fingerprint() })
}

// pick finds the one key that is meant. A name proves nothing, so two keys of one name must be told apart by id.
func pick(where string, list []keys.Public, name string) (keys.Public, error) {
	var found []keys.Public
	for _, k := range list {
		sum := k.Fingerprint()
		mark := hex.EncodeToString(sum[:])
		long := len(name) >= 8 && (strings.HasPrefix(k.ID, name) || strings.HasPrefix(mark, name))
		if name != "" && (k.ID == name || k.Name == name || long) {
			found = append(found, k)
		}
	}
	if found = distinct(found); len(found) == 1 {
		return found[0], nil
	}
	have := make([]string, len(list))
	for i, k := range list {
		have[i] = fmt.Sprintf("%s (id %s)", k, k.ID)
	}
	return keys.Public{}, refuse("a key is named without doubt", fmt.Sprintf("cannot find key %q in %s: %d keys match", name, where, len(found)),
		"use the id of one of "+strings.Join(have, ", "))
}

// signersOf is who signs role as this draft would find them.
func (d *draft) signersOf(role string) (signers, error) {
	if topLevel(role) {
		root, err := d.peekRoot()
		if err != nil {
			return signers{}, err
		}
		return rootSigners(root, role)
	}
	targets, err := d.peek(classTargets)
	if err != nil {
		return signers{}, err
	}
	return delegatedSigners(targets, role)
}

func (d *draft) peekRoot() (*metadata.RootType, error) {
	if root, ok := d.docs[classRoot].(*metadata.RootType); ok {
		return root, nil
	}
	if d.into != nil {
		if p, err := d.into.root(); err != nil || p != nil {
			if err != nil {
				return nil, err
			}
			return p.doc, nil
		}
	}
	if d.state.root == nil {
		return nil, &UnknownRoleError{Role: classRoot}
	}
	return d.state.root, nil
}

// editRoot is edit for root.
func (d *draft) editRoot() (*metadata.RootType, error) {
	if root, ok := d.docs[classRoot].(*metadata.RootType); ok {
		return root, nil
	}
	for _, c := range d.open {
		if _, ok := c.Base[classRoot]; ok && (d.into == nil || c.ID != d.into.ID) {
			return nil, &ConflictError{Role: classRoot, Change: c.ID}
		}
	}
	old, err := d.peekRoot()
	if err != nil {
		return nil, err
	}
	root := *old
	root.Version, root.Expires, root.SpecVersion = d.state.version(classRoot)+1, d.r.expires(d.policy, classRoot), metadata.SPECIFICATION_VERSION
	root.Keys, root.Roles = map[string]*metadata.Key{}, map[string]*metadata.Role{}
	for id, k := range old.Keys {
		root.Keys[id] = k
	}
	for name, entry := range old.Roles {
		e := *entry
		root.Roles[name] = &e
	}
	d.docs[classRoot] = &root
	return &root, nil
}

// appoint writes the signers of a role into the metadata that delegates it.
func (d *draft) appoint(s signers) error {
	if topLevel(s.role) {
		root, err := d.editRoot()
		if err != nil {
			return err
		}
		entry := root.Roles[s.role]
		if entry.KeyIDs, err = listKeys(root.Keys, s.keys); err != nil {
			return err
		}
		entry.Threshold = s.threshold
		var used []string
		for _, e := range root.Roles {
			used = append(used, e.KeyIDs...)
		}
		forget(root.Keys, used)
		return d.signAgain(s.role)
	}
	targets, err := d.edit(classTargets)
	if err != nil {
		return err
	}
	entry := delegation(targets, s.role)
	if entry.KeyIDs, err = listKeys(targets.Delegations.Keys, s.keys); err != nil {
		return err
	}
	entry.Threshold = s.threshold
	setApart(entry, s.apart)
	var used []string
	for _, e := range targets.Delegations.Roles {
		used = append(used, e.KeyIDs...)
	}
	forget(targets.Delegations.Keys, used)
	return d.signAgain(s.role)
}

// listKeys keeps the ids of keys that are listed: signatures that exist count by id.
func listKeys(all map[string]*metadata.Key, list []keys.Public) ([]string, error) {
	var ids []string
	for _, k := range list {
		if have, err := keys.FromTUF(k.ID, all[k.ID]); err == nil && have.Fingerprint() == k.Fingerprint() {
			ids = append(ids, k.ID)
			continue
		}
		id, err := listKey(all, k)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func forget(all map[string]*metadata.Key, used []string) {
	for id := range all {
		if !slices.Contains(used, id) {
			delete(all, id)
		}
	}
}

// signAgain takes role along when the signatures it has been published with do not reach what its signers are now.
// Snapshot and timestamp are signed by every publish.
func (d *draft) signAgain(role string) error {
	v := d.state.version(role)
	if role == classSnapshot || role == classTimestamp || v == 0 || d.docs[role] != nil {
		return nil
	}
	if d.into != nil {
		if _, ok := d.into.Base[role]; ok {
			return nil
		}
	}
	by, err := d.signersOf(role)
	if err != nil {
		return err
	}
	e, err := d.state.envelope(role, v)
	if err != nil {
		return err
	}
	text, err := canonical(e.Signed)
	if err != nil {
		return err
	}
	if len(by.valid(text, e.Signatures)) < by.threshold {
		_, err = d.edit(role)
	}
	return err
}

// checkApart keeps the online keys from signing anything that a stolen server must not be able to sign.
func (d *draft) checkApart(role string, added []keys.Public) error {
	online := []string{classSnapshot, classTimestamp}
	others := online
	if slices.Contains(online, role) {
		all, err := d.roleNames()
		if err != nil {
			return err
		}
		others = slices.DeleteFunc(all, func(name string) bool { return slices.Contains(online, name) })
	}
	for _, other := range others {
		s, err := d.signersOf(other)
		if err != nil {
			return err
		}
		for _, k := range added {
			if _, ok := s.find(k); ok {
				return refuse("online keys sign nothing else", fmt.Sprintf("cannot add key %s to role %s: it signs %s", k, role, other),
					"make a separate key for snapshot and timestamp")
			}
		}
	}
	return nil
}

// expireAgain signs what role has published again, for the lifetime that the policy gives it now.
func (d *draft) expireAgain(role string) error {
	switch {
	case role == classRoot:
		_, err := d.editRoot()
		return err
	case role == classSnapshot || role == classTimestamp || d.state.version(role) == 0:
		return nil
	}
	_, err := d.edit(role)
	return err
}

// additions is what the change adds to policy.json.
func (d *draft) additions() *Policy {
	if d.add == nil {
		d.add = &Policy{Schema: policySchema}
	}
	if d.add.Expiry == nil {
		d.add.Expiry = map[string]Period{}
	}
	if d.add.RoleExpiry == nil {
		d.add.RoleExpiry = map[string]Period{}
	}
	if d.add.Environments == nil {
		d.add.Environments = map[release.Environment]*Template{}
	}
	return d.add
}

func (d *draft) useOnline(refs []string) {
	if len(refs) > 0 {
		d.additions().OnlineKeys = refs
	}
}
