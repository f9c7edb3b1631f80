package repository

import (
	"context"
	"fmt"
	"slices"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/keys"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// AppOptions is who may sign the releases of a new app.
type AppOptions struct {
	Keys      []keys.Public
	Threshold int
	NoSpare   string
	Origin    Origin
}

// AddApp opens a change that delegates the app's releases to its keys, and its deployments in every environment to that
// environment's approvers. The new roles have no metadata until something is signed in them.
func (r *Repository) AddApp(ctx context.Context, app release.App, o AppOptions) (*Change, error) {
	return r.change(ctx, "app", o.Origin, func(d *draft) (string, error) {
		role := AppRole(app)
		if err := checkKeys(role, o.Keys, o.Threshold, o.NoSpare); err != nil {
			return "", err
		}
		targets, err := d.edit(classTargets)
		if err != nil {
			return "", err
		}
		if delegation(targets, role) != nil {
			return "", refuse("an app is added once", "cannot add app "+app.String()+": it exists", "while the change that adds it is open: change abandon, and add it again; once published, role set changes its keys")
		}
		if err := d.checkApart(role, o.Keys); err != nil {
			return "", err
		}
		if err := delegate(targets, role, o.Keys, o.Threshold); err != nil {
			return "", err
		}
		for env, t := range d.policy.Environments {
			if err := t.delegate(targets, DeployRole(env, app)); err != nil {
				return "", err
			}
		}
		return fmt.Sprintf("add app %s, signed by %d of %d keys", app, o.Threshold, len(o.Keys)), nil
	})
}

// EnvironmentOptions is who approves deployments in a new environment, and optionally who may stop it and list its hosts.
type EnvironmentOptions struct {
	Template
	// Emergency keys may stop, hold and revoke: any one of them. None means that there is no emergency role.
	Emergency []keys.Public
	// Inventory keys list the hosts. None means that there is no inventory.
	Inventory []keys.Public
	Origin    Origin
}

// AddEnvironment opens a change that gives every app a deployment role in the environment, made from its template, and
// remembers the template for apps to come.
func (r *Repository) AddEnvironment(ctx context.Context, env release.Environment, o EnvironmentOptions) (*Change, error) {
	return r.change(ctx, "env", o.Origin, func(d *draft) (string, error) {
		if d.policy.Environments[env] != nil {
			return "", refuse("an environment is added once", "cannot add environment "+env.String()+": it exists", "while the change that adds it is open: change abandon, and add it again; once published, env set changes it")
		}
		if err := checkKeys("environment "+env.String(), o.Keys, o.Threshold, o.NoSpare); err != nil {
			return "", err
		}
		for _, c := range d.open {
			if c.Policy != nil && c.Policy.Environments[env] != nil && (d.into == nil || d.into.ID != c.ID) {
				return "", &ConflictError{Role: "environment " + env.String(), Change: c.ID}
			}
		}
		if err := d.delegateEnvironment(env, o); err != nil {
			return "", err
		}
		t := o.Template
		d.additions().Environments[env] = &t
		words := fmt.Sprintf("add environment %s, deployments approved by %d of %d keys", env, o.Threshold, len(o.Keys))
		return words + signers{apart: o.Apart}.dutyWords(), nil
	})
}

func (d *draft) delegateEnvironment(env release.Environment, o EnvironmentOptions) error {
	targets, err := d.edit(classTargets)
	if err != nil {
		return err
	}
	if err := d.checkApart("environment "+env.String(), o.Keys); err != nil {
		return err
	}
	for _, app := range apps(targets) {
		if err := o.Template.delegate(targets, DeployRole(env, app)); err != nil {
			return err
		}
	}
	for role, list := range map[string][]keys.Public{EmergencyRole(env): o.Emergency, InventoryRole(env): o.Inventory} {
		if len(list) == 0 {
			continue
		}
		if err := checkKeys(role, list, 1, ""); err != nil {
			return err
		}
		if err := d.checkApart(role, list); err != nil {
			return err
		}
		if err := delegate(targets, role, list, 1); err != nil {
			return err
		}
	}
	return nil
}

// delegate adds a deployment role made from the template.
func (t *Template) delegate(targets *metadata.TargetsType, role string) error {
	if err := delegate(targets, role, t.Keys, t.Threshold); err != nil {
		return err
	}
	setApart(delegation(targets, role), t.Apart)
	return nil
}

// apps lists the apps that targets delegates, by name.
func apps(targets *metadata.TargetsType) []release.App {
	if targets == nil || targets.Delegations == nil {
		return nil
	}
	var out []release.App
	for _, d := range targets.Delegations.Roles {
		if roleClass(d.Name) != classApp {
			continue
		}
		if app, err := release.ParseApp(d.Name[len(classApp)+1:]); err == nil {
			out = append(out, app)
		}
	}
	return out
}

// Renew opens a change that signs the published content of roles again, with a fresh expiry. With no roles it takes every
// offline role that expires within the given time.
func (r *Repository) Renew(ctx context.Context, roles []string, within Period, o Origin) (*Change, error) {
	return r.change(ctx, "renew", o, func(d *draft) (string, error) {
		if len(roles) == 0 {
			var err error
			if roles, err = d.expiring(within); err != nil {
				return "", err
			}
		}
		if len(roles) == 0 {
			return "", refuse("a change changes something", fmt.Sprintf("cannot renew: no offline role expires within %s", within), "name the roles, or a longer time")
		}
		for _, role := range roles {
			if err := d.renew(role); err != nil {
				return "", err
			}
		}
		return fmt.Sprintf("renew %d roles", len(roles)), nil
	})
}

func (d *draft) renew(role string) error {
	switch {
	case role == classSnapshot || role == classTimestamp:
		return refuse("the online keys sign freshness", "cannot renew "+role+" in a change", "run refresh")
	case role == classRoot:
		for _, c := range d.open {
			if _, ok := c.Base[classRoot]; ok {
				return &ConflictError{Role: role, Change: c.ID}
			}
		}
		root := *d.state.root
		root.Version++
		root.Expires = d.r.expires(d.policy, classRoot)
		d.docs[classRoot] = &root
		return nil
	case d.state.version(role) == 0:
		return refuse("only what exists can be renewed", "cannot renew "+role+": it has no published version", "publish something in it first, and leave it out until then")
	}
	_, err := d.edit(role)
	return err
}

func (d *draft) expiring(within Period) ([]string, error) {
	limit := d.r.utc().Add(within.Std())
	var out []string
	if d.state.root.Expires.Before(limit) {
		out = append(out, classRoot)
	}
	for _, role := range d.state.roles() {
		t, err := d.state.role(role)
		if err != nil {
			return nil, err
		}
		if t.Expires.Before(limit) {
			out = append(out, role)
		}
	}
	return slices.Clip(out), nil
}
