package repository

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/slipway-deploy/slipway/agent/release"
)

// Wish is a deployment as a person asks for it. Document carries waves, health, times and the like; what the tool decides
// (schema, names, sequence, rollout id, release, fallback, created) is filled in and must be zero there.
type Wish struct {
	App         release.App
	Environment release.Environment
	// Version is the release to run; zero with Absent means that the app shall be gone.
	Version release.Version
	Absent  bool
	// Fallback is what a fleet revert goes back to; zero means the release of the deployment before this one.
	Fallback release.Version
	Document release.Deployment
	// PinInventory pins the inventory that is published, or that the change brings.
	PinInventory bool
	Origin       Origin
	// Bypass is why a release is deployed without the promotion that policy.json asks for.
	Bypass string
	// Judge, if set, is shown the document as it will be signed, before anything is written, and may refuse it.
	Judge func(*Prospect) error
}

// NewDeployment opens a change with the next deployment of the app in the environment, to be signed by the approvers.
func (r *Repository) NewDeployment(ctx context.Context, w Wish) (*Change, error) {
	return r.change(ctx, "deploy", w.Origin, func(d *draft) (string, error) {
		return d.deploy(w, nil)
	})
}

func (d *draft) fill(w Wish, last *release.Deployment) (*release.Deployment, error) {
	doc := w.Document
	doc.Schema, doc.App, doc.Environment = release.DeploymentSchema, w.App, w.Environment
	doc.Created, doc.Sequence, doc.Absent = d.r.utc(), 1, w.Absent
	var err error
	if last != nil {
		if doc.Sequence, err = following("sequence", last.Sequence); err != nil {
			return nil, err
		}
	}
	if doc.RolloutID, err = newRollout(w.Environment, w.App, doc.Sequence); err != nil {
		return nil, err
	}
	if doc.State == "" {
		doc.State = release.StateActive
	}
	if doc.RequestedBy == "" {
		doc.RequestedBy = w.Origin.RequestedBy
	}
	if t := d.policy.Environments[w.Environment]; t != nil && doc.Freshness == 0 {
		doc.Freshness = t.Freshness
	}
	if !w.Absent {
		if doc.Release, err = d.findRelease(w.App, w.Version); err != nil {
			return nil, err
		}
	}
	if w.PinInventory {
		if doc.Inventory, err = d.pin(w.Environment); err != nil {
			return nil, err
		}
	}
	switch {
	case !w.Fallback.IsZero():
		doc.Fallback, err = d.findRelease(w.App, w.Fallback)
	case last != nil && last.Release != nil && doc.Release != nil:
		doc.Fallback = last.Release
		if *last.Release == *doc.Release {
			doc.Fallback = last.Fallback
		}
	}
	return &doc, err
}

func (d *draft) pin(env release.Environment) (*release.InventoryRef, error) {
	inv, digest, err := d.lastInventory(env)
	if err != nil {
		return nil, err
	}
	if inv == nil {
		why := fmt.Sprintf("%s has no published inventory to pin: run inventory set %s FILE first", env, env)
		return nil, &release.DocumentError{Document: "deployment", Problems: []release.Problem{{Field: "inventory", Reason: why}}}
	}
	return &release.InventoryRef{SHA256: digest}, nil
}

// newRollout names a rollout: hosts draw their place in it from the name, so no two are alike.
func newRollout(env release.Environment, app release.App, sequence int64) (string, error) {
	suffix := make([]byte, 4)
	if _, err := rand.Read(suffix); err != nil {
		return "", fmt.Errorf("cannot name rollout: %w", err)
	}
	return fmt.Sprintf("%s-%s-%d-%s", env, app, sequence, hex.EncodeToString(suffix)), nil
}

// lastDeployment reads the document that is in force, or the one in the change this draft adds to.
func (d *draft) lastDeployment(env release.Environment, app release.App) (*release.Deployment, error) {
	role, path := DeployRole(env, app), release.DeploymentPath(env, app)
	raw, err := d.document(role, path)
	if err != nil || raw == nil {
		return nil, err
	}
	return release.ParseDeployment(raw)
}

// deploymentWords is the change in one line, for the people who sign it.
func deploymentWords(doc, last *release.Deployment) string {
	from, to := "nothing", "nothing"
	if last != nil && last.Release != nil {
		from = versionOf(last.Release)
	}
	if doc.Release != nil {
		to = versionOf(doc.Release)
	}
	s := fmt.Sprintf("%s/%s: %s → %s", doc.Environment, doc.App, from, to)
	if doc.State != release.StateActive {
		s += ", " + string(doc.State)
	}
	if len(doc.Waves) > 0 {
		s += ", waves " + wavesWords(doc.Waves)
	}
	if doc.RequestedBy != "" {
		s += ", requested by " + doc.RequestedBy
	}
	if doc.Ticket != "" {
		s += ", ticket " + doc.Ticket
	}
	return s
}

// wavesWords is the rollout in a few words: "canary 5 %, all 100 % after 2h".
func wavesWords(waves []release.Wave) string {
	var out []string
	for _, w := range waves {
		words := w.Name
		switch {
		case w.PercentBP > 0:
			words += " " + strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", float64(w.PercentBP)/100), "0"), ".") + " %"
		case w.Count > 0:
			words += " " + counted(w.Count, "host")
		case len(w.Hosts) > 0:
			words += " " + counted(len(w.Hosts), "named host")
		case len(w.Labels) > 0:
			words += " " + hostWords("with", w.Labels)
		}
		if w.StartAfter > 0 {
			words += " after " + w.StartAfter.String()
		}
		out = append(out, words)
	}
	return strings.Join(out, ", ")
}

func versionOf(ref *release.Reference) string {
	_, v, err := release.ParseReleasePath(ref.Path)
	if err != nil {
		return ref.Path
	}
	return v.String()
}
