package repository

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/keys"
)

// EnvironmentSetOptions is what SetEnvironment changes; what is zero stays as it is.
type EnvironmentSetOptions struct {
	Add []keys.Public
	// Remove names keys of the template: an id or fingerprint, eight or more characters of its beginning, or a name.
	Remove    []string
	Threshold *int
	// Expires is kept for every later version of every deployment role of the environment, and given to what they have signed.
	Expires   Period
	Freshness release.Duration
	// Emergency and Inventory give the environment a role that it has not had; SetRole changes one that is there.
	Emergency, Inventory []keys.Public
	// Apart keeps the requester of a deployment from approving it.
	Apart   *bool
	NoSpare string
	Reason  string
	Origin  Origin
}

// SetEnvironment opens one change of an environment's template and of every deployment role made from it. A role that was
// set apart with SetRole takes part in keys coming and leaving, and keeps its own threshold and expiry: no role is ever
// made weaker because another one is.
func (r *Repository) SetEnvironment(ctx context.Context, env release.Environment, o EnvironmentSetOptions) (*Change, error) {
	if err := checkReason(o.Reason); err != nil {
		return nil, err
	}
	return r.change(ctx, "env", o.Origin, func(d *draft) (string, error) {
		s := &setting{d: d, env: env, o: o}
		words, err := s.carryOut()
		if err != nil {
			return "", err
		}
		return summary("environment "+env.String()+": "+strings.Join(words, ", "), o.NoSpare, o.Reason), nil
	})
}

// setting is a change of an environment while it is prepared.
type setting struct {
	d     *draft
	env   release.Environment
	o     EnvironmentSetOptions
	was   signers
	next  signers
	words []string
}

func (s *setting) carryOut() ([]string, error) {
	t := s.d.policy.Environments[s.env]
	if t == nil {
		return nil, refuse("only what exists changes", "cannot set environment "+s.env.String()+": there is none in policy.json", "run env add "+s.env.String())
	}
	for _, c := range s.d.open {
		if c.Policy != nil && c.Policy.Environments[s.env] != nil && (s.d.into == nil || s.d.into.ID != c.ID) {
			return nil, &ConflictError{Role: "environment " + s.env.String(), Change: c.ID}
		}
	}
	s.was = signers{role: "environment " + s.env.String(), keys: t.Keys, threshold: t.Threshold, apart: t.Apart}
	var err error
	if s.next, s.words, err = s.was.with(RoleOptions{Add: s.o.Add, Remove: s.o.Remove, Threshold: s.o.Threshold, Apart: s.o.Apart}); err != nil {
		return nil, err
	}
	next := s.template(t)
	roles, err := s.roles()
	if err != nil {
		return nil, err
	}
	if err := s.found(); err != nil {
		return nil, err
	}
	if len(s.words) == 0 {
		return nil, refuse("a change changes something", "cannot set environment "+s.env.String()+": nothing would change",
			"name --add-key, --remove-key, --threshold, --requester-apart, --expires, --freshness, --emergency-key or --inventory-key with another value")
	}
	s.d.additions().Environments[s.env] = next
	s.d.policy.merge(s.d.add)
	return s.words, s.appoint(roles, next.Expiry != t.Expiry)
}

func (s *setting) template(t *Template) *Template {
	next := *t
	next.Keys, next.Threshold, next.Apart = s.next.keys, s.next.threshold, s.next.apart
	if !sameKeys(s.was, s.next) {
		next.NoSpare = ""
		if next.Threshold == len(next.Keys) && next.Threshold > 1 {
			next.NoSpare = s.o.NoSpare
		}
	}
	if s.o.Expires != 0 && s.o.Expires != t.Expiry {
		next.Expiry = s.o.Expires
		s.words = append(s.words, "deployments expire after "+s.o.Expires.String())
	}
	if s.o.Freshness != 0 && s.o.Freshness != t.Freshness {
		next.Freshness = s.o.Freshness
		s.words = append(s.words, "freshness "+s.o.Freshness.String())
	}
	return &next
}

// roles finds who shall sign each deployment role, and refuses with the names of all that would break.
func (s *setting) roles() ([]signers, error) {
	names, err := s.d.roleNames()
	if err != nil {
		return nil, err
	}
	var out []signers
	var first error
	var broken []string
	judge := func(by signers) {
		if err := checkKeys(by.role, by.keys, by.threshold, s.o.NoSpare); err != nil {
			broken = append(broken, fmt.Sprintf("%s would have %d of %d", by.role, by.threshold, len(by.keys)))
			if first == nil {
				first = err
			}
		}
	}
	if !sameKeys(s.was, s.next) {
		judge(s.next)
	}
	for _, name := range names {
		if !strings.HasPrefix(name, classDeploy+"."+s.env.String()+".") {
			continue
		}
		now, err := s.d.signersOf(name)
		if err != nil {
			return nil, err
		}
		next := s.follow(now)
		if !sameSigners(now, next) {
			judge(next)
		}
		out = append(out, next)
	}
	if first != nil {
		if len(broken) == 1 {
			return nil, first
		}
		return nil, refuse("a threshold can be reached", "cannot set environment "+s.env.String()+": "+strings.Join(broken, "; "),
			"add a key, lower the threshold, or, where it only lacks a spare key, say why with --allow-no-spare REASON")
	}
	if len(s.o.Add) > 0 {
		return out, s.d.checkApart(s.was.role, s.o.Add)
	}
	return out, nil
}

// follow is a role after the template's change.
func (s *setting) follow(now signers) signers {
	next := now
	next.keys = slices.DeleteFunc(slices.Clone(now.keys), func(k keys.Public) bool {
		_, had := s.was.find(k)
		_, has := s.next.find(k)
		return had && !has
	})
	for _, k := range s.o.Add {
		if _, ok := next.find(k); !ok {
			next.keys = append(next.keys, k)
		}
	}
	if s.o.Apart != nil {
		next.apart = *s.o.Apart
	}
	if now.threshold == s.was.threshold {
		next.threshold = s.next.threshold
	} else if s.next.threshold != s.was.threshold {
		s.words = append(s.words, fmt.Sprintf("%s keeps its own %d of %d", now.role, next.threshold, len(next.keys)))
	}
	return next
}

// found adds the emergency and the inventory role.
func (s *setting) found() error {
	for _, add := range []struct {
		role string
		keys []keys.Public
	}{{EmergencyRole(s.env), s.o.Emergency}, {InventoryRole(s.env), s.o.Inventory}} {
		if len(add.keys) == 0 {
			continue
		}
		targets, err := s.d.edit(classTargets)
		if err != nil {
			return err
		}
		if delegation(targets, add.role) != nil {
			return refuse("a role is added once", "cannot add role "+add.role+": it exists", "run role set "+add.role+" --add-key FILE.pub")
		}
		if err := checkKeys(add.role, add.keys, 1, ""); err != nil {
			return err
		}
		if err := s.d.checkApart(add.role, add.keys); err != nil {
			return err
		}
		if err := delegate(targets, add.role, add.keys, 1); err != nil {
			return err
		}
		s.words = append(s.words, fmt.Sprintf("add role %s, signed by any of %s", add.role, joinKeys(add.keys)))
	}
	return nil
}

func (s *setting) appoint(roles []signers, expires bool) error {
	changed := 0
	for _, next := range roles {
		now, err := s.d.signersOf(next.role)
		if err != nil {
			return err
		}
		if !sameSigners(now, next) {
			changed++
			if err := s.d.appoint(next); err != nil {
				return err
			}
		}
		if _, own := s.d.policy.RoleExpiry[next.role]; own && expires {
			s.words = append(s.words, next.role+" keeps its own expiry")
		} else if expires {
			if err := s.d.expireAgain(next.role); err != nil {
				return err
			}
		}
	}
	if changed > 0 {
		s.words = append(s.words, fmt.Sprintf("in %d deployment roles", changed))
	}
	return nil
}
