package repository

import (
	"fmt"
	"os"

	"github.com/slipway-deploy/slipway/agent/release"
)

// Prospect is a deployment as hosts will read it, with what they will read beside it. Inventory and Emergency are nil where the
// environment has none.
type Prospect struct {
	Deployment      *release.Deployment
	Inventory       *release.Inventory
	InventoryDigest release.Digest
	Emergency       *release.Emergency
}

// Draft is the deployment that NewDeployment would put into a change, made and judged without making one. Its rollout id is the
// same every time: the one that is signed is drawn when the change is made.
func (r *Repository) Draft(w Wish) (*Prospect, error) {
	d, err := r.begin(w.Origin)
	if err != nil {
		return nil, err
	}
	last, err := d.lastDeployment(w.Environment, w.App)
	if err != nil {
		return nil, err
	}
	doc, err := d.fill(w, last)
	if err != nil {
		return nil, err
	}
	doc.RolloutID = fmt.Sprintf("%s-%s-%d-draft", w.Environment, w.App, doc.Sequence)
	if _, err := release.Encode(doc); err != nil {
		return nil, err
	}
	return d.prospect(doc)
}

// InForce is the published deployment of an app in an environment; nil if there is none.
func (r *Repository) InForce(env release.Environment, app release.App) (*Prospect, error) {
	s, err := load(r.metadataDir())
	if err != nil {
		return nil, err
	}
	d := &draft{r: r, state: s}
	doc, err := d.lastDeployment(env, app)
	if err != nil || doc == nil {
		return nil, err
	}
	return d.prospect(doc)
}

// Prospects are the deployments that an open change brings, in the order of their roles. A role that is only renewed, or gets
// other keys, brings none.
func (r *Repository) Prospects(c *Change) ([]*Prospect, error) {
	d, err := r.begin(Origin{Into: c.ID})
	if err != nil {
		return nil, err
	}
	return d.prospects(c)
}

// Prospects are the deployments that the change brings, by its verified base.
func (v *Review) Prospects() ([]*Prospect, error) {
	return (&draft{r: v.r, state: v.s, into: v.Change}).prospects(v.Change)
}

func (d *draft) prospects(c *Change) ([]*Prospect, error) {
	var out []*Prospect
	for _, role := range c.Roles() {
		if roleClass(role) != classDeploy {
			continue
		}
		env, app, err := splitDeploy(role)
		if err != nil {
			return nil, err
		}
		if _, err := os.Lstat(c.filePath(release.DeploymentPath(env, app))); absent(err) {
			continue // a renewal, or other keys
		}
		doc, err := d.lastDeployment(env, app)
		if err != nil {
			return nil, fmt.Errorf("cannot read the deployment in change %s: %w", c.ID, err)
		}
		if doc == nil {
			continue // its role does not list it: publish refuses the file
		}
		p, err := d.prospect(doc)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func (d *draft) prospect(doc *release.Deployment) (*Prospect, error) {
	p := &Prospect{Deployment: doc}
	var err error
	if p.Inventory, p.InventoryDigest, err = d.lastInventory(doc.Environment); err != nil {
		return nil, err
	}
	p.Emergency, err = d.lastEmergency(doc.Environment)
	return p, err
}
