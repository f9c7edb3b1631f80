package fleet

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/slipway-deploy/slipway/agent/release"
)

// Identity is who a certificate of the fleet's authority speaks for: one host in its environment, or one operator. It is
// written into the certificate as its only URI, so that no name a resolver or a mail server gave out is ever mistaken for it:
//
//	slipway://<fleet>/<environment>/<host id>
//	slipway://<fleet>/operator/<name>
//
// An environment cannot be called operator.
type Identity struct {
	Fleet       string
	Environment release.Environment // zero for operators
	Host        string
	Operator    string
}

const (
	identityScheme = "slipway"
	operatorWord   = "operator"
)

var (
	fleetName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?$`)
	hostID    = regexp.MustCompile(`^[A-Za-z0-9_:-][A-Za-z0-9_.:-]{0,127}$`)
	person    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}$`)
)

// CheckFleet judges the name of a fleet.
func CheckFleet(s string) error {
	if !fleetName.MatchString(s) {
		return fmt.Errorf("%q is no name of a fleet: use lower-case letters, digits and dashes inside, at most 48", s)
	}
	return nil
}

// CheckHost judges a host id.
func CheckHost(s string) error {
	if !hostID.MatchString(s) {
		return fmt.Errorf("%q is no host id: 1 to 128 of [A-Za-z0-9_.:-], not starting with a dot", s)
	}
	return nil
}

// CheckOperator judges the name of an operator.
func CheckOperator(s string) error {
	if !person.MatchString(s) {
		return fmt.Errorf("%q is no name of an operator: 1 to 64 of [A-Za-z0-9_.@-], starting with a letter, digit or _", s)
	}
	return nil
}

// Check tells what is wrong with an identity that did not come from ParseIdentity.
func (i Identity) Check() error {
	if err := CheckFleet(i.Fleet); err != nil {
		return err
	}
	switch {
	case i.Operator != "" && i.Host == "" && i.Environment.IsZero():
		return CheckOperator(i.Operator)
	case i.Operator != "" || i.Environment.IsZero():
		return fmt.Errorf("an identity is either a host in an environment or an operator")
	case i.Environment.String() == operatorWord:
		return fmt.Errorf("an environment cannot be called %q: that word stands for operators in certificates", operatorWord)
	}
	return CheckHost(i.Host)
}

// URI is the identity's one spelling.
func (i Identity) URI() *url.URL {
	path := "/" + i.Environment.String() + "/" + i.Host
	if i.Operator != "" {
		path = "/" + operatorWord + "/" + i.Operator
	}
	return &url.URL{Scheme: identityScheme, Host: i.Fleet, Path: path}
}

// String is the spelling in certificates.
func (i Identity) String() string { return i.URI().String() }

// ParseIdentity reads the URI of a certificate. It takes the one spelling that URI writes and nothing that resembles it.
func ParseIdentity(u *url.URL) (Identity, error) {
	bad := func(why string) (Identity, error) {
		return Identity{}, fmt.Errorf("cannot take %q as an identity: %s", u.Redacted(), why)
	}
	if u.Scheme != identityScheme {
		return bad("it does not start with slipway://")
	}
	kind, name, ok := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	if !ok {
		return bad("it is not slipway://fleet/environment/host or slipway://fleet/operator/name")
	}
	id := Identity{Fleet: u.Host}
	if kind == operatorWord {
		id.Operator = name
	} else {
		env, err := release.ParseEnvironment(kind)
		if err != nil {
			return bad(err.Error())
		}
		id.Environment, id.Host = env, name
	}
	if err := id.Check(); err != nil {
		return bad(err.Error())
	}
	if id.String() != u.String() {
		return bad("it must be written " + id.String())
	}
	return id, nil
}
