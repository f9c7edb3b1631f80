package serve

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/release"
)

// Trust says whose certificates speak for whom. The two kinds of authorities never mix: the fleet's own certify identities by
// URI, whatever else a certificate holds; a foreign one, which certifies names for other purposes too, certifies only what a
// rule of the configuration makes of a name.
type Trust struct {
	Fleet   string
	Own     []*x509.Certificate
	Foreign []*x509.Certificate
	Rules   []Rule
}

// The parts of a foreign certificate that a rule reads.
const (
	FieldDNS = "dns" // its DNS names; exactly one must match
	FieldCN  = "cn"  // the common name of its subject
)

// Rule makes an identity of a name in a foreign certificate. The name has to match Pattern, in which "*" stands for one label or
// part of one, without dots. With Environment set it is a host's; what "*" stood for is the host id, or the whole name if WholeName. Otherwise
// it is an operator's.
type Rule struct {
	Field       string
	Pattern     string
	Environment release.Environment
	WholeName   bool
	Operator    string // the name of the operator; empty: what "*" stood for
}

// Pool is what the TLS listener verifies client certificates against.
func (t Trust) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range slices.Concat(t.Own, t.Foreign) {
		pool.AddCert(c)
	}
	return pool
}

// identify reads the identity out of verified chains. Several chains must not lead to several identities.
func (t Trust) identify(chains [][]*x509.Certificate) (fleet.Identity, error) {
	var found fleet.Identity
	err := errors.New("cannot tell who this is: the certificate has no chain")
	for _, chain := range chains {
		root := chain[len(chain)-1]
		id, one := fleet.Identity{}, error(nil)
		if slices.ContainsFunc(t.Own, root.Equal) {
			id, one = t.ofOwn(chain[0])
		} else {
			id, one = t.ofForeign(chain[0])
		}
		if one != nil {
			err = one
			continue
		}
		if found != (fleet.Identity{}) && found != id {
			return fleet.Identity{}, fmt.Errorf("cannot tell who this is: %s or %s", found, id)
		}
		found = id
	}
	if found != (fleet.Identity{}) {
		return found, nil
	}
	return fleet.Identity{}, err
}

// own says that every chain leads to an authority of the fleet's own.
func (t Trust) own(chains [][]*x509.Certificate) bool {
	for _, chain := range chains {
		if !slices.ContainsFunc(t.Own, chain[len(chain)-1].Equal) {
			return false
		}
	}
	return true
}

func (t Trust) ofOwn(c *x509.Certificate) (fleet.Identity, error) {
	if len(c.URIs) != 1 {
		return fleet.Identity{}, fmt.Errorf("cannot tell who this is: the certificate of %q has %d URIs, not one", c.Subject.CommonName, len(c.URIs))
	}
	id, err := fleet.ParseIdentity(c.URIs[0])
	if err != nil {
		return id, err
	}
	if id.Fleet != t.Fleet {
		return fleet.Identity{}, fmt.Errorf("%s belongs to another fleet than %s", id, t.Fleet)
	}
	return id, nil
}

func (t Trust) ofForeign(c *x509.Certificate) (fleet.Identity, error) {
	var found fleet.Identity
	for _, r := range t.Rules {
		names := c.DNSNames
		if r.Field == FieldCN {
			names = []string{c.Subject.CommonName}
		}
		for _, name := range names {
			id, ok := r.apply(t.Fleet, name)
			if !ok {
				continue
			}
			if found != (fleet.Identity{}) && found != id {
				return fleet.Identity{}, fmt.Errorf("cannot tell who this is: the names in the certificate are those of %s and %s", found, id)
			}
			found = id
		}
	}
	if found == (fleet.Identity{}) {
		return found, fmt.Errorf("no rule of the hub's configuration makes an identity of the certificate of %q (%s)", c.Subject.CommonName, strings.Join(c.DNSNames, ", "))
	}
	return found, nil
}

func (r Rule) apply(fleetName, name string) (fleet.Identity, bool) {
	stood, ok := match(r.Pattern, name)
	if !ok {
		return fleet.Identity{}, false
	}
	id := fleet.Identity{Fleet: fleetName, Environment: r.Environment}
	switch {
	case r.Environment.IsZero() && r.Operator != "":
		id.Operator = r.Operator
	case r.Environment.IsZero():
		id.Operator = stood
	case r.WholeName:
		id.Host = name
	default:
		id.Host = stood
	}
	return id, id.Check() == nil
}

// match compares with a pattern of at most one star and returns what it stood for; without a star that is all of the name. Case
// counts nothing in DNS names, and names are as they were certified.
func match(pattern, name string) (string, bool) {
	before, behind, star := strings.Cut(pattern, "*")
	if !star {
		return name, strings.EqualFold(pattern, name)
	}
	if len(name) <= len(before)+len(behind) || !strings.EqualFold(name[:len(before)], before) || !strings.EqualFold(name[len(name)-len(behind):], behind) {
		return "", false
	}
	stood := name[len(before) : len(name)-len(behind)]
	return strings.ToLower(stood), !strings.Contains(stood, ".")
}
