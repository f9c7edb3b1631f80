package repository

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// The sizes that clients accept by default.
const (
	maxRoot      = 512_000
	maxTimestamp = 16_384
	maxSnapshot  = 2_000_000
)

// handmade is the remedy for what this tool never writes.
const handmade = "the change was made by hand or by another tool: look at who sent it, change abandon, and make it again with this one"

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// role is the content of a role once the plan is carried out; nil if it has none.
func (p *plan) role(role string) (*metadata.TargetsType, error) {
	if t := p.targets[role]; t != nil {
		return t, nil
	}
	return p.before.role(role)
}

// checkStructure holds every changed role against the rules that make delegations disjoint.
func (p *plan) checkStructure() error {
	now := p.r.utc()
	if !p.root.ConsistentSnapshot {
		return refuse("snapshots are consistent", "cannot publish a root without consistent snapshots", handmade)
	}
	if err := understood("root", p.root.UnrecognizedFields); err != nil {
		return err
	}
	for name, entry := range p.root.Roles {
		if err := understood("role "+name+" in root", entry.UnrecognizedFields); err != nil {
			return err
		}
	}
	if !p.root.Expires.After(now) {
		return refuse("what is published has not expired", fmt.Sprintf("cannot publish root: it expired %s", p.root.Expires), "renew root")
	}
	if p.rootRaw != nil {
		if err := p.checkLifetime(classRoot, p.root.Expires); err != nil {
			return err
		}
	}
	for role, t := range p.targets {
		if !t.Expires.After(now) {
			return refuse("what is published has not expired", fmt.Sprintf("cannot publish %s: it expired %s", role, t.Expires), "make the change again")
		}
		if err := p.checkLifetime(role, t.Expires); err != nil {
			return err
		}
		if err := understood(role, t.UnrecognizedFields); err != nil {
			return err
		}
		for path, f := range t.Targets {
			if f == nil || !ownsPath(role, path) {
				return refuse("a role signs its own paths", fmt.Sprintf("cannot publish %s: it lists %s", role, path), handmade)
			}
			if f.Custom != nil || len(f.UnrecognizedFields) > 0 {
				return refuse("what is signed is understood", fmt.Sprintf("cannot publish %s: %s carries more than its hash and its length", role, path), "leave it out")
			}
			if _, ok := f.Hashes["sha256"]; !ok || len(f.Hashes) != 1 || len(f.Hashes["sha256"]) != 32 || f.Length < 0 {
				return refuse("a target has one sha256", fmt.Sprintf("cannot publish %s: %s must have exactly one hash, of sha256", role, path), handmade)
			}
		}
		if role != classTargets && t.Delegations != nil {
			return refuse("only targets delegates", fmt.Sprintf("cannot publish %s: it delegates", role), handmade)
		}
	}
	if p.targets[classTargets] == nil {
		return nil
	}
	return p.checkDelegations(p.targets[classTargets])
}

// clockSkew is how much further ahead the clock of the machine that made a change may have been.
const clockSkew = time.Hour

// checkLifetime holds a signature against the policy: one that lasts for longer cannot be called back by letting it expire.
func (p *plan) checkLifetime(role string, expires time.Time) error {
	if p.policy == nil {
		return nil // a signer has none
	}
	allowed := p.policy.expiry(role)
	if latest := p.r.utc().Add(allowed.Std() + clockSkew); expires.After(latest) {
		return refuse("signatures last as long as the policy says",
			fmt.Sprintf("cannot publish %s: it expires %s, and policy.json gives it %s", role, expires.Format(time.RFC3339), allowed),
			"make the change again, or raise the expiry in policy.json")
	}
	return nil
}

// understood refuses members of signed metadata that no reader of ours knows: signers would not be told of them.
func understood(what string, unknown map[string]any) error {
	for _, name := range sortedKeys(unknown) {
		return refuse("what is signed is understood", fmt.Sprintf("cannot publish %s: it has a member %q that nothing here reads", what, harmless(name)), "leave it out")
	}
	return nil
}

func (p *plan) checkDelegations(t *metadata.TargetsType) error {
	if t.Delegations == nil {
		return nil
	}
	if t.Delegations.SuccinctRoles != nil {
		return refuse("delegations are named", "cannot publish targets: it has succinct roles", handmade)
	}
	if err := checkDuties(t); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, d := range t.Delegations.Roles {
		pattern, err := rolePattern(d.Name)
		if err != nil {
			return err
		}
		if seen[d.Name] || !d.Terminating || len(d.PathHashPrefixes) > 0 || !slices.Equal(d.Paths, []string{pattern}) {
			return refuse("patterns never overlap", fmt.Sprintf("cannot publish targets: delegation %s must be there once, terminating, for exactly %s", d.Name, pattern), handmade)
		}
		seen[d.Name] = true
		if err := p.checkDelegate(t, d.Name); err != nil {
			return err
		}
	}
	return p.checkNoneLost(seen)
}

// checkDelegate demands that what a role has published still verifies with the keys it is given now.
func (p *plan) checkDelegate(t *metadata.TargetsType, role string) error {
	s, err := delegatedSigners(t, role)
	if err != nil {
		return err
	}
	if n := len(distinct(slices.Clone(s.keys))); n < s.threshold || n < len(s.keys) {
		return refuse("one key, one vote", fmt.Sprintf("cannot publish targets: %s needs %d signatures and has %d different keys under %d ids", role, s.threshold, n, len(s.keys)), handmade)
	}
	v := p.before.version(role)
	if v == 0 || p.targets[role] != nil {
		return nil
	}
	old, err := p.before.role(classTargets)
	if err != nil {
		return err
	}
	if was, err := delegatedSigners(old, role); err == nil && sameSigners(was, s) {
		return nil
	}
	e, err := p.before.envelope(role, v)
	if err != nil {
		return err
	}
	text, err := canonical(e.Signed)
	if err != nil {
		return err
	}
	if have := len(s.valid(text, e.Signatures)); have < s.threshold {
		return refuse("new keys sign again", fmt.Sprintf("cannot publish targets: version %d of %s has %d of the %d signatures its new keys must give", v, role, have, s.threshold),
			"renew the role in the same change")
	}
	return nil
}

func sameSigners(a, b signers) bool { return sameKeys(a, b) && a.apart == b.apart }

func sameKeys(a, b signers) bool {
	if a.threshold != b.threshold || len(a.keys) != len(b.keys) {
		return false
	}
	for _, k := range a.keys {
		if other, ok := b.find(k); !ok || other.ID != k.ID {
			return false
		}
	}
	return true
}

// checkNoneLost keeps a role that hosts have seen in the snapshot: clients refuse a snapshot that forgets one.
func (p *plan) checkNoneLost(delegated map[string]bool) error {
	for _, role := range p.before.roles() {
		if role != classTargets && !delegated[role] {
			return refuse("a published role stays", "cannot publish targets: role "+role+" is no longer delegated", "keep the delegation; deploy the app as absent instead")
		}
	}
	return nil
}

// collectFiles finds every target file that the change's roles list anew, and what a new release pins beside itself.
func (p *plan) collectFiles(c *Change) error {
	for _, role := range c.Roles() {
		if role == classRoot {
			continue
		}
		old, err := p.before.role(role)
		if err != nil {
			return err
		}
		next := p.targets[role]
		for _, path := range sortedKeys(next.Targets) {
			sum, err := release.ParseDigest(next.Targets[path].Hashes["sha256"].String())
			if err != nil {
				return err
			}
			f := release.File{Path: path, SHA256: sum, Length: next.Targets[path].Length}
			if old != nil && old.Targets[path] != nil && sameTarget(old.Targets[path], next.Targets[path]) {
				continue
			}
			if old != nil && old.Targets[path] != nil && roleClass(role) == classApp {
				return refuse("a version is published once", "cannot change "+path+": it is published", "choose a new version")
			}
			if err := p.collectDocument(c, role, f); err != nil {
				return err
			}
		}
	}
	return nil
}

func sameTarget(a, b *metadata.TargetFiles) bool {
	return a.Length == b.Length && a.Hashes["sha256"].String() == b.Hashes["sha256"].String()
}

func (p *plan) collectDocument(c *Change, role string, f release.File) error {
	name, err := p.collect(c, f)
	if err != nil {
		return err
	}
	if role == classTargets {
		return nil
	}
	raw, err := readBounded(name, maxDocument)
	if err != nil {
		return fmt.Errorf("cannot read document: %w", err)
	}
	p.links = append(p.links, f.Path)
	switch roleClass(role) {
	case classApp:
		return p.collectRelease(c, f, raw)
	case classDeploy:
		if err := p.checkDeployment(f, raw); err != nil {
			return err
		}
		return p.checkPromotion(c, raw)
	case classEmergency:
		return p.checkEmergency(role, raw)
	}
	doc, err := release.ParseInventory(raw)
	if err == nil && InventoryRole(doc.Environment) != role {
		err = misplaced(f.Path, "it is for environment "+doc.Environment.String())
	}
	return err
}

// collect finds f in the change or, after an interrupted publish, in targets/, and hashes it.
func (p *plan) collect(c *Change, f release.File) (string, error) {
	name := storedName(f.Path, f.SHA256)
	p.stored = append(p.stored, name)
	stored := filepath.Join(p.r.targetsDir(), filepath.FromSlash(name))
	from := c.filePath(f.Path)
	if err := matches(from, f); err != nil {
		if !absent(err) {
			return "", err
		}
		if err := matches(stored, f); err != nil {
			return "", fmt.Errorf("cannot find %s in the change or among the published files: %w", f.Path, err)
		}
		return stored, nil
	}
	p.files = append(p.files, newFile{from: from, to: stored, file: f})
	return from, nil
}

func (p *plan) collectRelease(c *Change, f release.File, raw []byte) error {
	doc, err := release.ParseRelease(raw)
	if err != nil {
		return err
	}
	if release.ReleasePath(doc.App, doc.Version) != f.Path {
		return misplaced(f.Path, fmt.Sprintf("it is release %s %s", doc.App, doc.Version))
	}
	for _, pin := range pinned(doc) {
		if filepath.ToSlash(filepath.Clean(pin.Path)) != pin.Path || !filepath.IsLocal(pin.Path) {
			return misplaced(f.Path, fmt.Sprintf("it pins %q", pin.Path))
		}
		if _, err := p.collect(c, pin); err != nil {
			return err
		}
	}
	return nil
}

func misplaced(where, what string) error {
	return refuse("a document is for where it is listed", fmt.Sprintf("cannot publish %s: %s", where, what), handmade)
}

// checkDeployment holds a new deployment against the one in force and against the releases there are.
func (p *plan) checkDeployment(f release.File, raw []byte) error {
	doc, err := release.ParseDeployment(raw)
	if err != nil {
		return err
	}
	if release.DeploymentPath(doc.Environment, doc.App) != f.Path {
		return misplaced(f.Path, fmt.Sprintf("it is for %s in %s", doc.App, doc.Environment))
	}
	d := &draft{r: p.r, state: p.before}
	last, err := d.lastDeployment(doc.Environment, doc.App)
	if err != nil {
		return err
	}
	was := int64(0)
	if last != nil {
		was = last.Sequence
	}
	if err := p.checkNumber(counter{DeployRole(doc.Environment, doc.App), f.Path, "sequence"}, was, doc.Sequence); err != nil {
		return err
	}
	app, err := p.role(AppRole(doc.App))
	if err != nil {
		return err
	}
	for _, ref := range []*release.Reference{doc.Release, doc.Fallback} {
		if ref == nil {
			continue
		}
		if app == nil || app.Targets[ref.Path] == nil || app.Targets[ref.Path].Hashes["sha256"].String() != ref.SHA256.String() {
			return refuse("only published releases are deployed", fmt.Sprintf("cannot publish %s: %s with sha256 %s is not published", f.Path, ref.Path, ref.SHA256.Short()),
				"publish the release first, or in the same publish")
		}
	}
	return nil
}

// checkEmergency holds a new emergency document against the one in force.
func (p *plan) checkEmergency(role string, raw []byte) error {
	doc, err := release.ParseEmergency(raw)
	if err != nil {
		return err
	}
	if EmergencyRole(doc.Environment) != role {
		return misplaced(role, "it is for environment "+doc.Environment.String())
	}
	d := &draft{r: p.r, state: p.before}
	last, err := d.lastEmergency(doc.Environment)
	if err != nil {
		return err
	}
	was := int64(0)
	if last != nil {
		was = last.Epoch
	}
	return p.checkNumber(counter{role, release.EmergencyPath(doc.Environment), "epoch"}, was, doc.Epoch)
}
