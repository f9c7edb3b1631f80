package repository

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/tuf/client"
	"github.com/slipway-deploy/slipway/tuf/keys"
)

// Finding is one thing that is wrong, or will be. Remedy is what to do, in order: commands, and sentences where there is none.
type Finding struct {
	Kind   string   `json:"kind"`
	Role   string   `json:"role,omitempty"`
	Urgent bool     `json:"urgent"`
	What   string   `json:"what"`
	Hosts  string   `json:"hosts"`
	Remedy []string `json:"remedy"`
}

// DiagnoseOptions is what people know and the repository cannot.
type DiagnoseOptions struct {
	// Lost and Stolen are keys, by id, beginning of an id, fingerprint or name.
	Lost, Stolen []string
	Seen         []Sighting
	// Within is how far ahead expiry is looked for.
	Within Period
}

// diagnosis collects findings.
type diagnosis struct {
	d     *draft
	o     DiagnoseOptions
	roles []signers
	out   []Finding
}

// Diagnose says what is wrong with the published repository and how to mend it. It changes nothing and needs no key.
func (r *Repository) Diagnose(ctx context.Context, o DiagnoseOptions) ([]Finding, error) {
	s, err := load(r.metadataDir())
	if err != nil {
		return nil, err
	}
	if !s.published() {
		return nil, refuse("the first change comes first", "cannot diagnose: nothing is published yet", "sign and publish the repository's first change")
	}
	g := &diagnosis{d: &draft{r: r, state: s}, o: o, out: []Finding{}}
	if g.d.policy, err = r.Policy(); err != nil {
		return nil, err
	}
	if g.d.open, err = r.Changes(); err != nil {
		return nil, err
	}
	names, err := g.d.roleNames()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		by, err := g.d.signersOf(name)
		if err != nil {
			return nil, err
		}
		g.roles = append(g.roles, by)
	}
	for _, look := range []func(context.Context) error{g.interrupted, g.roleByRole, g.leaps, g.keys, g.sightings, g.client} {
		if err := look(ctx); err != nil {
			return nil, err
		}
	}
	return g.out, nil
}

func (g *diagnosis) found(f Finding) { g.out = append(g.out, f) }

func (g *diagnosis) has(kind string) bool {
	for _, f := range g.out {
		if f.Kind == kind {
			return true
		}
	}
	return false
}

// interrupted finds open changes that are visible already: a publisher died half way.
func (g *diagnosis) interrupted(context.Context) error {
	begun, err := g.d.r.pending()
	if err != nil {
		return err
	}
	if begun != nil {
		g.found(Finding{Kind: "interrupted", Urgent: true,
			What:  "a publish to " + begun.Destination + " was interrupted; whether it got through is known only there",
			Hosts: "have the old state or the new", Remedy: []string{"slipway-repo publish --to '" + begun.Destination + "'"}})
	}
	p := &plan{r: g.d.r, before: g.d.state}
	for _, c := range g.d.open {
		for _, role := range c.Roles() {
			v := g.d.state.version(role)
			raw, err := readBounded(c.payloadPath(role), 2*maxPayload)
			if err != nil {
				return fmt.Errorf("cannot read payload: %w", err)
			}
			if v != c.Base[role]+1 || !p.alreadyThere(role, v, v, raw) {
				continue
			}
			g.found(Finding{Kind: "interrupted", Role: role, Urgent: true,
				What:  fmt.Sprintf("the publish of %s stopped half way: version %d of %s is there, what belongs to it is not", c.ID, v, role),
				Hosts: "keep what they have, and change nothing until the publish is completed", Remedy: []string{"slipway-repo publish " + c.ID}})
			break
		}
	}
	return nil
}

func (g *diagnosis) roleByRole(context.Context) error {
	for _, by := range g.roles {
		row, err := roleRow(g.d.state, by)
		if err != nil {
			return err
		}
		if row.Version == 0 {
			continue
		}
		if err := g.signatures(by, row); err != nil {
			return err
		}
		g.expiry(by, row)
	}
	fresh, err := g.d.r.strictestFreshness(g.d.state)
	if err != nil {
		return err
	}
	at, err := issued(g.d.state.timestamp)
	if err != nil {
		return err
	}
	now := g.d.r.utc()
	if due := dueTimestamp(at, g.d.state.timestamp.Expires, fresh); now.After(due) && !g.has("expired") {
		g.found(Finding{Kind: "overdue", Role: classTimestamp, What: "the timestamp should have been signed again at " + due.Format(time.RFC3339),
			Hosts: "start nothing whose deployment asks for fresher news", Remedy: []string{"slipway-repo refresh", "see why the timer that runs it did not"}})
	}
	return nil
}

// signatures holds a published role against the keys it has now.
func (g *diagnosis) signatures(by signers, row RoleStatus) error {
	e, err := g.d.state.envelope(by.role, row.Version)
	if err != nil {
		return err
	}
	text, err := canonical(e.Signed)
	if err != nil {
		return err
	}
	have := by.valid(text, e.Signatures)
	if len(have) >= by.threshold {
		return nil
	}
	f := Finding{Kind: "unsigned", Role: by.role, Urgent: true, Hosts: "refuse it, and change nothing that depends on it",
		What: fmt.Sprintf("version %d of %s has %d of the %d signatures that %s demands", row.Version, by.role, len(have), by.threshold, by.by)}
	switch {
	case g.has("interrupted"):
		f.Remedy = []string{"complete the interrupted publish first"}
	case by.role == classSnapshot || by.role == classTimestamp:
		f.Remedy = []string{"slipway-repo refresh --force --online-key FILE, with a key that root names"}
	case by.role == classRoot:
		f.Remedy = []string{"restore metadata/ from git, a mirror or a host's cache: this root was never valid"}
	default:
		f.Remedy = renewal(by)
	}
	g.found(f)
	return nil
}

func renewal(by signers) []string {
	return []string{"slipway-repo role renew " + by.role, fmt.Sprintf("have it signed by %d of %s (slipway-repo change sign)", by.threshold, joinKeys(by.keys)), "slipway-repo publish"}
}

func (g *diagnosis) expiry(by signers, row RoleStatus) {
	online := by.role == classSnapshot || by.role == classTimestamp
	left := row.Left(g.d.r.utc())
	f := Finding{Role: by.role, Hosts: withoutRole(by.role), Remedy: renewal(by)}
	if online {
		f.Remedy = []string{"slipway-repo refresh", "see why the timer that runs it did not"}
	}
	switch {
	case left <= 0:
		f.Kind, f.Urgent, f.What = "expired", true, fmt.Sprintf("%s expired on %s", by.role, row.Expires.Format(time.RFC3339))
		if by.role == classRoot {
			f.Remedy = append(f.Remedy, "hosts follow a new root although theirs has expired: nothing is to be done on them")
		}
	case !online && left <= g.o.Within.Std():
		f.Kind, f.What = "expires", fmt.Sprintf("%s expires on %s; %d of %s must sign, holidays included", by.role, row.Expires.Format(time.RFC3339), by.threshold, joinKeys(by.keys))
	default:
		return
	}
	g.found(f)
}

// withoutRole is what hosts do while a role is not valid.
func withoutRole(role string) string {
	_, rest, _ := strings.Cut(role, ".")
	switch roleClass(role) {
	case classApp:
		return "start no release of " + rest + "; what runs keeps running, reverts go on"
	case classDeploy:
		return "start nothing for " + strings.Replace(rest, ".", "/", 1) + "; what runs keeps running, reverts go on"
	case classEmergency:
		return "start nothing in " + rest + "; what runs keeps running, reverts go on"
	case classInventory:
		return "wait with every deployment in " + rest + " that pins the inventory"
	}
	return "change nothing; what runs keeps running, reverts go on"
}

// leaps finds numbers that did not follow one by one. Publishers count by one, so a leap was asked for by somebody.
func (g *diagnosis) leaps(context.Context) error {
	for _, by := range g.roles {
		c, ok := counterOf(by.role)
		if !ok {
			continue
		}
		list, err := g.d.history(c)
		if err != nil {
			return err
		}
		honest, leapt, found := beforeLeap(list)
		if !found {
			continue
		}
		f := Finding{Kind: "leap", Role: by.role, Urgent: true, Hosts: fmt.Sprintf("accept nothing below %s %d again", c.what, leapt.number),
			What: fmt.Sprintf("the %s of %s leapt from %d to %d in version %d, signed by %s", c.what, by.role, honest.number, leapt.number, leapt.version, joinKeys(leapt.signers))}
		if by := g.changeThatMade(c.role, leapt.version); by != "" {
			f.What += ", by the change " + by
		}
		f.Remedy = append([]string{"ask the signers; if it was theirs, there is nothing to mend. Otherwise, in one change:"}, revokeEach(leapt.signers)...)
		f.Remedy = append(f.Remedy, fmt.Sprintf("slipway-repo recover %s %s --change ID --reason WHY", c.what, words(by.role)), "slipway-repo publish ID")
		g.found(f)
	}
	return nil
}

// changeThatMade is what the kept change says about a version. It is told and not believed: nobody signed it.
func (g *diagnosis) changeThatMade(role string, version int64) string {
	dirs, err := filepath.Glob(filepath.Join(g.d.r.publishedDir(), "*"))
	if err != nil {
		return ""
	}
	for _, dir := range dirs {
		if c, err := openChange(dir); err == nil && c.Base[role] == version-1 && slices.Contains(c.Roles(), role) {
			return fmt.Sprintf("%s (%s)", c.ID, c.Summary)
		}
	}
	return ""
}

func words(role string) string {
	_, rest, _ := strings.Cut(role, ".")
	return strings.ReplaceAll(rest, ".", " ")
}

func counterOf(role string) (counter, bool) {
	pattern, err := rolePattern(role)
	if err != nil {
		return counter{}, false
	}
	switch roleClass(role) {
	case classDeploy:
		return counter{role, pattern, "sequence"}, true
	case classEmergency:
		return counter{role, pattern, "epoch"}, true
	}
	return counter{}, false
}

// revokeEach is a revocation of several keys in one change.
func revokeEach(list []keys.Public) []string {
	var out []string
	for i, k := range list {
		into := ""
		if i > 0 {
			into = " --change ID"
		}
		out = append(out, fmt.Sprintf("slipway-repo revoke %s%s --replace-with NEW.pub --reason WHY", nameOf(k), into))
	}
	return out
}

// client lets the hosts' own client judge, once nothing better explains what it would say.
func (g *diagnosis) client(ctx context.Context) error {
	if g.has("expired") || g.has("unsigned") || g.has("interrupted") {
		return nil
	}
	_, err := g.d.r.Verify(ctx, VerifyOptions{})
	var refused *ClientError
	if !errors.As(err, &refused) {
		return err
	}
	f := Finding{Kind: "client-refuses", Urgent: true, What: refused.Error(), Hosts: "refuse what is published, and keep what they have",
		Remedy: []string{"restore metadata/ and targets/ from git or a mirror, and run recover diagnose again"}}
	var silent *client.ErrNetwork
	if errors.As(err, &silent) {
		f.Remedy = []string{"a file is missing: bring it back from git, a mirror or a host's cache", "slipway-repo verify --payloads"}
	}
	g.found(f)
	return nil
}
