package repository

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

// PromotionRule says how releases come into an environment. It is the publisher's own rule, in policy.json: hosts count the
// approvers' signatures and nothing else.
type PromotionRule struct {
	// From is the environment whose release is promoted.
	From release.Environment `json:"from"`
	// Committed is how long the release must have been committed there, by the word of Hosts different hosts (0 means 1). Hosts
	// alone asks that they have committed it at all; without either no evidence is asked for.
	Committed Period `json:"committed,omitzero"`
	Hosts     int    `json:"hosts,omitempty"`
}

func (r *PromotionRule) hosts() int { return max(r.Hosts, 1) }

func (r *PromotionRule) check(env release.Environment) error {
	switch {
	case r.From.IsZero() || r.From == env:
		return fmt.Errorf("environments.%s.promotion.from: want another environment", env)
	case r.Committed < 0 || r.Hosts < 0:
		return fmt.Errorf("environments.%s.promotion: negative numbers mean nothing", env)
	}
	return nil
}

// PromotionRecord is what a change says of where its release comes from, for signers to see and for publish to check again.
type PromotionRecord struct {
	App     release.App         `json:"app"`
	From    release.Environment `json:"from,omitzero"`
	To      release.Environment `json:"to"`
	Release release.Reference   `json:"release"`
	// Sequence is that of the deployment in From when the change was made.
	Sequence int64            `json:"sequence,omitempty"`
	Evidence []EvidenceRecord `json:"evidence,omitempty"`
	// Bypass is why the release does not come by promotion though a rule asks for it.
	Bypass string `json:"bypass,omitempty"`
}

// EvidenceRecord is one file of evidence, byte for byte.
type EvidenceRecord struct {
	SHA256   release.Digest `json:"sha256"`
	Document string         `json:"document"`
}

// Digest stands for all files of evidence: the sha256 of their digests, sorted, one per line. The deployment's reason holds it,
// so that whoever signs the deployment signs what it was decided on.
func (p *PromotionRecord) Digest() release.Digest {
	var lines []string
	for _, e := range p.Evidence {
		lines = append(lines, e.SHA256.String()+"\n")
	}
	slices.Sort(lines)
	return release.Sum([]byte(strings.Join(lines, "")))
}

// note is what the signed reason must say.
func (p *PromotionRecord) note() string {
	switch {
	case p.Bypass != "":
		return "not by promotion: " + p.Bypass
	case len(p.Evidence) == 0:
		return fmt.Sprintf("promoted from %s (sequence %d) without evidence", p.From, p.Sequence)
	}
	return fmt.Sprintf("promoted from %s (sequence %d), evidence %s", p.From, p.Sequence, p.Digest())
}

// Words are the lines that signers read.
func (p *PromotionRecord) Words() []string {
	out := []string{harmless(p.note())}
	for _, e := range p.Evidence {
		doc, err := release.ParseEvidence([]byte(e.Document))
		if err != nil {
			out = append(out, harmless(err.Error()))
			continue
		}
		out = append(out, harmless(fmt.Sprintf("host %s says: %s committed since %s, for %s when asked (not signed; sha256 %s)",
			doc.Host, doc.Release, doc.Committed.Format(time.RFC3339), doc.Soaked(), e.SHA256)))
	}
	return out
}

// PromoteWish asks that Wish.Environment shall run what From runs. Version must be what From's deployment in force names.
type PromoteWish struct {
	Wish
	From release.Environment
	// Evidence are files that hosts of From made with `slipway evidence`.
	Evidence [][]byte
}

// Promote opens a change with a deployment of the very release that another environment's deployment in force names: same digest,
// nothing uploaded again, to be signed by the approvers of the new environment.
func (r *Repository) Promote(ctx context.Context, w PromoteWish) (*Change, error) {
	return r.change(ctx, "promote", w.Origin, func(d *draft) (string, error) {
		rec, err := d.promotable(w)
		if err != nil {
			return "", err
		}
		for _, raw := range w.Evidence {
			rec.Evidence = append(rec.Evidence, EvidenceRecord{release.Sum(raw), string(raw)})
		}
		if err := rec.verify(d.rule(w.Environment), d.r.utc()); err != nil {
			return "", err
		}
		return d.deploy(w.Wish, rec)
	})
}

func (d *draft) rule(env release.Environment) *PromotionRule { return d.policy.rule(env) }

func (p *Policy) rule(env release.Environment) *PromotionRule {
	if t := p.Environments[env]; t != nil {
		return t.Promotion
	}
	return nil
}

// promotable finds what From runs and holds the wish against it.
func (d *draft) promotable(w PromoteWish) (*PromotionRecord, error) {
	what := fmt.Sprintf("cannot promote %s %s from %s to %s", w.App, w.Version, w.From, w.Environment)
	const rule = "what is promoted runs where it comes from"
	if w.From == w.Environment {
		return nil, refuse(rule, what+": that is one environment", "name two")
	}
	src, err := d.lastDeployment(w.From, w.App)
	if err != nil {
		return nil, err
	}
	there := fmt.Sprintf("run deploy new --env %s --app %s --release %s, publish, and let hosts commit it", w.From, w.App, w.Version)
	switch {
	case src == nil || src.Release == nil:
		return nil, refuse(rule, what+": no release of it is deployed in "+w.From.String(), there)
	case src.State != release.StateActive:
		return nil, refuse(rule, fmt.Sprintf("%s: its deployment in %s is %s (%s)", what, w.From, src.State, orNone(src.Reason)), "find out why; promote once it is active again")
	case versionOf(src.Release) != w.Version.String():
		return nil, refuse(rule, fmt.Sprintf("%s: %s runs %s", what, w.From, versionOf(src.Release)), there)
	}
	last, err := d.lastDeployment(w.Environment, w.App)
	if err != nil {
		return nil, err
	}
	if last != nil && last.Release != nil && *last.Release == *src.Release && last.State == release.StateActive {
		return nil, refuse("a change changes something", fmt.Sprintf("%s: %s runs it already (sequence %d)", what, w.Environment, last.Sequence), "use deploy new to roll the same release out again")
	}
	return &PromotionRecord{App: w.App, From: w.From, To: w.Environment, Release: *src.Release, Sequence: src.Sequence}, nil
}

func orNone(s string) string {
	if s == "" {
		return "no reason given"
	}
	return s
}

const maxEvidenceFiles = 32

// verify holds the evidence against the rule; rule may be nil, and what is brought must fit even then.
func (p *PromotionRecord) verify(rule *PromotionRule, now time.Time) error {
	what := fmt.Sprintf("cannot promote %s %s to %s", p.App, versionOf(&p.Release), p.To)
	if rule == nil {
		rule = &PromotionRule{From: p.From}
	} else if rule.From != p.From {
		return refuse("promotion."+p.To.String()+".from", fmt.Sprintf("%s: releases come there from %s, not from %s", what, rule.From, p.From), "promote from "+rule.From.String())
	}
	if len(p.Evidence) > maxEvidenceFiles {
		return refuse("people can read it", fmt.Sprintf("%s: %d files of evidence, at most %d are shown to signers", what, len(p.Evidence), maxEvidenceFiles), "choose some")
	}
	said := map[string]bool{}
	longest := time.Duration(0)
	for _, e := range p.Evidence {
		doc, err := p.fits(e, now)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		longest = max(longest, doc.Soaked())
		if doc.Soaked() >= rule.Committed.Std() {
			said[doc.Host] = true
		}
	}
	if (rule.Committed > 0 || rule.Hosts > 0) && len(said) < rule.hosts() {
		return refuse("promotion."+p.To.String()+".committed",
			fmt.Sprintf("%s: %d of %d hosts of %s say that they have had it committed for at least %s (the longest is %s)", what, len(said), rule.hosts(), p.From, rule.Committed.Std(), longest),
			"wait, run slipway evidence "+p.App.String()+" on hosts of "+p.From.String()+", and give each file with --evidence")
	}
	return nil
}

// fits says whether a file is about this release in this environment, and not from the future.
func (p *PromotionRecord) fits(e EvidenceRecord, now time.Time) (*release.Evidence, error) {
	if release.Sum([]byte(e.Document)) != e.SHA256 {
		return nil, fmt.Errorf("evidence %s was changed since it was recorded", e.SHA256.Short())
	}
	doc, err := release.ParseEvidence([]byte(e.Document))
	if err != nil {
		return nil, err
	}
	_, version, err := release.ParseReleasePath(p.Release.Path)
	if err != nil {
		return nil, err
	}
	want := release.NewID(version, p.Release.SHA256).String()
	const rule, remedy = "evidence is about what is promoted", "run slipway evidence again, on a host that runs it"
	switch {
	case doc.App != p.App || doc.Environment != p.From:
		return nil, refuse(rule, fmt.Sprintf("the evidence of %s is about %s in %s, not %s in %s", doc.Host, doc.App, doc.Environment, p.App, p.From), remedy)
	case doc.Release != want:
		return nil, refuse(rule, fmt.Sprintf("the evidence of %s is about release %s, not %s", doc.Host, doc.Release, want), remedy)
	case doc.Observed.After(now.Add(5 * time.Minute)):
		return nil, refuse(rule, fmt.Sprintf("the evidence of %s was made at %s, which is yet to come", doc.Host, doc.Observed.Format(time.RFC3339)), "set the clocks, and run slipway evidence again")
	}
	return doc, nil
}

// deploy is the one way a deployment gets into a change. rec says where its release comes from; nil leaves that open.
func (d *draft) deploy(w Wish, rec *PromotionRecord) (string, error) {
	last, err := d.lastDeployment(w.Environment, w.App)
	if err != nil {
		return "", err
	}
	doc, err := d.fill(w, last)
	if err != nil {
		return "", err
	}
	if rec == nil {
		if rec, err = d.bypass(w, doc, last); err != nil {
			return "", err
		}
	}
	if rec != nil {
		if doc.Release == nil || *doc.Release != rec.Release || doc.State != release.StateActive {
			return "", refuse("a promotion starts what was promoted", fmt.Sprintf("cannot promote %s: the deployment would be %s with another release than %s", w.App, doc.State, rec.Release.SHA256.Short()),
				"use deploy new for anything but an active deployment of that release")
		}
		doc.Reason = strings.TrimPrefix(doc.Reason+"; "+rec.note(), "; ")
		d.promoted = rec
	}
	if err := d.putDeployment(doc, w.Judge); err != nil {
		return "", err
	}
	words := deploymentWords(doc, last)
	if rec != nil {
		words += ", " + rec.note()
	}
	return words, nil
}

// putDeployment takes a complete document into the change, if judge (may be nil) lets it.
func (d *draft) putDeployment(doc *release.Deployment, judge func(*Prospect) error) error {
	if err := d.knowsRequester(doc); err != nil {
		return err
	}
	raw, err := release.Encode(doc)
	if err != nil {
		return err
	}
	if judge != nil {
		p, err := d.prospect(doc)
		if err == nil {
			err = judge(p)
		}
		if err != nil {
			return err
		}
	}
	path := release.DeploymentPath(doc.Environment, doc.App)
	return d.put(DeployRole(doc.Environment, doc.App), path, release.Sum(raw), int64(len(raw)), source{data: raw})
}

// bypass is what deploy new needs where releases come by promotion.
func (d *draft) bypass(w Wish, doc, last *release.Deployment) (*PromotionRecord, error) {
	rule := d.rule(w.Environment)
	if rule == nil || !startsNew(doc, last) {
		return nil, nil
	}
	if w.Bypass == "" {
		return nil, byPromotion(rule, doc)
	}
	return &PromotionRecord{App: w.App, To: w.Environment, Release: *doc.Release, Bypass: w.Bypass}, nil
}

func byPromotion(rule *PromotionRule, doc *release.Deployment) error {
	v := versionOf(doc.Release)
	return refuse("promotion."+doc.Environment.String(), fmt.Sprintf("cannot deploy %s %s to %s: releases come there by promotion from %s", doc.App, v, doc.Environment, rule.From),
		fmt.Sprintf("run deploy promote %s %s --from %s --to %s; in an emergency, --without-promotion REASON, which the signers read", doc.App, v, rule.From, doc.Environment))
}

// startsNew reports a deployment that starts a release the environment has not deployed before. Stops, reverts and the release
// in force or its fallback need no promotion: they must never be held up.
func startsNew(doc, last *release.Deployment) bool {
	if doc.Release == nil || doc.State != release.StateActive {
		return false
	}
	if last == nil {
		return true
	}
	same := func(ref *release.Reference) bool { return ref != nil && *ref == *doc.Release }
	return !same(last.Release) && !same(last.Fallback)
}

// checkPromotion holds a deployment that is about to be published against the rule again: the change's folder may have come by
// mail, and what counts is what was signed.
func (p *plan) checkPromotion(c *Change, raw []byte) error {
	doc, err := release.ParseDeployment(raw)
	if err != nil {
		return err
	}
	rule := p.policy.rule(doc.Environment)
	d := &draft{r: p.r, state: p.before}
	last, err := d.lastDeployment(doc.Environment, doc.App)
	if err != nil || rule == nil || !startsNew(doc, last) {
		return err
	}
	at := slices.IndexFunc(c.Promotions, func(r *PromotionRecord) bool {
		return r != nil && r.App == doc.App && r.To == doc.Environment && r.Release == *doc.Release && strings.HasSuffix(doc.Reason, r.note())
	})
	if at < 0 {
		return byPromotion(rule, doc)
	}
	if c.Promotions[at].Bypass != "" {
		return nil
	}
	return c.Promotions[at].verify(rule, p.r.utc())
}

// record keeps the newest word on each app and environment.
func (c *Change) record(rec *PromotionRecord) {
	if rec == nil {
		return
	}
	c.Promotions = slices.DeleteFunc(c.Promotions, func(r *PromotionRecord) bool { return r == nil || r.App == rec.App && r.To == rec.To })
	c.Promotions = append(c.Promotions, rec)
}
