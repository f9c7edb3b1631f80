package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// HubFile is where slipway-hub looks for its configuration.
const HubFile = "/etc/slipway-hub/slipway-hub.toml"

// Hub is the effective configuration of a hub.
type Hub struct {
	// Fleet is what its hosts' certificates name. It is never empty.
	Fleet string
	// Names are those by which hosts and operators reach the hub: they are in its certificate.
	Names        []string
	Listen       string
	Repository   Repository
	Poll         Poll
	Roles        HubRoles
	Store        HubStore
	Certificates HubCertificates
	Identity     HubIdentity
	Paths        HubPaths
	Metrics      Metrics
	Log          Log
	File         string
}

// HubRoles lists operators by the names in their certificates; "*" is every operator.
type HubRoles struct {
	Viewer, Operator, Maintainer []string
}

// HubStore is an external etcd cluster. Without endpoints the hub runs a member of its own.
type HubStore struct {
	Endpoints    []string
	CAFile       string
	Cert, Key    string
	Username     string
	PasswordFile string
}

// Embedded tells whether the hub keeps its data itself.
func (s HubStore) Embedded() bool { return len(s.Endpoints) == 0 }

// HubCertificates says how long hosts' certificates last, and which certificate the hub shows instead of one of the fleet's own
// authority.
type HubCertificates struct {
	Validity  time.Duration
	Cert, Key string
	// CAFile holds what Cert leads to, for hosts that enrol. Required with Cert.
	CAFile string
}

// HubIdentity is an existing PKI, and which names in its certificates are whose.
type HubIdentity struct {
	CAFile string
	Rules  []HubRule
}

// HubRule reads an identity out of a name. Field is "dns" or "cn"; Environment is empty for operators.
type HubRule struct {
	Field, Pattern string
	Environment    string
	WholeName      bool
	Operator       string
}

// HubPaths are the directories of a hub. CA holds the authority, Data the embedded etcd.
type HubPaths struct {
	State, Run string
}

// CA is the authority's directory.
func (p HubPaths) CA() string { return filepath.Join(p.State, "ca") }

// Data is the embedded etcd's directory.
func (p HubPaths) Data() string { return filepath.Join(p.State, "etcd") }

// TUF is the cache of the repository's metadata.
func (p HubPaths) TUF() string { return filepath.Join(p.State, "tuf") }

// Socket is where the hub's own machine administers it.
func (p HubPaths) Socket() string { return filepath.Join(p.Run, "hub.sock") }

func hubDefaults(file string) *Hub {
	h := &Hub{
		Listen: ":7443", Poll: Poll{Interval: 30 * time.Second, Jitter: 0.1}, Certificates: HubCertificates{Validity: 90 * 24 * time.Hour},
		Paths: HubPaths{State: "/var/lib/slipway-hub", Run: "/run/slipway-hub"}, Log: Log{Level: "info"}, File: file,
	}
	h.Repository.Root = filepath.Join(filepath.Dir(file), "root.json")
	if name, err := os.Hostname(); err == nil {
		h.Names = []string{name}
	}
	return h
}

// LoadHub reads and validates a hub's configuration. Its error is Problems, complete; the Hub is nil then.
func LoadHub(file string) (*Hub, error) {
	problems := Problems{}
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return nil, Problems{{File: file, Message: "there is no such file; begin with the sample in /usr/share/doc/slipway-hub/examples"}}
	}
	data, err := readFile(file)
	if err != nil {
		return nil, Problems{{File: file, Message: err.Error()}}
	}
	tree, p := parse(file, data)
	if p != nil {
		return nil, Problems{*p}
	}
	tree.line, tree.col = 0, 0
	h := hubDefaults(file)
	readHub(root(tree, &problems), h)
	if len(problems) > 0 {
		return nil, problems.sorted()
	}
	return h, nil
}

func readHub(r *reader, h *Hub) {
	r.text("fleet", &h.Fleet, checkFleet)
	if r.t.m["fleet"] == nil {
		r.problem(&node{file: r.at.file, key: "fleet"}, `is required: the fleet's name, for example "acme"; it is in every certificate and cannot change later`)
	}
	r.texts("names", &h.Names, checkHubName)
	if n := r.t.m["names"]; n != nil && len(h.Names) == 0 {
		r.problem(n, "must hold at least one name or address by which hosts reach this hub")
	}
	r.text("listen", &h.Listen, checkHubListen)
	readRepository(r, &h.Repository, true)
	r.table("poll", func(r *reader) {
		r.duration("interval", &h.Poll.Interval, time.Second, time.Hour)
		r.fraction("jitter", &h.Poll.Jitter)
	})
	r.table("roles", func(r *reader) {
		r.texts("viewer", &h.Roles.Viewer, checkOperator)
		r.texts("operator", &h.Roles.Operator, checkOperator)
		r.texts("maintainer", &h.Roles.Maintainer, checkOperator)
	})
	readHubStore(r, &h.Store)
	readHubCertificates(r, &h.Certificates)
	readHubIdentity(r, &h.Identity)
	r.table("paths", func(r *reader) {
		r.text("state", &h.Paths.State, checkDir)
		r.text("run", &h.Paths.Run, checkDir)
	})
	r.table("metrics", func(r *reader) { r.text("listen", &h.Metrics.Listen, checkListen) })
	r.table("log", func(r *reader) { r.text("level", &h.Log.Level, oneOf("trace", "debug", "info", "warn", "error")) })
	r.unknown()
}

func readHubStore(r *reader, s *HubStore) {
	r.table("store", func(r *reader) {
		r.texts("endpoints", &s.Endpoints, checkEndpoint)
		r.text("ca_file", &s.CAFile, checkPath)
		r.text("cert", &s.Cert, checkPath)
		r.text("key", &s.Key, checkPath)
		r.text("username", &s.Username, checkPlain)
		r.text("password_file", &s.PasswordFile, checkPath)
		together(r, "cert", "key")
		together(r, "username", "password_file")
		if len(s.Endpoints) == 0 && len(r.t.m) > 0 {
			r.problem(r.at, "needs endpoints; leave the whole table out for the hub's own etcd")
		}
		secure := s.CAFile != "" || s.Cert != ""
		for _, e := range s.Endpoints {
			if secure && !strings.HasPrefix(e, "https://") {
				r.problem(r.t.m["endpoints"], "%q must start with https://, because ca_file or cert is set", e)
			}
			if s.Username != "" && !strings.HasPrefix(e, "https://") {
				r.problem(r.t.m["endpoints"], "%q must start with https://: a password must not travel in the open", e)
			}
		}
	})
}

func readHubCertificates(r *reader, c *HubCertificates) {
	r.table("certificates", func(r *reader) {
		r.duration("validity", &c.Validity, time.Hour, 5*365*24*time.Hour)
		r.text("cert", &c.Cert, checkPath)
		r.text("key", &c.Key, checkPath)
		r.text("ca_file", &c.CAFile, checkPath)
		together(r, "cert", "key")
		together(r, "cert", "ca_file")
	})
}

func readHubIdentity(r *reader, i *HubIdentity) {
	r.table("identity", func(r *reader) {
		r.text("ca_file", &i.CAFile, checkPath)
		readHubRules(r, "hosts", i, func(r *reader, one *HubRule) {
			r.text("environment", &one.Environment, CheckEnvironment)
			r.boolean("whole_name", &one.WholeName)
			if r.t.m["environment"] == nil {
				r.problem(r.at, "needs environment: the one these hosts belong to")
			}
			if !one.WholeName && !strings.Contains(one.Pattern, "*") {
				r.problem(r.at, `%q names one host: set whole_name = true, or write "*" where the host id is`, one.Pattern)
			}
		})
		readHubRules(r, "operators", i, func(r *reader, one *HubRule) {
			r.text("name", &one.Operator, checkOperator)
			if one.Operator == "" && !strings.Contains(one.Pattern, "*") {
				r.problem(r.at, `needs name, or a "*" where the operator's name is`)
			}
		})
		if (i.CAFile == "") != (len(i.Rules) == 0) {
			r.problem(r.at, "needs ca_file and at least one of [[identity.hosts]] and [[identity.operators]]: neither does anything alone")
		}
	})
}

func readHubRules(r *reader, key string, i *HubIdentity, more func(*reader, *HubRule)) {
	n := r.get(key)
	if n == nil {
		return
	}
	l, ok := n.val.(list)
	if !ok {
		r.problem(n, "must be written as [[identity.%s]], not %s", key, describe(n.val))
		return
	}
	for _, one := range l {
		r.tableNode(one, func(r *reader) {
			var rule HubRule
			for _, field := range []string{"dns", "cn"} {
				r.text(field, &rule.Pattern, checkPattern)
				if r.t.m[field] != nil {
					rule.Field = field
				}
			}
			if (r.t.m["dns"] == nil) == (r.t.m["cn"] == nil) {
				r.problem(one, "needs exactly one of dns and cn: the name in the certificate")
			}
			more(r, &rule)
			i.Rules = append(i.Rules, rule)
		})
	}
}

func together(r *reader, a, b string) {
	if (r.t.m[a] == nil) != (r.t.m[b] == nil) {
		r.problem(r.at, "%s and %s belong together", a, b)
	}
}

func checkFleet(s string) error {
	if CheckApp(s) != nil {
		return fmt.Errorf("%q is no name of a fleet: use lower-case letters, digits and dashes inside, at most 48", s)
	}
	return nil
}

func checkOperator(s string) error {
	if s != "*" && (len(s) > 64 || !operatorName.MatchString(s)) {
		return fmt.Errorf("%q is no name of an operator: 1 to 64 of [A-Za-z0-9_.@-], starting with a letter, digit or _", s)
	}
	return nil
}

func checkHubName(s string) error {
	if net.ParseIP(s) == nil && !hubName.MatchString(s) {
		return fmt.Errorf("%q is neither a host name nor an IP address", s)
	}
	return nil
}

func checkHubListen(s string) error {
	if port, all := strings.CutPrefix(s, ":"); all {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("%q is no port between 1 and 65535", port)
		}
		return nil
	}
	return checkListen(s)
}

func checkEndpoint(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.Port() == "" {
		return fmt.Errorf("%q must be https://host:port", s)
	}
	if u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("%q must be https://host:port and nothing more", s)
	}
	return nil
}

func checkPattern(s string) error {
	if s == "" || s == "*" || strings.Count(s, "*") > 1 {
		return fmt.Errorf(`%q must be a name with at most one "*" in it, such as "*.prod.example.com"`, s)
	}
	return checkPlain(s)
}

// PrintHub writes the effective configuration as TOML.
func PrintHub(w io.Writer, h *Hub) error {
	p := &printer{}
	p.line("# read %s", h.File)
	p.text("fleet", h.Fleet)
	p.line("names = %s", quoteAll(h.Names))
	p.text("listen", h.Listen)
	p.repository(h.Repository)
	p.head("poll")
	p.text("interval", formatDuration(h.Poll.Interval))
	p.line("jitter = %s", formatFloat(h.Poll.Jitter))
	p.head("roles")
	p.line("viewer = %s", quoteAll(h.Roles.Viewer))
	p.line("operator = %s", quoteAll(h.Roles.Operator))
	p.line("maintainer = %s", quoteAll(h.Roles.Maintainer))
	p.hubStore(h.Store)
	p.head("certificates")
	p.text("validity", formatDuration(h.Certificates.Validity))
	p.textIfSet("cert", h.Certificates.Cert)
	p.textIfSet("key", h.Certificates.Key)
	p.textIfSet("ca_file", h.Certificates.CAFile)
	p.hubIdentity(h.Identity)
	p.head("paths")
	p.text("state", h.Paths.State)
	p.text("run", h.Paths.Run)
	p.head("metrics")
	if h.Metrics.Listen == "" {
		p.line("# listen is off")
	} else {
		p.text("listen", h.Metrics.Listen)
	}
	p.head("log")
	p.text("level", h.Log.Level)
	_, err := io.WriteString(w, p.b.String())
	return err
}

func (p *printer) hubStore(s HubStore) {
	p.head("store")
	if s.Embedded() {
		p.line("# embedded: no endpoints are configured")
		return
	}
	p.line("endpoints = %s", quoteAll(s.Endpoints))
	p.textIfSet("ca_file", s.CAFile)
	p.textIfSet("cert", s.Cert)
	p.textIfSet("key", s.Key)
	p.textIfSet("username", s.Username)
	p.textIfSet("password_file", s.PasswordFile)
}

func (p *printer) hubIdentity(i HubIdentity) {
	if i.CAFile == "" {
		return
	}
	p.head("identity")
	p.text("ca_file", i.CAFile)
	for _, r := range i.Rules {
		if r.Environment == "" {
			p.line("\n[[identity.operators]]")
			p.text(r.Field, r.Pattern)
			p.textIfSet("name", r.Operator)
			continue
		}
		p.line("\n[[identity.hosts]]")
		p.text(r.Field, r.Pattern)
		p.text("environment", r.Environment)
		p.line("whole_name = %v", r.WholeName)
	}
}
