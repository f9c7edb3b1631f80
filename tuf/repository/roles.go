package repository

import (
	"fmt"
	"slices"
	"strings"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/keys"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// The classes of roles. A class has one kind of content, one pattern and one default expiry.
const (
	classRoot      = metadata.ROOT
	classTargets   = metadata.TARGETS
	classSnapshot  = metadata.SNAPSHOT
	classTimestamp = metadata.TIMESTAMP
	classApp       = "app"
	classDeploy    = "deploy"
	classEmergency = "emergency"
	classInventory = "inventory"
)

// AppRole signs the releases of an app.
func AppRole(a release.App) string { return classApp + "." + a.String() }

// DeployRole signs what runs in an environment, for one app: its threshold is the number of approvals.
func DeployRole(e release.Environment, a release.App) string {
	return classDeploy + "." + e.String() + "." + a.String()
}

// EmergencyRole signs an environment's stops.
func EmergencyRole(e release.Environment) string { return classEmergency + "." + e.String() }

// InventoryRole signs an environment's list of hosts.
func InventoryRole(e release.Environment) string { return classInventory + "." + e.String() }

func roleClass(role string) string {
	class, _, _ := strings.Cut(role, ".")
	return class
}

func topLevel(role string) bool {
	return role == classRoot || role == classTargets || role == classSnapshot || role == classTimestamp
}

func splitDeploy(role string) (release.Environment, release.App, error) {
	parts := strings.Split(role, ".")
	if len(parts) != 3 || parts[0] != classDeploy {
		return release.Environment{}, release.App{}, fmt.Errorf("cannot use role %q: it is not deploy.<environment>.<app>", role)
	}
	e, err := release.ParseEnvironment(parts[1])
	if err != nil {
		return release.Environment{}, release.App{}, err
	}
	a, err := release.ParseApp(parts[2])
	return e, a, err
}

// rolePattern is the only pattern a delegated role may have. Patterns of different roles cannot overlap: names hold no
// glob characters and no slash, and the first segment is the class.
func rolePattern(role string) (string, error) {
	class, rest, _ := strings.Cut(role, ".")
	switch class {
	case classApp:
		a, err := release.ParseApp(rest)
		if err != nil {
			return "", err
		}
		return "releases/" + a.String() + "/*/*", nil
	case classDeploy:
		e, a, err := splitDeploy(role)
		if err != nil {
			return "", err
		}
		return release.DeploymentPath(e, a), nil
	case classEmergency, classInventory:
		e, err := release.ParseEnvironment(rest)
		if err != nil {
			return "", err
		}
		if class == classEmergency {
			return release.EmergencyPath(e), nil
		}
		return release.InventoryPath(e), nil
	}
	return "", fmt.Errorf("cannot use role %q: want app.<app>, deploy.<environment>.<app>, emergency.<environment> or inventory.<environment>", role)
}

// ownsPath says whether role may list path.
func ownsPath(role, path string) bool {
	if role == classTargets {
		return strings.HasPrefix(path, "trust/")
	}
	pattern, err := rolePattern(role)
	if err != nil {
		return false
	}
	if roleClass(role) == classApp {
		_, _, err := release.ParseReleasePath(path)
		return err == nil && strings.HasPrefix(path, strings.TrimSuffix(pattern, "*/*"))
	}
	return pattern == path
}

// checkKeys refuses a set of keys that counts one key twice, cannot reach its threshold, or has no key to lose.
func checkKeys(role string, list []keys.Public, threshold int, noSpare string) error {
	seen := map[[32]byte]keys.Public{}
	ids := map[string]bool{}
	for _, k := range list {
		if other, ok := seen[k.Fingerprint()]; ok {
			return refuse("one key, one vote", fmt.Sprintf("cannot give %s key %s: it is the same key as %s", role, k, other), "leave one of them out")
		}
		if ids[k.ID] {
			return refuse("one key, one vote", fmt.Sprintf("cannot give %s two keys with id %s", role, k.ID), "leave one of them out")
		}
		seen[k.Fingerprint()], ids[k.ID] = k, true
	}
	switch {
	case len(list) == 0:
		return refuse("a role has keys", fmt.Sprintf("cannot make role %s without a key", role), "name at least one public key file")
	case threshold < 1 || threshold > len(list):
		return refuse("a threshold can be reached", fmt.Sprintf("cannot ask %s for %d signatures: it has %d keys", role, threshold, len(list)),
			fmt.Sprintf("give it more keys with --add-key (or --key), or a --threshold from 1 to %d", max(1, len(list)-1)))
	case threshold == len(list) && threshold > 1 && noSpare == "":
		return refuse("a key can be lost", fmt.Sprintf("cannot ask %s for %d of %d signatures: one lost key would end the role", role, threshold, len(list)),
			"add a key, lower the threshold, or say why with --allow-no-spare REASON")
	}
	return nil
}

// signers is who may sign a role and how many must.
type signers struct {
	role      string
	by        string
	keys      []keys.Public
	threshold int
	// apart says that whoever asked for a change of the role may not be among those who sign it.
	apart bool
	// requester is who was left out for that in one change.
	requester string
}

// find looks the key up by what it is: the id in metadata may differ from the id in the signer's own file.
func (s signers) find(p keys.Public) (keys.Public, bool) {
	i := slices.IndexFunc(s.keys, func(k keys.Public) bool { return k.Fingerprint() == p.Fingerprint() })
	if i < 0 {
		return keys.Public{}, false
	}
	return s.keys[i], true
}

// valid returns the distinct keys with a good signature over payload.
func (s signers) valid(payload []byte, sigs []signature) []keys.Public {
	var good []keys.Public
	for _, k := range s.keys {
		for _, sig := range sigs {
			if sig.KeyID == k.ID && k.Verify(payload, sig.Sig) == nil {
				good = append(good, k)
				break
			}
		}
	}
	return distinct(good)
}

func distinct(list []keys.Public) []keys.Public {
	seen := map[[32]byte]bool{}
	return slices.DeleteFunc(list, func(k keys.Public) bool {
		dup := seen[k.Fingerprint()]
		seen[k.Fingerprint()] = true
		return dup
	})
}

func collectKeys(role, by string, ids []string, threshold int, all map[string]*metadata.Key) (signers, error) {
	s := signers{role: role, by: by, threshold: threshold}
	for _, id := range ids {
		k, err := keys.FromTUF(id, all[id])
		if err != nil {
			return signers{}, fmt.Errorf("cannot read the keys of %s in %s: %w", role, by, err)
		}
		s.keys = append(s.keys, k)
	}
	if threshold < 1 {
		return signers{}, fmt.Errorf("cannot use role %s in %s: its threshold is %d", role, by, threshold)
	}
	return s, nil
}

func rootSigners(root *metadata.RootType, role string) (signers, error) {
	by := fmt.Sprintf("root version %d", root.Version)
	r := root.Roles[role]
	if r == nil {
		return signers{}, fmt.Errorf("cannot find role %s in %s", role, by)
	}
	return collectKeys(role, by, r.KeyIDs, r.Threshold, root.Keys)
}

func delegation(t *metadata.TargetsType, role string) *metadata.DelegatedRole {
	if t == nil || t.Delegations == nil {
		return nil
	}
	for i := range t.Delegations.Roles {
		if t.Delegations.Roles[i].Name == role {
			return &t.Delegations.Roles[i]
		}
	}
	return nil
}

func delegatedSigners(t *metadata.TargetsType, role string) (signers, error) {
	d := delegation(t, role)
	if d == nil {
		return signers{}, &UnknownRoleError{Role: role}
	}
	s, err := collectKeys(role, fmt.Sprintf("targets version %d", t.Version), d.KeyIDs, d.Threshold, t.Delegations.Keys)
	s.apart = isApart(d)
	return s, err
}

// delegate adds role to t with the pattern its name implies. A key that t lists already keeps the id it has there.
func delegate(t *metadata.TargetsType, role string, list []keys.Public, threshold int) error {
	pattern, err := rolePattern(role)
	if err != nil {
		return err
	}
	if t.Delegations == nil {
		t.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{}}
	}
	var ids []string
	for _, k := range list {
		id, err := listKey(t.Delegations.Keys, k)
		if err != nil {
			return err
		}
		ids = append(ids, id)
	}
	t.Delegations.Roles = append(t.Delegations.Roles, metadata.DelegatedRole{
		Name: role, KeyIDs: ids, Threshold: threshold, Terminating: true, Paths: []string{pattern},
	})
	slices.SortFunc(t.Delegations.Roles, func(a, b metadata.DelegatedRole) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

func listKey(all map[string]*metadata.Key, k keys.Public) (string, error) {
	for id, listed := range all {
		have, err := keys.FromTUF(id, listed)
		if err != nil {
			return "", err
		}
		if have.Fingerprint() == k.Fingerprint() {
			return id, nil
		}
		if id == k.ID {
			return "", fmt.Errorf("cannot list key %s: another key has the id %s", k, id)
		}
	}
	all[k.ID] = k.TUF()
	return k.ID, nil
}
