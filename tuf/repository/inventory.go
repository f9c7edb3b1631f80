package repository

import (
	"context"
	"fmt"
	"maps"

	"github.com/slipway-deploy/slipway/agent/release"
)

// Inventory reads the inventory that is published for an environment, and its digest; nil if there is none.
func (r *Repository) Inventory(env release.Environment) (*release.Inventory, release.Digest, error) {
	s, err := load(r.metadataDir())
	if err != nil {
		return nil, release.Digest{}, err
	}
	d := &draft{r: r, state: s}
	if err := d.hasRole(InventoryRole(env)); err != nil {
		return nil, release.Digest{}, err
	}
	return d.lastInventory(env)
}

func (d *draft) lastInventory(env release.Environment) (*release.Inventory, release.Digest, error) {
	raw, err := d.document(InventoryRole(env), release.InventoryPath(env))
	if err != nil || raw == nil {
		return nil, release.Digest{}, err
	}
	doc, err := release.ParseInventory(raw)
	return doc, release.Sum(raw), err
}

// SetInventory opens a change that replaces an environment's list of hosts.
func (r *Repository) SetInventory(ctx context.Context, env release.Environment, hosts []release.InventoryHost, o Origin) (*Change, error) {
	return r.change(ctx, "inventory", o, func(d *draft) (string, error) {
		role := InventoryRole(env)
		if err := d.hasRole(role); err != nil {
			return "", err
		}
		last, _, err := d.lastInventory(env)
		if err != nil {
			return "", err
		}
		words, changed := inventoryWords(last, hosts)
		if !changed {
			return "", refuse("a change changes something", "cannot set the inventory of "+env.String()+": it lists the same hosts", "there is nothing to do; for a fresh signature use role renew")
		}
		raw, err := release.Encode(&release.Inventory{Schema: release.InventorySchema, Environment: env, Issued: d.r.utc(), Hosts: hosts})
		if err != nil {
			return "", err
		}
		if len(raw) > maxDocument {
			return "", refuse("clients bound what they read", fmt.Sprintf("cannot set an inventory of %d bytes: hosts accept %d", len(raw), maxDocument), "shorten the labels")
		}
		if err := d.put(role, release.InventoryPath(env), release.Sum(raw), int64(len(raw)), source{data: raw}); err != nil {
			return "", err
		}
		return fmt.Sprintf("inventory %s: %s, sha256 %s", env, words, release.Sum(raw)), nil
	})
}

func inventoryWords(last *release.Inventory, hosts []release.InventoryHost) (string, bool) {
	before := map[string]map[string]string{}
	if last != nil {
		for _, h := range last.Hosts {
			before[h.ID] = h.Labels
		}
	}
	added, relabelled := 0, 0
	for _, h := range hosts {
		labels, ok := before[h.ID]
		delete(before, h.ID)
		if !ok {
			added++
		} else if !maps.Equal(labels, h.Labels) {
			relabelled++
		}
	}
	words := fmt.Sprintf("%d hosts: %d come, %d leave, %d get other labels", len(hosts), added, len(before), relabelled)
	return words, last == nil || added+relabelled+len(before) > 0
}

// PinnedInventories lists the deployments in force in env that pin another inventory than digest: their hosts change nothing
// until a deployment for the new one is signed.
func (r *Repository) PinnedInventories(env release.Environment, digest release.Digest) ([]string, error) {
	s, err := load(r.metadataDir())
	if err != nil {
		return nil, err
	}
	d := &draft{r: r, state: s}
	var out []string
	for _, role := range s.roles() {
		if roleClass(role) != classDeploy {
			continue
		}
		e, app, err := splitDeploy(role)
		if err != nil {
			return nil, err
		}
		if e != env {
			continue
		}
		doc, err := d.lastDeployment(env, app)
		if err != nil {
			return nil, err
		}
		if doc != nil && doc.Inventory != nil && doc.Inventory.SHA256 != digest {
			out = append(out, app.String())
		}
	}
	return out, nil
}
