package repository

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

// NumberOptions is how to recover a number that hosts remember: the sequence of deployments or the epoch of emergencies.
type NumberOptions struct {
	// Above is the highest number that hosts say they have accepted; what is made gets the next one. Zero goes back to what was
	// in force before somebody leapt ahead.
	Above  int64
	Reason string
	Origin Origin
}

// RecoverSequence opens a change with a deployment that hosts accept although they remember a higher sequence.
//
// With Above it overtakes what they remember: for a publisher that lost its history. Without, it goes back to the deployment
// before a leap, and counts on from there. Hosts follow only if the keys that signed the leap leave the role in the same
// change (Origin.Into): a host forgets a sequence when a key that signed it is gone, and would otherwise meet the leapt
// sequence again under keys that stay.
func (r *Repository) RecoverSequence(ctx context.Context, env release.Environment, app release.App, o NumberOptions) (*Change, error) {
	if err := checkReason(o.Reason); err != nil {
		return nil, err
	}
	return r.change(ctx, "recover", o.Origin, func(d *draft) (string, error) {
		c := deploymentCounter(env, app)
		like, next, words, err := d.recoverNumber(c, o.Above)
		if err != nil {
			return "", err
		}
		doc, err := release.ParseDeployment(like.raw)
		if err != nil {
			return "", err
		}
		if doc.Expires != nil && !doc.Expires.After(d.r.utc()) {
			words += ", without its expiry of " + doc.Expires.Format(time.RFC3339)
			doc.Expires = nil
		}
		doc.Sequence, doc.Created, doc.Reason, doc.RequestedBy = next, d.r.utc(), o.Reason, o.Origin.RequestedBy
		if doc.RolloutID, err = newRollout(env, app, next); err != nil {
			return "", err
		}
		last, err := d.lastDeployment(env, app)
		if err != nil {
			return "", err
		}
		if err := d.putDeployment(doc, nil); err != nil {
			return "", err
		}
		return summary(deploymentWords(doc, last)+", "+words, "", o.Reason), nil
	})
}

// RecoverEpoch is RecoverSequence for an environment's emergency document: its entries are those that were in force before
// the leap and have not lapsed.
func (r *Repository) RecoverEpoch(ctx context.Context, env release.Environment, o NumberOptions) (*Change, error) {
	if err := checkReason(o.Reason); err != nil {
		return nil, err
	}
	return r.change(ctx, "recover", o.Origin, func(d *draft) (string, error) {
		like, next, words, err := d.recoverNumber(emergencyCounter(env), o.Above)
		if err != nil {
			return "", err
		}
		was, err := release.ParseEmergency(like.raw)
		if err != nil {
			return "", err
		}
		doc := &release.Emergency{Schema: release.EmergencySchema, Environment: env, Epoch: next, Issued: d.r.utc(), Entries: []release.EmergencyEntry{}}
		for _, e := range was.Entries {
			if e.Until == nil || e.Until.After(doc.Issued) {
				doc.Entries = append(doc.Entries, e)
				words += "; keeps " + EmergencyWords(e)
			}
		}
		if err := d.putEmergency(doc); err != nil {
			return "", err
		}
		return summary("emergency "+env.String()+", "+words, "", o.Reason), nil
	})
}

// recoverNumber finds what was right, and the number it gets now.
func (d *draft) recoverNumber(c counter, above int64) (like past, next int64, words string, err error) {
	list, err := d.history(c)
	if err != nil {
		return like, 0, "", err
	}
	if len(list) == 0 {
		return like, 0, "", refuse("only what exists is recovered", fmt.Sprintf("cannot recover the %s of %s: nothing is published there", c.what, c.role), "make the first document; if hosts have seen one, its number must be reached with --above after that")
	}
	last := list[0]
	if above != 0 {
		return d.overtake(c, last, above)
	}
	honest, leapt, found := beforeLeap(list)
	if !found {
		return like, 0, "", refuse("a sequence only grows", fmt.Sprintf("cannot go back in %s: %s %d follows what was before it, nobody leapt", c.path, c.what, last.number),
			"if hosts have accepted a higher one, name it with --above NUMBER; otherwise just make the next document")
	}
	by, err := d.signersOf(c.role)
	if err != nil {
		return like, 0, "", err
	}
	next = honest.number + 1
	if err := d.mayGoBack(c, next, by); err != nil {
		return like, 0, "", err
	}
	return honest, next, fmt.Sprintf("%s %d again as in version %d, back from %d that %s signed in version %d", c.what, next, honest.version, last.number, joinKeys(leapt.signers), leapt.version), nil
}

func (d *draft) overtake(c counter, last past, above int64) (past, int64, string, error) {
	switch {
	case above < last.number:
		return last, 0, "", refuse("a change changes something", fmt.Sprintf("cannot recover the %s of %s: %d is published, hosts that accepted %d accept it", c.what, c.role, last.number, above),
			"there is nothing to do; if a host still refuses, give --above the number that it names")
	case above-last.number >= maxLeap:
		return last, 0, "", refuse("a sequence cannot be used up", fmt.Sprintf("cannot leap from %s %d over %d: at most %d at once", c.what, last.number, above, maxLeap),
			"revoke the keys that signed it: hosts then forget the number, and the published "+fmt.Sprint(last.number)+" counts again")
	}
	return last, above + 1, fmt.Sprintf("%s %d above the %d that hosts have seen, content as published", c.what, above+1, above), nil
}

// Sighting is a number that somebody read on a host or a mirror: the version of a role, the sequence of a deployment, the
// epoch of an emergency document.
type Sighting struct {
	Role   string
	Of     string // "version", "sequence" or "epoch"
	Number int64
}

// ParseSighting reads "timestamp=900", "sequence:production/billing=900" or "epoch:production=7".
func ParseSighting(s string) (Sighting, error) {
	bad := fmt.Errorf("cannot read %q: write ROLE=VERSION, sequence:ENVIRONMENT/APP=NUMBER or epoch:ENVIRONMENT=NUMBER", s)
	what, number, _ := strings.Cut(s, "=")
	var n int64
	if _, err := fmt.Sscanf(number, "%d", &n); err != nil || n < 1 || fmt.Sprint(n) != number {
		return Sighting{}, bad
	}
	out := Sighting{Role: what, Of: "version", Number: n}
	if kind, rest, ok := strings.Cut(what, ":"); ok {
		out.Of = kind
		switch kind {
		case "sequence":
			out.Role = classDeploy + "." + strings.ReplaceAll(rest, "/", ".")
		case "epoch":
			out.Role = classEmergency + "." + rest
		default:
			return Sighting{}, bad
		}
	}
	if _, err := rolePattern(out.Role); err != nil && !topLevel(out.Role) {
		return Sighting{}, bad
	}
	return out, nil
}
