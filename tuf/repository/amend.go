package repository

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

// Amendment changes a deployment in force without starting its rollout anew. What is nil or empty stays.
type Amendment struct {
	App         release.App
	Environment release.Environment
	State       release.DeploymentState
	MaxWave     string
	Expires     *time.Time
	Reason      string
	Ticket      string
	Origin      Origin
	// Judge is that of Wish.
	Judge func(*Prospect) error
}

// Amend opens a change with the next sequence of the deployment in force: the same release, waves and rollout id, so that the order
// of hosts, what start_after counts from and the quarantines on hosts stay as they are.
func (r *Repository) Amend(ctx context.Context, a Amendment) (*Change, error) {
	return r.change(ctx, "deploy", a.Origin, func(d *draft) (string, error) {
		last, err := d.lastDeployment(a.Environment, a.App)
		if err != nil {
			return "", err
		}
		if last == nil {
			return "", refuse("an amendment amends something", fmt.Sprintf("cannot amend: no deployment of %s is in force in %s", a.App, a.Environment), "use deploy new")
		}
		doc, words := a.to(last)
		if len(words) == 0 {
			return "", refuse("a change changes something", fmt.Sprintf("cannot amend %s/%s: it is so already", a.Environment, a.App), "say what shall be other; to roll the same release out again, use deploy new")
		}
		doc.Created = d.r.utc()
		if doc.Sequence, err = following("sequence", last.Sequence); err != nil {
			return "", err
		}
		if err := d.putDeployment(doc, a.Judge); err != nil {
			return "", err
		}
		return fmt.Sprintf("%s/%s: amend sequence %d: %s", a.Environment, a.App, last.Sequence, strings.Join(words, ", ")), nil
	})
}

// to is the amended document, and what is other about it.
func (a *Amendment) to(last *release.Deployment) (*release.Deployment, []string) {
	doc := *last
	var words []string
	change := func(what, from, to string) {
		if from == "" {
			from = "none"
		}
		words = append(words, fmt.Sprintf("%s %s → %s", what, from, to))
	}
	if a.State != "" && a.State != last.State {
		change("state", string(last.State), string(a.State))
		doc.State = a.State
	}
	if a.MaxWave != "" && a.MaxWave != last.MaxWave {
		change("max_wave", last.MaxWave, a.MaxWave)
		doc.MaxWave = a.MaxWave
	}
	if a.Expires != nil && (last.Expires == nil || !last.Expires.Equal(*a.Expires)) {
		change("expires", stamp(last.Expires), stamp(a.Expires))
		doc.Expires = a.Expires
	}
	if doc.NotBefore == nil { // start_after goes on counting from where it did
		doc.NotBefore = &last.Created
	}
	doc.Reason = a.Reason
	if a.Ticket != "" {
		doc.Ticket = a.Ticket
	}
	doc.RequestedBy = a.Origin.RequestedBy // whoever asked for the rollout did not ask for this
	return &doc, words
}

func stamp(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
