package release

import "fmt"

// Validate checks the rules that types cannot express and returns all problems at once.
func (e *Emergency) Validate() error {
	if err := kindEmergency.schemaError(e.Schema); err != nil {
		return err
	}
	p := &problems{}
	if e.Environment.IsZero() {
		p.add("environment", "it is missing")
	}
	if e.Epoch < 1 {
		p.add("epoch", "%d is below 1: every emergency document has a higher epoch than the one before", e.Epoch)
	}
	if e.Issued.IsZero() {
		p.add("issued", "it is missing")
	}
	p.span("entries", int64(len(e.Entries)), 0, maxList)
	for i := range e.Entries {
		e.Entries[i].validate(p, fmt.Sprintf("entries[%d]", i))
	}
	return p.err("emergency")
}

func (e *EmergencyEntry) validate(p *problems, at string) {
	must := func(field string, set, wanted bool) {
		if set && !wanted {
			p.add(at+"."+field, "an entry of kind %s must not set it", e.Kind)
		} else if !set && wanted {
			p.add(at+"."+field, "an entry of kind %s needs it", e.Kind)
		}
	}
	digest, version, app := e.Digest != nil && !e.Digest.IsZero(), e.Version != nil, e.App != nil
	switch e.Kind {
	case "halt", "freeze":
		must("digest", digest, false)
		must("version", version, false)
	case "revoke":
		must("digest", digest, true)
		must("version", version, false)
	case "minimum":
		must("digest", digest, false)
		must("version", version, true)
		must("app", app, true)
	default:
		p.add(at+".kind", "%q is none of halt, freeze, revoke, minimum", e.Kind)
	}
	if e.Until == nil && e.Kind != "revoke" {
		p.add(at+".until", "only a revocation may be without an end")
	} else if e.Until != nil && e.Until.IsZero() {
		p.add(at+".until", "it is the zero time")
	}
	if e.Reason == "" {
		p.add(at+".reason", "it is empty: say why, operators will read it")
	}
	p.words(at+".reason", e.Reason, maxWords)
}

// Validate checks the rules that types cannot express and returns all problems at once.
func (i *Inventory) Validate() error {
	if err := kindInventory.schemaError(i.Schema); err != nil {
		return err
	}
	p := &problems{}
	if i.Environment.IsZero() {
		p.add("environment", "it is missing")
	}
	if i.Issued.IsZero() {
		p.add("issued", "it is missing")
	}
	p.span("hosts", int64(len(i.Hosts)), 0, 1_000_000)
	seen := make(map[string]bool, len(i.Hosts))
	for n, h := range i.Hosts {
		if len(p.list) > 100 {
			break
		}
		at := fmt.Sprintf("hosts[%d]", n)
		p.hostID(at+".id", h.ID)
		if seen[h.ID] {
			p.add(at+".id", "%q appears twice", h.ID)
		}
		seen[h.ID] = true
		p.labels(at+".labels", h.Labels)
	}
	return p.err("inventory")
}
