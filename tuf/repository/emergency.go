package repository

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

// EmergencyOptions is what EditEmergency changes about an environment's emergency document.
type EmergencyOptions struct {
	Add []release.EmergencyEntry
	// Lift are positions in the document that is in force, counted from 1.
	Lift []int
	// Epoch is the epoch whose positions Lift means; zero means the one in force. A document that changed meanwhile is refused.
	Epoch  int64
	Reason string
	Origin Origin
}

// Emergency reads the emergency document that is in force in an environment: nil if nothing was ever signed there.
func (r *Repository) Emergency(env release.Environment) (*release.Emergency, error) {
	s, err := load(r.metadataDir())
	if err != nil {
		return nil, err
	}
	d := &draft{r: r, state: s}
	if err := d.hasRole(EmergencyRole(env)); err != nil {
		return nil, err
	}
	return d.lastEmergency(env)
}

// hasRole says how to add a role of an environment that is not there.
func (d *draft) hasRole(role string) error {
	targets, err := d.peek(classTargets)
	if err != nil {
		return err
	}
	if delegation(targets, role) == nil {
		class, env, _ := strings.Cut(role, ".")
		return refuse("a document has a role", "cannot find role "+role, fmt.Sprintf("add it with env set %s --%s-key FILE.pub --reason WHY, signed by the targets keys", env, class))
	}
	return nil
}

func (d *draft) lastEmergency(env release.Environment) (*release.Emergency, error) {
	raw, err := d.document(EmergencyRole(env), release.EmergencyPath(env))
	if err != nil || raw == nil {
		return nil, err
	}
	return release.ParseEmergency(raw)
}

// EmergencyEnvironments lists the environments that have emergency keys, by name.
func (r *Repository) EmergencyEnvironments() ([]release.Environment, error) {
	s, err := load(r.metadataDir())
	if err != nil {
		return nil, err
	}
	d := &draft{r: r, state: s}
	names, err := d.roleNames()
	if err != nil {
		return nil, err
	}
	var out []release.Environment
	for _, name := range names {
		if roleClass(name) != classEmergency {
			continue
		}
		env, err := release.ParseEnvironment(name[len(classEmergency)+1:])
		if err != nil {
			return nil, err
		}
		out = append(out, env)
	}
	return out, nil
}

// EditEmergency opens a change with the environment's next emergency document: the entries in force, without those that are
// lifted or have lapsed, and the new ones. Its epoch is one higher.
func (r *Repository) EditEmergency(ctx context.Context, env release.Environment, o EmergencyOptions) (*Change, error) {
	return r.change(ctx, "emergency", o.Origin, func(d *draft) (string, error) {
		if err := d.hasRole(EmergencyRole(env)); err != nil {
			return "", err
		}
		last, err := d.lastEmergency(env)
		if err != nil {
			return "", err
		}
		doc, words, err := d.nextEmergency(env, last, o)
		if err != nil {
			return "", err
		}
		if err := d.putEmergency(doc); err != nil {
			return "", err
		}
		return fmt.Sprintf("emergency %s, epoch %d: %s", env, doc.Epoch, strings.Join(words, "; ")), nil
	})
}

func (d *draft) putEmergency(doc *release.Emergency) error {
	raw, err := release.Encode(doc)
	if err != nil {
		return err
	}
	return d.put(EmergencyRole(doc.Environment), release.EmergencyPath(doc.Environment), release.Sum(raw), int64(len(raw)), source{data: raw})
}

func (d *draft) nextEmergency(env release.Environment, last *release.Emergency, o EmergencyOptions) (*release.Emergency, []string, error) {
	now := d.r.utc()
	doc := &release.Emergency{Schema: release.EmergencySchema, Environment: env, Epoch: 1, Issued: now, Entries: []release.EmergencyEntry{}}
	var words []string
	if last == nil {
		last = &release.Emergency{}
	} else {
		var err error
		if doc.Epoch, err = following("epoch", last.Epoch); err != nil {
			return nil, nil, err
		}
	}
	if err := checkLift(env, last, o); err != nil {
		return nil, nil, err
	}
	for i, e := range last.Entries {
		switch {
		case slices.Contains(o.Lift, i+1):
			words = append(words, "lift "+EmergencyWords(e)+", because: "+o.Reason)
		case e.Until != nil && !now.Before(*e.Until):
			words = append(words, "lapsed and dropped: "+EmergencyWords(e))
		default:
			doc.Entries = append(doc.Entries, e)
		}
	}
	for _, e := range o.Add {
		if e.Until != nil && !now.Before(*e.Until) {
			return nil, nil, refuse("a stop lasts", fmt.Sprintf("cannot %s: that time has passed", EmergencyWords(e)), "name a later time with --until, or a length with --for")
		}
		if slices.ContainsFunc(doc.Entries, func(have release.EmergencyEntry) bool { return EmergencyWords(have) == EmergencyWords(e) }) {
			return nil, nil, refuse("a change changes something", fmt.Sprintf("cannot %s: that is in force already", EmergencyWords(e)), "leave it out, or lift it first")
		}
		doc.Entries = append(doc.Entries, e)
		words = append(words, EmergencyWords(e))
	}
	return doc, words, nil
}

func checkLift(env release.Environment, last *release.Emergency, o EmergencyOptions) error {
	if len(o.Lift) == 0 {
		return nil
	}
	if err := checkReason(o.Reason); err != nil {
		return err
	}
	if o.Epoch != 0 && o.Epoch != last.Epoch {
		return refuse("what is lifted was seen", fmt.Sprintf("cannot lift entries of epoch %d in %s: epoch %d is in force", o.Epoch, env, last.Epoch), "run emergency show "+env.String()+" and choose again")
	}
	for _, n := range o.Lift {
		if n < 1 || n > len(last.Entries) {
			return refuse("what is lifted is there", fmt.Sprintf("cannot lift entry %d in %s: %d are in force", n, env, len(last.Entries)), "run emergency show "+env.String())
		}
	}
	return nil
}

// EmergencyWords is an entry in one line.
func EmergencyWords(e release.EmergencyEntry) string {
	what, until := "all apps", ""
	if e.App != nil {
		what = e.App.String()
	}
	if e.Until != nil {
		until = " until " + e.Until.UTC().Format(time.RFC3339)
	}
	switch e.Kind {
	case "revoke":
		return "revoke " + what + " " + e.Digest.Short() + until + ": " + e.Reason
	case "minimum":
		return "run nothing of " + what + " below " + e.Version.String() + until + ": " + e.Reason
	}
	return e.Kind + " " + what + until + ": " + e.Reason
}

// ReleaseDigest finds the digest of a published release by version, or by the digest itself or twelve and more characters of
// its beginning. A whole digest need not be published: hosts may know what this repository does not.
func (r *Repository) ReleaseDigest(app release.App, text string) (release.Digest, string, error) {
	s, err := load(r.metadataDir())
	if err != nil {
		return release.Digest{}, "", err
	}
	t, err := s.role(AppRole(app))
	if err != nil {
		return release.Digest{}, "", err
	}
	found := map[release.Digest]string{}
	if t != nil {
		for path, f := range t.Targets {
			_, v, err := release.ParseReleasePath(path)
			if err != nil {
				return release.Digest{}, "", err
			}
			sum, err := release.ParseDigest(f.Hashes["sha256"].String())
			if err != nil {
				return release.Digest{}, "", err
			}
			if v.String() == text || len(text) >= 12 && strings.HasPrefix(sum.String(), text) {
				found[sum] = v.String()
			}
		}
	}
	for sum, v := range found {
		if len(found) == 1 {
			return sum, v, nil
		}
	}
	if sum, err := release.ParseDigest(text); err == nil && len(found) == 0 {
		return sum, "", nil
	}
	return release.Digest{}, "", refuse("what is revoked is named without doubt", fmt.Sprintf("cannot find release %s of %s: %d published releases match", text, app, len(found)),
		"name a published version, or the whole SHA-256 of its release.json")
}

// RevocationEffect says what hosts of an environment that run the release do about its revocation, by the deployment in
// force: the emergency key alone can keep a release from starting, and takes nothing down that the approvers did not allow.
func (r *Repository) RevocationEffect(env release.Environment, app release.App, digest release.Digest) (string, error) {
	s, err := load(r.metadataDir())
	if err != nil {
		return "", err
	}
	d := &draft{r: r, state: s}
	doc, err := d.lastDeployment(env, app)
	if err != nil || doc == nil {
		return "", err
	}
	name := fmt.Sprintf("%s/%s", env, app)
	switch {
	case doc.Release == nil || doc.Release.SHA256 != digest:
		return name + " does not deploy it; hosts that still run it follow their deployment", nil
	case doc.OnRevoked == "stop":
		return name + " deploys it with on_revoked = stop: hosts that run it stop it", nil
	case doc.OnRevoked == "revert":
		return name + " deploys it with on_revoked = revert: hosts that run it go back to the fallback", nil
	}
	return name + " deploys it with on_revoked = keep: hosts that run it keep it running, no other host starts it; sign a deployment of another release", nil
}
