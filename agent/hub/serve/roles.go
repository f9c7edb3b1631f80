package serve

import (
	"slices"

	"github.com/slipway-deploy/slipway/agent/fleet"
)

// who says who may call a route. Hosts stand apart: no operator can speak for a host, and no host can operate the fleet. From
// viewer on each includes the ones before it.
type who int

const (
	anyone who = iota
	host
	viewer
	operator
	maintainer
	local // root, or the hub's own user, on the hub's machine
)

func (w who) String() string {
	return [...]string{"anyone", "host", "viewer", "operator", "maintainer", "local"}[w]
}

// Roles lists operators by the names in their certificates; "*" is every operator. An operator in none of them may do nothing.
type Roles struct {
	Viewer, Operator, Maintainer []string
}

func (r Roles) of(name string) who {
	for _, one := range []struct {
		role who
		list []string
	}{{maintainer, r.Maintainer}, {operator, r.Operator}, {viewer, r.Viewer}} {
		if slices.Contains(one.list, name) || slices.Contains(one.list, "*") {
			return one.role
		}
	}
	return anyone
}

// caller is who asks.
type caller struct {
	role who
	id   fleet.Identity // zero for anyone and local
	name string         // for audit and logs
}

// may tells whether a caller passes a route's demand.
func (c caller) may(need who) bool {
	switch need {
	case anyone:
		return true
	case host:
		return c.role == host
	}
	return c.role >= need
}
