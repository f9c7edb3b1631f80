package repository

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"strings"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/keys"
)

const policySchema = "slipway.policy/v1"

// Policy is policy.json: what the publisher's own tools do by default. Nothing in it is trusted by a host; what it leads to
// is signed by the roles concerned.
type Policy struct {
	Schema string `json:"schema"`
	// Expiry holds the lifetime of a fresh signature by class of role: root, targets, snapshot, timestamp, app, deploy,
	// emergency, inventory.
	Expiry map[string]Period `json:"expiry"`
	// RoleExpiry is the lifetime of single delegated roles, by name. It goes before the environment's and the class's.
	RoleExpiry map[string]Period `json:"role_expiry,omitempty"`
	// OnlineKeys are the signers of snapshot and timestamp, as key files; relative paths start at the repository.
	OnlineKeys []string `json:"online_keys,omitempty"`
	// Destinations are where hosts read from, as directories or s3:// references without credentials; relative paths start at
	// the repository. None means from the repository directory itself. The first decides whether a publish happened.
	Destinations []string                          `json:"destinations,omitempty"`
	Environments map[release.Environment]*Template `json:"environments,omitempty"`
}

// Template is what the deployment roles of an environment get when an app or the environment is added. SetEnvironment changes
// it together with the roles that exist.
type Template struct {
	Keys      []keys.Public `json:"keys"`
	Threshold int           `json:"threshold"`
	// NoSpare is why the loss of one key may end the role (threshold = number of keys); empty when there is a spare.
	NoSpare string `json:"no_spare,omitempty"`
	// Apart keeps the requester of a deployment from approving it, and the keys of an app from approving its deployments.
	Apart bool `json:"requester_apart,omitempty"`
	// Expiry replaces the policy's for this environment's deployment roles; zero means the policy's.
	Expiry Period `json:"expiry,omitzero"`
	// Freshness is given to deployments that name none. Zero leaves the timestamp's expiry as the only bound.
	Freshness release.Duration `json:"freshness,omitempty"`
	// Promotion, if set, is how new releases come into the environment.
	Promotion *PromotionRule `json:"promotion,omitempty"`
}

// DefaultPolicy is what Create writes: a year for offline keys, a quarter for approvals, days for online keys.
func DefaultPolicy() Policy {
	return Policy{Schema: policySchema, Expiry: map[string]Period{
		classRoot: Period(365 * day), classTargets: Period(365 * day), classApp: Period(365 * day),
		classDeploy: Period(90 * day), classEmergency: Period(90 * day), classInventory: Period(90 * day),
		classSnapshot: Period(7 * day), classTimestamp: Period(3 * day),
	}}
}

func (p *Policy) check() error {
	if p.Schema != policySchema {
		return fmt.Errorf("schema is %q, want %q", p.Schema, policySchema)
	}
	for class := range p.Expiry {
		if _, ok := DefaultPolicy().Expiry[class]; !ok {
			return fmt.Errorf("expiry.%s: there is no such class of roles", class)
		}
	}
	for role := range p.RoleExpiry {
		if _, err := rolePattern(role); err != nil {
			return fmt.Errorf("role_expiry: %w", err)
		}
	}
	for _, ref := range p.OnlineKeys {
		// The policy travels with the repository: whoever writes it must not choose what program a publisher runs.
		if _, err := keys.FilePath(ref); err != nil {
			return fmt.Errorf("online_keys: %w", err)
		}
	}
	for env, t := range p.Environments {
		if t == nil {
			return fmt.Errorf("environments.%s: is null", env)
		}
		if err := checkKeys("environments."+env.String(), t.Keys, t.Threshold, t.NoSpare); err != nil {
			return err
		}
		if t.Promotion != nil {
			if err := t.Promotion.check(env); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *Policy) expiry(role string) Period {
	if e, ok := p.RoleExpiry[role]; ok {
		return e
	}
	class := roleClass(role)
	if class == classDeploy {
		if env, _, err := splitDeploy(role); err == nil {
			if t := p.Environments[env]; t != nil && t.Expiry != 0 {
				return t.Expiry
			}
		}
	}
	if e, ok := p.Expiry[class]; ok {
		return e
	}
	return DefaultPolicy().Expiry[class]
}

// words are what a change adds to the policy, one line each.
func (p *Policy) words() []string {
	if p == nil {
		return nil
	}
	var out []string
	for _, env := range sortedEnvironments(p.Environments) {
		t := p.Environments[env]
		line := fmt.Sprintf("deployment roles of apps to come in %s are %s", env, appointed(signers{keys: t.Keys, threshold: t.Threshold, apart: t.Apart}))
		if t.Expiry != 0 {
			line += ", for " + t.Expiry.String()
		}
		if t.Freshness != 0 {
			line += ", freshness " + t.Freshness.String()
		}
		if t.Promotion != nil {
			line += ", releases come from " + t.Promotion.From.String()
		}
		out = append(out, harmless(line))
	}
	for _, m := range []map[string]Period{p.Expiry, p.RoleExpiry} {
		for _, name := range sortedKeys(m) {
			out = append(out, harmless(fmt.Sprintf("signatures of %s last %s", name, m[name])))
		}
	}
	if len(p.OnlineKeys) > 0 {
		out = append(out, harmless("snapshot and timestamp are signed with "+strings.Join(p.OnlineKeys, ", ")))
	}
	return out
}

// merge takes over what a change adds to the policy. It is idempotent: an interrupted publish repeats it.
func (p *Policy) merge(add *Policy) {
	if add == nil {
		return
	}
	if p.Environments == nil {
		p.Environments = map[release.Environment]*Template{}
	}
	maps.Copy(p.Environments, add.Environments)
	if p.Expiry == nil {
		p.Expiry = map[string]Period{}
	}
	maps.Copy(p.Expiry, add.Expiry)
	if p.RoleExpiry == nil {
		p.RoleExpiry = map[string]Period{}
	}
	maps.Copy(p.RoleExpiry, add.RoleExpiry)
	if len(add.OnlineKeys) > 0 {
		p.OnlineKeys = add.OnlineKeys
	}
}

func readPolicy(path string) (*Policy, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read policy: %w", err)
	}
	var p Policy
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return nil, fmt.Errorf("cannot read policy %s: %w", path, err)
	}
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("cannot use policy %s: %w", path, err)
	}
	return &p, nil
}

func writePolicy(path string, p *Policy) error {
	data, err := indent(p)
	if err != nil {
		return fmt.Errorf("cannot encode policy: %w", err)
	}
	return durable.WriteFile(path, data, 0o644)
}
