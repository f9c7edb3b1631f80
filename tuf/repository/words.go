package repository

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/slipway-deploy/slipway/tuf/keys"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// wordsFormat counts the versions of the sentences. Two tools of one format say the same of the same payloads, to the letter.
const wordsFormat = 1

// Words are what a change does, role by role.
type Words struct {
	Format int         `json:"format"`
	Roles  []RoleWords `json:"roles"`
}

// RoleWords is the difference between a role as published and as the change has it.
type RoleWords struct {
	Role string `json:"role"`
	// From is the version it was made from, 0 for none; To the new one.
	From  int64    `json:"from"`
	To    int64    `json:"to"`
	Lines []string `json:"lines"`
}

func (w RoleWords) equal(o RoleWords) bool {
	return w.Role == o.Role && w.From == o.From && w.To == o.To && slices.Equal(w.Lines, o.Lines)
}

// Lines is the whole text, two spaces deep per level, fit for a terminal.
func (w *Words) Lines() []string {
	var out []string
	for _, r := range w.Roles {
		from := "its first version"
		if r.From > 0 {
			from = fmt.Sprintf("after version %d", r.From)
		}
		out = append(out, fmt.Sprintf("%s: version %d, %s", r.Role, r.To, from))
		for _, l := range r.Lines {
			out = append(out, "  "+l)
		}
	}
	return out
}

// harmless keeps text from outside from moving the cursor, hiding or reordering what a signer reads.
func harmless(s string) string {
	return strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return '?'
		}
		return c
	}, s)
}

// teller finds the words for one change. It reads the published state it was made from and the change's own payloads and
// documents, nothing else: not the clock, not other changes.
type teller struct {
	before *draft
	c      *Change
	lines  []string
}

func (t *teller) say(format string, args ...any) {
	t.lines = append(t.lines, harmless(fmt.Sprintf(format, args...)))
}

// words says what a change does to the state s of this repository.
func (r *Repository) words(s *state, c *Change) (*Words, error) {
	out := &Words{Format: wordsFormat, Roles: []RoleWords{}}
	for _, role := range c.Roles() {
		t := &teller{before: &draft{r: r, state: s}, c: c}
		to, err := t.role(role)
		if err != nil {
			return nil, err
		}
		if len(t.lines) == 0 {
			t.say("the same content, signed again")
		}
		out.Roles = append(out.Roles, RoleWords{Role: role, From: c.Base[role], To: to, Lines: t.lines})
	}
	return out, nil
}

func (t *teller) role(role string) (int64, error) {
	if role == classRoot {
		p, err := t.c.root()
		if err != nil {
			return 0, err
		}
		return p.doc.Version, t.root(p.doc)
	}
	p, err := t.c.targets(role)
	if err != nil {
		return 0, err
	}
	old, err := t.before.state.role(role)
	if err != nil {
		return 0, err
	}
	was := time.Time{}
	if old != nil {
		was = old.Expires
	}
	if err := t.content(role, old, p.doc); err != nil {
		return 0, err
	}
	if len(t.lines) == 0 {
		t.say("the same content, signed again")
	}
	t.expires(was, p.doc.Expires)
	return p.doc.Version, nil
}

func (t *teller) expires(was, now time.Time) {
	if was.IsZero() {
		t.say("expires %s", now.Format(time.RFC3339))
		return
	}
	t.say("expires %s (was %s)", now.Format(time.RFC3339), was.Format(time.RFC3339))
}

func (t *teller) content(role string, old, next *metadata.TargetsType) error {
	if old == nil {
		old = &metadata.TargetsType{}
	}
	if role == classTargets {
		if err := t.delegations(old, next); err != nil {
			return err
		}
	}
	for _, path := range sortedKeys(old.Targets) {
		if next.Targets[path] == nil {
			t.say("%s is no longer listed", path)
		}
	}
	for _, path := range sortedKeys(next.Targets) {
		if have := old.Targets[path]; have != nil && sameTarget(have, next.Targets[path]) {
			continue
		}
		if err := t.target(role, path, old.Targets[path], next.Targets[path]); err != nil {
			return err
		}
	}
	return nil
}

func (t *teller) root(next *metadata.RootType) error {
	old := t.before.state.root
	was := time.Time{}
	if old == nil {
		t.say("this is a new repository")
		old = &metadata.RootType{}
	} else {
		was = old.Expires
	}
	for _, role := range []string{classRoot, classTargets, classSnapshot, classTimestamp} {
		now, err := rootSigners(next, role)
		if err != nil {
			return err
		}
		if old.Roles[role] == nil {
			t.say("%s: %s", role, appointed(now))
			continue
		}
		before, err := rootSigners(old, role)
		if err != nil {
			return err
		}
		if words := succession(before, now); words != "" {
			t.say("%s: %s", role, words)
		}
	}
	for _, role := range sortedKeys(next.Roles) {
		if !topLevel(role) {
			return fmt.Errorf("cannot use root: it names a role %q", role)
		}
	}
	if len(t.lines) == 0 {
		t.say("the same keys, signed again")
	}
	t.expires(was, next.Expires)
	return nil
}

// delegations tells roles that get the same signers together: an environment of a hundred apps is one sentence.
func (t *teller) delegations(old, next *metadata.TargetsType) error {
	var order []string
	roles := map[string][]string{}
	add := func(role, words string) {
		if roles[words] == nil {
			order = append(order, words)
		}
		roles[words] = append(roles[words], role)
	}
	if next.Delegations != nil {
		for _, d := range next.Delegations.Roles {
			now, err := delegatedSigners(next, d.Name)
			if err != nil {
				return err
			}
			if delegation(old, d.Name) == nil {
				add(d.Name, "new, "+appointed(now))
				continue
			}
			was, err := delegatedSigners(old, d.Name)
			if err != nil {
				return err
			}
			if words := succession(was, now); words != "" {
				add(d.Name, words)
			}
		}
	}
	if old.Delegations != nil {
		for _, d := range old.Delegations.Roles {
			if delegation(next, d.Name) == nil {
				add(d.Name, "is no longer delegated")
			}
		}
	}
	for _, words := range order {
		t.say("%s: %s", strings.Join(roles[words], ", "), words)
	}
	return nil
}

// appointed is who signs a role, with the part of the fingerprint that people read to each other.
func appointed(s signers) string {
	return fmt.Sprintf("signed by %d of %s%s", s.threshold, marked(s.keys), s.dutyWords())
}

func marked(list []keys.Public) string {
	names := make([]string, len(list))
	for i, k := range list {
		name := k.Name
		if name == "" {
			name = "a key without a name"
		}
		names[i] = fmt.Sprintf("%s (%s)", name, mark(k))
	}
	return strings.Join(names, ", ")
}

// mark is the beginning of a key's fingerprint: two keys may have one name.
func mark(k keys.Public) string {
	sum := k.Fingerprint()
	return hex.EncodeToString(sum[:])[:16]
}

// succession is the difference between two sets of signers; empty if there is none.
func succession(was, now signers) string {
	var parts []string
	var gone, come []keys.Public
	for _, k := range was.keys {
		if _, ok := now.find(k); !ok {
			gone = append(gone, k)
		}
	}
	for _, k := range now.keys {
		if have, ok := was.find(k); !ok {
			come = append(come, k)
		} else if have.ID != k.ID || have.Name != k.Name {
			parts = append(parts, fmt.Sprintf("%s (%s) is called %s with id %s", have, mark(k), k, k.ID))
		}
	}
	if len(gone) > 0 {
		parts = append(parts, "without "+marked(gone))
	}
	if len(come) > 0 {
		parts = append(parts, "with "+marked(come))
	}
	if was.threshold != now.threshold || len(was.keys) != len(now.keys) {
		parts = append(parts, fmt.Sprintf("%d of %d (was %d of %d)", now.threshold, len(now.keys), was.threshold, len(was.keys)))
	}
	if a, b := was.dutyWords(), now.dutyWords(); a != b {
		if b == "" {
			b = ", requester and approver may be one"
		}
		parts = append(parts, strings.TrimPrefix(b, ", "))
	}
	return strings.Join(parts, ", ")
}
