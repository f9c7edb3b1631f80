package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// readHost decodes slipway.toml with its drop-ins. whole is false if one of the files could not be parsed: then nothing can be
// called missing.
func readHost(r *reader, h *Host, whole bool) {
	r.text("environment", &h.Environment, CheckEnvironment)
	if whole && r.t.m["environment"] == nil {
		r.problem(&node{file: r.at.file, key: "environment"}, `is required: the one environment whose deployments this host obeys, for example "production"`)
	}
	r.text("host_id", &h.HostID, checkHostID)
	r.text("supervisor", &h.Supervisor, oneOf(SupervisorSystemd, SupervisorProcess))
	r.pairs("labels", &h.Labels, checkLabelKey, checkPlain)
	readRepository(r, &h.Repository, whole)
	r.table("paths", func(r *reader) {
		r.text("install", &h.Paths.Install, checkDir)
		r.text("state", &h.Paths.State, checkDir)
		r.text("run", &h.Paths.Run, checkDir)
		r.text("units", &h.Paths.Units, checkDir)
	})
	r.table("poll", func(r *reader) {
		r.duration("interval", &h.Poll.Interval, time.Second, 7*24*time.Hour)
		r.fraction("jitter", &h.Poll.Jitter)
	})
	readFleet(r, &h.Fleet)
	r.table("space", func(r *reader) { r.size("reserve", &h.Space.Reserve) })
	r.table("retention", func(r *reader) {
		r.integer("keep", &h.Retention.Keep, 0, 1000)
		r.duration("min_age", &h.Retention.MinAge, 0, 10*365*24*time.Hour)
	})
	r.table("clock", func(r *reader) {
		r.duration("max_step", &h.Clock.MaxStep, time.Minute, 365*24*time.Hour)
		noteUnsafe(r.boolean("unsafe_unsynchronised", &h.Clock.UnsafeUnsynchronised), h.Clock.UnsafeUnsynchronised, &h.unsafe)
	})
	readRoles(r, &h.Roles)
	r.table("metrics", func(r *reader) { r.text("listen", &h.Metrics.Listen, checkListen) })
	r.table("log", func(r *reader) {
		r.text("level", &h.Log.Level, oneOf("trace", "debug", "info", "warn", "error"))
	})
	r.unknown()
	checkDistinct(r, h.Paths)
}

// checkDistinct refuses directories that lie inside one another: pruning one would delete from the other.
func checkDistinct(r *reader, p Paths) {
	dirs := []struct{ key, path string }{{"install", p.Install}, {"state", p.State}, {"run", p.Run}, {"units", p.Units}}
	for i, a := range dirs {
		for _, b := range dirs[i+1:] {
			if a.path == b.path || strings.HasPrefix(a.path, b.path+"/") || strings.HasPrefix(b.path, a.path+"/") {
				n := r.at
				if t := r.t.m["paths"]; t != nil {
					n = t
				}
				r.problem(&node{file: n.file, line: n.line, col: n.col, key: "paths"}, "%s (%s) and %s (%s) must not lie inside one another", a.key, a.path, b.key, b.path)
			}
		}
	}
}

func noteUnsafe(n *node, on bool, into *[]string) {
	if n != nil && on {
		*into = append(*into, fmt.Sprintf("%s:%d: %s = true weakens safety", n.file, n.line, n.key))
	}
}

func readRepository(r *reader, c *Repository, whole bool) {
	found := false
	r.table("repository", func(r *reader) {
		r.text("root", &c.Root, checkPath)
		r.text("proxy", &c.Proxy, checkProxy)
		r.text("ca_file", &c.CAFile, checkPath)
		r.text("client_cert", &c.ClientCert, checkPath)
		r.text("client_key", &c.ClientKey, checkPath)
		r.text("auth_header_file", &c.AuthHeaderFile, checkPath)
		r.duration("max_bundle_age", &c.MaxBundleAge, time.Minute, 10*365*24*time.Hour)
		if (r.t.m["client_cert"] == nil) != (r.t.m["client_key"] == nil) {
			r.problem(r.at, "client_cert and client_key belong together")
		}
		n := r.get("mirrors")
		found = n != nil
		if n != nil {
			readMirrors(r, n, &c.Mirrors)
		}
	})
	if whole && !found {
		r.problem(&node{file: r.at.file, key: "repository.mirrors"}, `is required: add [[repository.mirrors]] with url = "https://…"`)
	}
}

func readFleet(r *reader, c *HostFleet) {
	r.table("fleet", func(r *reader) {
		r.texts("urls", &c.URLs, CheckHubURL)
		r.text("ca", &c.CA, checkPath)
		r.text("cert", &c.Cert, checkPath)
		r.text("key", &c.Key, checkPath)
		r.duration("poll", &c.Poll, time.Second, time.Hour)
		if (r.t.m["cert"] == nil) != (r.t.m["key"] == nil) {
			r.problem(r.at, "cert and key belong together")
		}
	})
}

func readMirrors(r *reader, n *node, into *[]Mirror) {
	l, ok := n.val.(list)
	if !ok {
		r.problem(n, "must be written as [[repository.mirrors]], not %s", describe(n.val))
		return
	}
	if len(l) == 0 {
		r.problem(n, "must name at least one mirror")
	}
	for _, one := range l {
		r.tableNode(one, func(r *reader) {
			var base string
			var m Mirror
			r.text("url", &base, checkMirror)
			r.text("metadata", &m.Metadata, checkMirror)
			r.text("targets", &m.Targets, checkMirror)
			base, m.Metadata, m.Targets = strings.TrimRight(base, "/"), strings.TrimRight(m.Metadata, "/"), strings.TrimRight(m.Targets, "/")
			hasURL, hasBoth := r.t.m["url"] != nil, r.t.m["metadata"] != nil && r.t.m["targets"] != nil
			switch {
			case hasURL && (r.t.m["metadata"] != nil || r.t.m["targets"] != nil):
				r.problem(one, "url already says where metadata and targets are; write either url, or metadata and targets")
			case strings.HasPrefix(base, bundleScheme):
				m = Mirror{Metadata: base, Targets: base}
			case hasURL:
				m = Mirror{Metadata: base + "/metadata", Targets: base + "/targets"}
			case !hasBoth:
				r.problem(one, "needs url, or both metadata and targets")
			case m.Metadata != m.Targets && (strings.HasPrefix(m.Metadata, bundleScheme) || strings.HasPrefix(m.Targets, bundleScheme)):
				r.problem(one, "a bundle holds metadata and targets; write url = \"bundle:/path\"")
			}
			*into = append(*into, m)
		})
	}
}

func readRoles(r *reader, roles *Roles) {
	r.table("roles", func(r *reader) {
		for _, role := range []struct {
			key  string
			into *Members
		}{{"viewer", &roles.Viewer}, {"operator", &roles.Operator}, {"security", &roles.Security}, {"admin", &roles.Admin}} {
			r.table(role.key, func(r *reader) {
				r.texts("users", &role.into.Users, checkAccount)
				r.texts("groups", &role.into.Groups, checkAccount)
			})
		}
	})
}

// readApp decodes one file of apps.d.
func readApp(r *reader, a *App, unsafe *[]string) {
	r.boolean("enabled", &a.Enabled)
	noteUnsafe(r.boolean("allow_root", &a.AllowRoot), a.AllowRoot, unsafe)
	noteUnsafe(r.boolean("unsafe_remote_checks", &a.UnsafeRemoteChecks), a.UnsafeRemoteChecks, unsafe)
	r.pairs("env", &a.Env, checkEnvName, checkPlain)
	r.pairs("credentials", &a.Credentials, checkCredName, checkCredPath)
	a.Checks = map[string]CheckOverride{}
	r.each("checks", checkCheckName, func(r *reader, name string, n *node) {
		r.tableNode(n, func(r *reader) {
			c := CheckOverride{}
			local := func(check func(string) (string, error)) func(string) error {
				return func(s string) error { return checkLocal(s, check, a.UnsafeRemoteChecks) }
			}
			r.text("url", &c.URL, local(checkURLHost))
			r.text("address", &c.Address, local(addressHost))
			r.integer("port", &c.Port, 1, 65535)
			if len(r.t.m) != 1 {
				r.problem(n, "needs exactly one of url, address and port")
			}
			a.Checks[name] = c
		})
	})
	r.unknown()
}

func checkCheckName(s string) error {
	if len(s) > 64 || !labelKey.MatchString(s) {
		return fmt.Errorf("%q is no name of a check", s)
	}
	return nil
}

func checkLocal(s string, host func(string) (string, error), remote bool) error {
	h, err := host(s)
	if err != nil {
		return err
	}
	if !remote && !loopback(h) {
		return fmt.Errorf("%q is not this machine: use localhost, 127.0.0.1 or [::1], or set unsafe_remote_checks = true", h)
	}
	return nil
}

func checkURLHost(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", fmt.Errorf("%q must be a URL that starts with http:// or https://", s)
	}
	if u.User != nil {
		return "", errors.New("must not hold a password")
	}
	return u.Hostname(), nil
}

func addressHost(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", fmt.Errorf("%q must be host:port", s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("%q is no port between 1 and 65535", port)
	}
	return host, nil
}
