package repository

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/keys"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// ApartField is the signed member of a deployment role's delegation by which requester and approver must differ. The targets
// keys put it there. Clients of TUF ignore it: publishers and signers hold to it.
const ApartField = "x-slipway-requester-apart"

func isApart(d *metadata.DelegatedRole) bool {
	yes, _ := d.UnrecognizedFields[ApartField].(bool)
	return yes
}

// setApart replaces the map: copies of a delegation share it.
func setApart(d *metadata.DelegatedRole, apart bool) {
	fields := maps.Clone(d.UnrecognizedFields)
	delete(fields, ApartField)
	if apart {
		if fields == nil {
			fields = map[string]any{}
		}
		fields[ApartField] = true
	}
	if len(fields) == 0 {
		fields = nil
	}
	d.UnrecognizedFields = fields
}

// dutyWords is the duty that a role's delegation adds to its keys and threshold.
func (s signers) dutyWords() string {
	if s.apart {
		return ", requester and approver must differ"
	}
	return ""
}

// checkDuties keeps authors and approvers apart where a role says so: a key of the app, or a person's other key of the same
// name, is not among its approvers. What a delegation says beyond that would be read by nobody, and is refused.
func checkDuties(t *metadata.TargetsType) error {
	if t.Delegations == nil {
		return nil
	}
	for i := range t.Delegations.Roles {
		d := &t.Delegations.Roles[i]
		for name, value := range d.UnrecognizedFields {
			if _, ok := value.(bool); name != ApartField || !ok || roleClass(d.Name) != classDeploy {
				return refuse("what is signed is understood", fmt.Sprintf("cannot delegate %s with %s: %v", d.Name, harmless(name), value), "leave it out")
			}
		}
		if !isApart(d) {
			continue
		}
		if err := checkAuthors(t, d.Name); err != nil {
			return err
		}
	}
	return nil
}

func checkAuthors(t *metadata.TargetsType, role string) error {
	_, app, err := splitDeploy(role)
	if err != nil {
		return err
	}
	approvers, err := delegatedSigners(t, role)
	if err != nil {
		return err
	}
	authors, err := delegatedSigners(t, AppRole(app))
	if err != nil {
		return err
	}
	for _, k := range approvers.keys {
		if slices.ContainsFunc(authors.keys, func(a keys.Public) bool { return a.Fingerprint() == k.Fingerprint() || samePerson(k, a.Name) }) {
			return refuse("author and approver differ", fmt.Sprintf("cannot let %s approve in %s: the same key or name signs the releases of %s", k, role, app),
				"take it out of one of the two roles, or lift the duty with role set --requester-apart=false")
		}
	}
	return nil
}

// samePerson goes by the name that a key carries in signed metadata: a person with two names is two people to us.
func samePerson(k keys.Public, name string) bool {
	return name != "" && strings.EqualFold(strings.TrimSpace(name), strings.TrimSpace(k.Name))
}

// requester is whoever asked for what the role signs anew in this change, by the signed document. A role that signs again what
// it has published decides nothing: then there is none.
func (c *Change) requester(s *state, role string) (name string, decides bool, err error) {
	if roleClass(role) != classDeploy {
		return "", false, nil
	}
	p, err := c.targets(role)
	if err != nil {
		return "", false, err
	}
	old, err := s.role(role)
	if err != nil {
		return "", false, err
	}
	for path, f := range p.doc.Targets {
		if old != nil && old.Targets[path] != nil && sameTarget(old.Targets[path], f) {
			continue
		}
		raw, err := readBounded(c.filePath(path), maxDocument)
		if err != nil {
			return "", false, fmt.Errorf("cannot read %s: %w", path, err)
		}
		doc, err := release.ParseDeployment(raw)
		if err != nil {
			return "", false, err
		}
		return doc.RequestedBy, true, nil
	}
	return "", false, nil
}

// withoutRequester is who may sign role in this change: its signers, without whoever asked for it where the role keeps them
// apart. The threshold stays.
func (s signers) withoutRequester(c *Change, before *state) (signers, error) {
	if !s.apart {
		return s, nil
	}
	name, decides, err := c.requester(before, s.role)
	if err != nil || !decides {
		return s, err
	}
	if strings.TrimSpace(name) == "" {
		return s, refuse("requester and approver differ", fmt.Sprintf("cannot let anybody approve change %s: %s wants to know who asked for it, and it does not say", c.ID, s.role),
			"make it again with --requested-by WHO")
	}
	s.requester = name
	s.keys = slices.DeleteFunc(slices.Clone(s.keys), func(k keys.Public) bool { return samePerson(k, name) })
	return s, nil
}

// notRequester says why a key of the role may not sign this change.
func notRequester(by []signers, key keys.Public, change string) error {
	for _, s := range by {
		if s.requester != "" && samePerson(key, s.requester) {
			return refuse("requester and approver differ", fmt.Sprintf("cannot sign %s in change %s with %s: %s asked for it", s.role, change, key, harmless(s.requester)),
				"have another approver sign it")
		}
	}
	return nil
}

// knowsRequester asks early for what every signature would be refused without.
func (d *draft) knowsRequester(doc *release.Deployment) error {
	by, err := d.signersOf(DeployRole(doc.Environment, doc.App))
	if err != nil {
		return err
	}
	if by.apart && strings.TrimSpace(doc.RequestedBy) == "" {
		return refuse("requester and approver differ", fmt.Sprintf("cannot deploy %s to %s without a requester: %s keeps requester and approver apart", doc.App, doc.Environment, by.role),
			"name who asks for it with --requested-by WHO")
	}
	return nil
}
