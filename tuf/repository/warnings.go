package repository

import (
	"fmt"
	"strings"

	"github.com/slipway-deploy/slipway/tuf/keys"
)

// Warnings says what is allowed and unwise about the signers that an open change brings: a role without a key to lose, and
// one key in several offices. What was so before the change is not repeated.
func (r *Repository) Warnings(c *Change) ([]string, error) {
	d, err := r.begin(Origin{Into: c.ID})
	if err != nil {
		return nil, err
	}
	names, err := d.roleNames()
	if err != nil {
		return nil, err
	}
	before := &draft{r: r, state: d.state}
	var all, fresh []signers
	for _, name := range names {
		now, err := d.signersOf(name)
		if err != nil {
			return nil, err
		}
		all = append(all, now)
		if d.state.published() {
			if was, err := before.signersOf(name); err == nil && sameSigners(was, now) {
				continue
			}
		}
		fresh = append(fresh, now)
	}
	return append(noSpare(fresh), offices(all, fresh)...), nil
}

// noSpare says it once for all deployment roles of an environment.
func noSpare(fresh []signers) []string {
	var out []string
	said := map[string]bool{}
	for _, s := range fresh {
		if s.threshold < len(s.keys) || s.role == classSnapshot || s.role == classTimestamp {
			continue
		}
		name := s.role
		if env, _, err := splitDeploy(s.role); err == nil {
			name = classDeploy + "." + env.String() + ".*"
		}
		text := fmt.Sprintf("%s has no spare key (%d of %d): if one is lost, %s must name another", name, s.threshold, len(s.keys), authorityOf(s.role))
		if !said[text] {
			out, said[text] = append(out, text), true
		}
	}
	return out
}

// authorityOf is whose keys name a role's keys.
func authorityOf(role string) string {
	switch {
	case role == classRoot:
		return "a new repository, pinned by hand on every host,"
	case topLevel(role):
		return classRoot
	}
	return classTargets
}

// offices warns of keys that sign for several offices, of which at least one changes.
func offices(all, fresh []signers) []string {
	var out []string
	seen := map[[32]byte]bool{}
	for _, s := range fresh {
		for _, k := range s.keys {
			if seen[k.Fingerprint()] {
				continue
			}
			seen[k.Fingerprint()] = true
			if roles, several := officesOf(k, all); several {
				out = append(out, fmt.Sprintf("key %s signs for several offices (%s): whoever has it is all of them", k, strings.Join(roles, ", ")))
			}
		}
	}
	return out
}

// officesOf lists the roles of a key. Root and targets are one office, so are snapshot and timestamp, and the deployment
// roles of all apps.
func officesOf(k keys.Public, all []signers) (roles []string, several bool) {
	offices := map[string]bool{}
	for _, s := range all {
		if _, ok := s.find(k); !ok {
			continue
		}
		roles = append(roles, s.role)
		switch class := roleClass(s.role); class {
		case classTargets:
			offices[classRoot] = true
		case classTimestamp:
			offices[classSnapshot] = true
		default:
			offices[class] = true
		}
	}
	return roles, len(offices) > 1
}
