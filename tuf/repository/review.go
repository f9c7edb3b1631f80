package repository

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/client"
	"github.com/slipway-deploy/slipway/tuf/keys"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// ReviewOptions is what a signer brings along: nothing of it comes out of the change's folder.
type ReviewOptions struct {
	// Root is the signer's own trusted root, of any version. Nil needs First.
	Root []byte
	// Trust remembers what the signer has seen; nil remembers nothing.
	Trust *Trust
	// First allows the change that founds a repository: there is nothing yet to verify it against.
	First bool
	// Now is the clock; nil is the machine's.
	Now func() time.Time
}

// Review is a change as its signer's own tool understands it: verified from the signer's root, and put into words from the
// verified base and the payloads alone. It works on a private copy of the folder; Close removes it.
type Review struct {
	Change *Change
	Words  *Words
	// Base says what the change was verified against, for people.
	Base string
	// Notes are what a signer should know and nothing forbids: expired roles of the base, another payload signed before.
	Notes []string

	dir   string // the folder itself, where signatures go
	tmp   string
	r     *Repository // the base
	s     *state
	o     ReviewOptions
	roots []release.Digest
}

// SwappedError means that what a change is to be verified against does not follow from the signer's own root, or is older
// than what the signer has seen.
type SwappedError struct {
	Change, Reason, Remedy string
	Err                    error
}

func (e *SwappedError) Error() string {
	s := fmt.Sprintf("cannot trust the base of change %s: %s", e.Change, e.Reason)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.Remedy != "" {
		s += "; " + e.Remedy
	}
	return s
}

// Unwrap is the client's reason.
func (e *SwappedError) Unwrap() error { return e.Err }

// BrokenRule is the rule in a few words.
func (e *SwappedError) BrokenRule() string { return "a signer trusts their own root" }

// Kind is the class of the error for logs and metrics.
func (e *SwappedError) Kind() string { return "base-refused" }

// ReviewFolder reads the change in dir, wherever it came from, and refuses what a signer must not sign: a base that does not
// verify from their root or is older than what they have seen, payloads that break a rule of the repository or do not do what
// the change says, and folders that are not what they must be.
func ReviewFolder(ctx context.Context, dir string, o ReviewOptions) (*Review, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	tmp, err := os.MkdirTemp("", "slipway-review-")
	if err != nil {
		return nil, fmt.Errorf("cannot review change: %w", err)
	}
	v := &Review{dir: dir, tmp: tmp, o: o}
	if err := v.carryOut(ctx); err != nil {
		v.Close()
		return nil, err
	}
	return v, nil
}

// Close removes the private copy.
func (v *Review) Close() { _ = os.RemoveAll(v.tmp) }

func (v *Review) carryOut(ctx context.Context) error {
	folder := filepath.Join(v.tmp, "change")
	if err := takeIn(v.dir, folder); err != nil {
		return err
	}
	var err error
	if v.Change, err = readChange(folder); err != nil {
		return err
	}
	v.r = newRepository(v.Change.baseDir(), []Option{WithClock(v.o.Now)})
	if err := v.verify(ctx); err != nil {
		return err
	}
	if err := v.check(); err != nil {
		return err
	}
	if v.Words, err = v.r.words(v.s, v.Change); err != nil {
		return fmt.Errorf("cannot understand change %s: %w", v.Change.ID, err)
	}
	if err := v.compare(); err != nil {
		return err
	}
	for _, line := range v.Change.Policy.words() {
		v.Notes = append(v.Notes, "not signed, for the publisher's own policy.json: "+line)
	}
	return v.remember()
}

// verify makes the base trusted, from the signer's root, by the client of the hosts.
func (v *Review) verify(ctx context.Context) error {
	c := v.Change
	var err error
	if _, err = os.Lstat(filepath.Join(v.r.metadataDir(), metaName(classTimestamp, 0))); absent(err) {
		return v.first()
	}
	if v.s, err = load(v.r.metadataDir()); err != nil {
		return v.swapped("it cannot be read", err)
	}
	if v.o.Root == nil {
		return refuse("a signer trusts their own root", "cannot review change "+c.ID+" without a root that you trust", "give it with --root FILE, or pin it once with trust add FILE")
	}
	if err := v.follow(ctx); err != nil {
		return err
	}
	for role, base := range c.Base {
		if have := v.s.version(role); have != base {
			return v.swapped(fmt.Sprintf("it holds version %d of %s, and the change says that it was made from version %d", have, role, base), nil)
		}
	}
	at, err := issued(v.s.timestamp)
	if err != nil {
		return v.swapped("it is of an unknown age", err)
	}
	now := v.o.Now().UTC()
	if at.After(now.Add(5 * time.Minute)) {
		return v.swapped("it was issued at "+at.Format(time.RFC3339)+", which is yet to come; set the clocks", nil)
	}
	v.Base = fmt.Sprintf("verified from your root: root version %d, targets version %d, as published at %s", v.s.root.Version, v.s.version(classTargets), at.Format(time.RFC3339))
	return v.noteExpired(now)
}

// first is the change that founds a repository. Nothing vouches for it but the people who compare fingerprints.
func (v *Review) first() error {
	c := v.Change
	if v.o.Root != nil || !v.o.First {
		return refuse("a signer trusts their own root", "cannot verify change "+c.ID+": it brings no base to verify from your root",
			"get the whole folder again; only if you found a new repository with it, compare every fingerprint with the other holders and use --first without --root")
	}
	if c.Base[classRoot] != 0 || !slices.Equal(c.Roles(), []string{classRoot, classTargets}) {
		return v.swapped("there is none, and it is not the change that founds a repository", nil)
	}
	v.s = &state{dir: v.r.metadataDir(), targets: map[string]*metadata.TargetsType{}}
	v.Base = "a new repository: nothing vouches for it but the people who compare these fingerprints"
	return nil
}

func (v *Review) swapped(reason string, err error) error {
	return &SwappedError{Change: v.Change.ID, Reason: reason, Err: err, Remedy: "get the change's folder again from the maintainer, and ask where this one came from"}
}

// follow runs the client over the base at a time when nothing in it had expired. Expiry is told apart from this: a role that
// expired is renewed by a change like any other.
func (v *Review) follow(ctx context.Context) error {
	at, err := v.earliest()
	if err != nil {
		return v.swapped("it cannot be read", err)
	}
	meta, err := filepath.Abs(v.r.metadataDir())
	if err != nil {
		return fmt.Errorf("cannot review change: %w", err)
	}
	c, err := client.Open(client.Config{Dir: filepath.Join(v.tmp, "client"), Root: v.o.Root, Mirrors: []client.Mirror{{Metadata: meta}}, RootProbe: -1,
		MaxClockStep: 100 * 365 * day, Clock: client.Clock{Now: func() time.Time { return at }}})
	if err != nil {
		return fmt.Errorf("cannot use your root: %w", err)
	}
	t, err := c.Refresh(ctx)
	if err != nil {
		return v.swapped("it does not follow from your root", err)
	}
	for _, role := range v.carried() {
		if err := ask(ctx, c, role); err != nil {
			return v.swapped("role "+role+" in it does not verify", err)
		}
	}
	return v.sameBytes(c, t)
}

// carried are the delegated roles whose metadata is in the base.
func (v *Review) carried() []string {
	var out []string
	for _, role := range v.s.roles() {
		if _, err := os.Lstat(v.s.path(role, v.s.version(role))); err == nil && role != classTargets {
			out = append(out, role)
		}
	}
	return out
}

// ask makes the client fetch and verify a role. Any path of the role will do; an unlikely one is not found after that.
func ask(ctx context.Context, c *client.Client, role string) error {
	pattern, err := rolePattern(role)
	if err != nil {
		return err
	}
	_, err = c.Lookup(ctx, strings.ReplaceAll(pattern, "*/*", "0/release.json"))
	var none *client.ErrNotFound
	if errors.As(err, &none) {
		return nil
	}
	return err
}

// sameBytes holds what the client verified against what everything else here reads.
func (v *Review) sameBytes(c *client.Client, t client.Trusted) error {
	verified, err := c.Metadata()
	if err != nil {
		return fmt.Errorf("cannot review change: %w", err)
	}
	if t.Root > v.s.root.Version {
		return &SwappedError{Change: v.Change.ID, Reason: fmt.Sprintf("it ends at root version %d, and you trust version %d", v.s.root.Version, t.Root), Remedy: "get the change's folder again from the maintainer"}
	}
	for _, role := range append(v.carried(), classRoot, classTimestamp, classSnapshot, classTargets) {
		have, err := os.ReadFile(v.s.path(role, v.s.version(role)))
		if err != nil {
			return v.swapped("it is not whole", err)
		}
		if string(have) != string(verified[role]) {
			return v.swapped(fmt.Sprintf("its version %d of %s is not the one that follows from your root", v.s.version(role), role), nil)
		}
	}
	v.roots = []release.Digest{release.Sum(v.o.Root)}
	for n := t.Root; n > 0; n-- {
		raw, err := os.ReadFile(v.s.path(classRoot, n))
		if err != nil {
			return v.swapped("it is not whole", err)
		}
		if v.roots = append(v.roots, release.Sum(raw)); release.Sum(raw) == v.roots[0] {
			break
		}
	}
	return nil
}

// earliest is just before anything in the base expired.
func (v *Review) earliest() (time.Time, error) {
	first := v.s.root.Expires
	for _, at := range []time.Time{v.s.timestamp.Expires, v.s.snapshot.Expires} {
		if at.Before(first) {
			first = at
		}
	}
	for _, role := range append(v.carried(), classTargets) {
		t, err := v.s.role(role)
		if err != nil {
			return first, err
		}
		if t.Expires.Before(first) {
			first = t.Expires
		}
	}
	return first.Add(-time.Second), nil
}

func (v *Review) noteExpired(now time.Time) error {
	note := func(role string, at time.Time) {
		if !at.After(now) {
			v.Notes = append(v.Notes, fmt.Sprintf("the base's %s expired at %s", role, at.Format(time.RFC3339)))
		}
	}
	note(classRoot, v.s.root.Expires)
	note(classTimestamp, v.s.timestamp.Expires)
	for _, role := range append([]string{classTargets}, v.carried()...) {
		t, err := v.s.role(role)
		if err != nil {
			return err
		}
		note(role, t.Expires)
	}
	return nil
}

// check applies the rules of a publish that need no signatures and no archives.
func (v *Review) check() error {
	c := v.Change
	if len(c.Roles()) == 0 {
		return refuse("a change changes something", "cannot sign change "+c.ID+": nothing is in it yet", "add to it with --change "+c.ID)
	}
	p := &plan{r: v.r, before: v.s, changes: []*Change{c}, root: v.s.root, targets: map[string]*metadata.TargetsType{}, metas: map[string][]byte{}}
	for _, role := range c.Roles() {
		version, err := p.adopt(c, role)
		if err != nil {
			return fmt.Errorf("cannot sign change %s: %w", c.ID, err)
		}
		if version != c.Base[role]+1 {
			return refuse("versions grow by one", fmt.Sprintf("cannot sign change %s: version %d of %s does not follow version %d", c.ID, version, role, c.Base[role]), "have the change made again")
		}
	}
	return p.checkStructure()
}

// adopt takes a role's payload into the plan, signatures apart.
func (p *plan) adopt(c *Change, role string) (version int64, err error) {
	if role == classRoot {
		root, err := c.root()
		if err != nil {
			return 0, err
		}
		p.root = root.doc
		return root.doc.Version, nil
	}
	t, err := c.targets(role)
	if err != nil {
		return 0, err
	}
	p.targets[role] = t.doc
	return t.doc.Version, nil
}

// compare holds what the payloads do against what the change says that they do.
func (v *Review) compare() error {
	if v.Change.Words == nil || v.Change.Words.Format != wordsFormat {
		v.Notes = append(v.Notes, "the change was described by another version of slipway-repo; the words here are made from its payloads")
		return nil
	}
	return v.Change.says(v.Words)
}

// says refuses a change whose payloads do something else than it says.
func (c *Change) says(does *Words) error {
	if c.Words == nil || c.Words.Format != does.Format || slices.EqualFunc(c.Words.Roles, does.Roles, RoleWords.equal) {
		return nil
	}
	said, done := firstDifference(c.Words.Lines(), does.Lines())
	return refuse("a change does what it says", fmt.Sprintf("cannot trust change %s: it says %q, and its payload does %q", c.ID, harmless(said), done),
		"its folder was altered on its way: get it again from whoever made it, and ask where this one came from")
}

func firstDifference(a, b []string) (string, string) {
	for i := range max(len(a), len(b)) {
		x, y := "nothing", "nothing"
		if i < len(a) {
			x = strings.TrimSpace(a[i])
		}
		if i < len(b) {
			y = strings.TrimSpace(b[i])
		}
		if x != y {
			return x, y
		}
	}
	return "", ""
}

// Progress tells who has signed and who may still sign, by the folder alone.
func (v *Review) Progress() ([]Progress, error) {
	return v.r.progress(v.s, nil, v.Change)
}

// Sign signs every role of the change that the key may sign, in one step, and says which. It writes into the folder, nothing
// else. A key without any role in the change is a *NotASignerError.
func (v *Review) Sign(ctx context.Context, by keys.Signer) ([]string, error) {
	var signed []string
	made := map[string][]byte{}
	for _, role := range v.Change.Roles() {
		authorities, err := v.r.authorities(v.s, nil, v.Change, role)
		if err != nil {
			return nil, err
		}
		if err := notRequester(authorities, by.Public(), v.Change.ID); err != nil {
			return nil, err
		}
		key, ok := authorized(authorities, by.Public())
		if !ok {
			continue
		}
		canonical, err := v.Change.canonicalOf(role)
		if err != nil {
			return nil, err
		}
		sig, err := keys.Sign(ctx, by, canonical)
		if err != nil {
			return nil, err
		}
		name, data, err := encodeSignature(role, key, canonical, sig, v.o.Now())
		if err != nil {
			return nil, err
		}
		made[name] = data
		signed = append(signed, role)
	}
	if len(signed) == 0 {
		return nil, &NotASignerError{Key: by.Public().String(), Change: v.Change.ID}
	}
	if err := v.keep(made); err != nil {
		return nil, err
	}
	return signed, v.o.Trust.signed(v, signed)
}

// keep writes signatures into the folder that came, and into the copy, by which progress is told.
func (v *Review) keep(made map[string][]byte) error {
	for _, dir := range []string{v.dir, v.Change.dir} {
		sub := filepath.Join(dir, "signatures")
		if info, err := os.Lstat(sub); err == nil && !info.IsDir() {
			return &DamagedError{Path: sub, Err: errors.New("it is not a directory")}
		}
		if err := durable.MkdirAll(sub, 0o755); err != nil {
			return err
		}
		for _, name := range sortedKeys(made) {
			if err := durable.WriteFile(filepath.Join(sub, name), made[name], 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}
