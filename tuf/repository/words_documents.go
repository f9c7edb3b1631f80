package repository

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// target tells one file that a role lists anew or with other bytes.
func (t *teller) target(role, path string, was, now *metadata.TargetFiles) error {
	sum, err := release.ParseDigest(now.Hashes["sha256"].String())
	if err != nil {
		return fmt.Errorf("cannot read the digest of %s: %w", path, err)
	}
	if role == classTargets {
		what := "lists"
		if was != nil {
			what = "replaces"
		}
		t.say("%s %s, %d bytes, sha256 %s", what, path, now.Length, sum)
		return nil
	}
	raw, err := t.document(path, sum)
	if err != nil {
		return err
	}
	switch roleClass(role) {
	case classApp:
		return t.release(path, sum, raw)
	case classDeploy:
		return t.deployment(path, raw)
	case classEmergency:
		return t.emergency(raw)
	}
	return t.inventory(raw)
}

// document is the new document of this change, or the published one if the role lists again what it listed before.
func (t *teller) document(path string, sum release.Digest) ([]byte, error) {
	name := t.c.filePath(path)
	raw, err := readBounded(name, maxDocument)
	if errors.Is(err, fs.ErrNotExist) {
		raw, err = readBounded(t.before.r.targetPath(path, sum), maxDocument)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	if release.Sum(raw) != sum {
		return nil, &DamagedError{Path: name, Err: fmt.Errorf("its sha256 is not the %s that the role lists", sum)}
	}
	return raw, nil
}

func (t *teller) release(path string, sum release.Digest, raw []byte) error {
	doc, err := release.ParseRelease(raw)
	if err != nil {
		return err
	}
	if release.ReleasePath(doc.App, doc.Version) != path {
		return misplaced(path, fmt.Sprintf("it is release %s %s", doc.App, doc.Version))
	}
	t.say("release %s %s, made %s, release.json sha256 %s", doc.App, doc.Version, doc.Created.UTC().Format(time.RFC3339), sum)
	if doc.Source != nil {
		t.say("  from %s", strings.TrimSpace(doc.Source.Repository+" "+doc.Source.Commit))
	}
	for _, pl := range slices.SortedFunc(maps.Keys(doc.Platforms), func(a, b release.Platform) int { return strings.Compare(a.String(), b.String()) }) {
		a := doc.Platforms[pl]
		t.say("  %s: %d files, %d bytes unpacked", pl, a.Files, a.Unpacked)
		t.file(a.Archive)
		t.file(a.Manifest)
	}
	for _, f := range pinned(&release.Release{SBOM: doc.SBOM, Provenance: doc.Provenance, Approvals: doc.Approvals, Patches: doc.Patches}) {
		t.file(f)
	}
	rest, err := members(doc)
	if err != nil {
		return err
	}
	for _, told := range []string{"schema", "app", "version", "created", "source", "platforms", "sbom", "provenance", "approvals", "patches"} {
		delete(rest, told)
	}
	for _, name := range sortedKeys(rest) {
		t.say("  %s: %s", name, rest[name])
	}
	return nil
}

func (t *teller) file(f release.File) {
	t.say("    %s, %d bytes, sha256 %s", f.Path, f.Length, f.SHA256)
}

// deployment tells a deployment against the one in force: what people ask for first, then every other member that differs.
func (t *teller) deployment(path string, raw []byte) error {
	doc, err := release.ParseDeployment(raw)
	if err != nil {
		return err
	}
	if release.DeploymentPath(doc.Environment, doc.App) != path {
		return misplaced(path, fmt.Sprintf("it is for %s in %s", doc.App, doc.Environment))
	}
	last, err := t.before.lastDeployment(doc.Environment, doc.App)
	if err != nil {
		return err
	}
	t.say("%s", deploymentWords(doc, last))
	was := int64(0)
	if last != nil {
		was = last.Sequence
	}
	t.number("sequence", was, doc.Sequence)
	if err := t.references(doc); err != nil {
		return err
	}
	if doc.Reason != "" {
		t.say("  reason: %s", doc.Reason)
	}
	if err := t.provenance(doc); err != nil {
		return err
	}
	return t.rest(doc, last)
}

func (t *teller) number(what string, was, now int64) {
	switch {
	case now < was:
		t.say("  %s %d, which is BACK from %d", what, now, was)
	case now > was+1 && was > 0:
		t.say("  %s %d, a LEAP from %d", what, now, was)
	default:
		t.say("  %s %d", what, now)
	}
}

// references says whether the releases are the app's own, by what is published or in this change.
func (t *teller) references(doc *release.Deployment) error {
	role := AppRole(doc.App)
	listed, err := t.listing(role)
	if err != nil {
		return err
	}
	for _, ref := range []struct {
		what string
		*release.Reference
	}{{"release", doc.Release}, {"fallback", doc.Fallback}} {
		if ref.Reference == nil {
			continue
		}
		state := "not yet signed by " + role + ": it must be published first"
		if f := listed[ref.Path]; f != nil && f.Hashes["sha256"].String() == ref.SHA256.String() {
			state = "signed by " + role
		} else if f != nil {
			state = "NOT what " + role + " signed under this version"
		}
		t.say("  %s %s, sha256 %s, %s", ref.what, versionOf(ref.Reference), ref.SHA256, state)
	}
	return nil
}

func (t *teller) listing(role string) (map[string]*metadata.TargetFiles, error) {
	p, err := t.c.targets(role)
	if err != nil {
		return nil, err
	}
	if p != nil {
		return p.doc.Targets, nil
	}
	published, err := t.before.state.role(role)
	if err != nil || published == nil {
		return nil, err
	}
	return published.Targets, nil
}

// provenance tells where a promoted release comes from. The record travels beside what is signed; the signed reason pins it.
func (t *teller) provenance(doc *release.Deployment) error {
	for _, rec := range t.c.Promotions {
		if rec == nil || rec.App != doc.App || rec.To != doc.Environment {
			continue
		}
		if !strings.HasSuffix(doc.Reason, rec.note()) || doc.Release == nil || *doc.Release != rec.Release {
			return refuse("evidence is signed by digest", fmt.Sprintf("cannot use the promotion record of %s in %s: the deployment's reason does not pin it", doc.App, doc.Environment),
				"the change's folder was altered on its way; get it again")
		}
		for _, line := range rec.Words()[1:] {
			t.say("  %s", line)
		}
	}
	return nil
}

// rest tells every other member whose value differs from the deployment in force, so that nothing of it is left unsaid.
func (t *teller) rest(doc, last *release.Deployment) error {
	now, err := members(doc)
	if err != nil {
		return err
	}
	was := map[string]string{}
	if last != nil {
		if was, err = members(last); err != nil {
			return err
		}
	}
	for _, told := range []string{"schema", "app", "environment", "sequence", "rollout_id", "release", "absent", "fallback", "state", "reason", "ticket", "requested_by", "created"} {
		delete(now, told)
		delete(was, told)
	}
	same := 0
	for _, name := range sortedKeys(was) {
		if _, ok := now[name]; !ok {
			t.say("  %s: gone (was %s)", name, was[name])
		}
	}
	for _, name := range sortedKeys(now) {
		switch old, had := was[name]; {
		case had && old == now[name]:
			same++
		case had:
			t.say("  %s: %s (was %s)", name, now[name], old)
		default:
			t.say("  %s: %s", name, now[name])
		}
	}
	if same > 0 {
		t.say("  %s as before", counted(same, "other setting"))
	}
	return nil
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// members are a document's top-level members in compact JSON.
func members[D release.Document](doc D) (map[string]string, error) {
	raw, err := release.Encode(doc)
	if err != nil {
		return nil, err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, err
	}
	out := map[string]string{}
	for name, value := range all {
		var b bytes.Buffer
		if err := json.Compact(&b, value); err != nil {
			return nil, err
		}
		out[name] = b.String()
	}
	return out, nil
}

func (t *teller) emergency(raw []byte) error {
	doc, err := release.ParseEmergency(raw)
	if err != nil {
		return err
	}
	last, err := t.before.lastEmergency(doc.Environment)
	if err != nil {
		return err
	}
	if last == nil {
		last = &release.Emergency{}
	}
	t.say("emergency %s: %s in force, %d before", doc.Environment, counted(len(doc.Entries), "stop"), len(last.Entries))
	t.number("epoch", last.Epoch, doc.Epoch)
	var was, now []string
	for _, e := range last.Entries {
		was = append(was, entryWords(e))
	}
	for _, e := range doc.Entries {
		now = append(now, entryWords(e))
	}
	for _, e := range was {
		if !slices.Contains(now, e) {
			t.say("  lifts: %s", e)
		}
	}
	for _, e := range now {
		if !slices.Contains(was, e) {
			t.say("  adds: %s", e)
		} else {
			t.say("  keeps: %s", e)
		}
	}
	return nil
}

// entryWords is EmergencyWords with the whole digest.
func entryWords(e release.EmergencyEntry) string {
	words := EmergencyWords(e)
	if e.Digest != nil {
		words += " (sha256 " + e.Digest.String() + ")"
	}
	return words
}

func (t *teller) inventory(raw []byte) error {
	doc, err := release.ParseInventory(raw)
	if err != nil {
		return err
	}
	last, _, err := t.before.lastInventory(doc.Environment)
	if err != nil {
		return err
	}
	words, _ := inventoryWords(last, doc.Hosts)
	t.say("inventory %s: %s, sha256 %s", doc.Environment, words, release.Sum(raw))
	before := map[string]map[string]string{}
	if last != nil {
		for _, h := range last.Hosts {
			before[h.ID] = h.Labels
		}
	}
	for _, h := range doc.Hosts {
		labels, had := before[h.ID]
		delete(before, h.ID)
		if !had {
			t.say("  comes: %s", hostWords(h.ID, h.Labels))
		} else if !maps.Equal(labels, h.Labels) {
			t.say("  changes: %s (was %s)", hostWords(h.ID, h.Labels), hostWords(h.ID, labels))
		}
	}
	for _, id := range sortedKeys(before) {
		t.say("  leaves: %s", hostWords(id, before[id]))
	}
	return nil
}

func hostWords(id string, labels map[string]string) string {
	words := []string{id}
	for _, k := range sortedKeys(labels) {
		words = append(words, k+"="+labels[k])
	}
	return strings.Join(words, " ")
}
