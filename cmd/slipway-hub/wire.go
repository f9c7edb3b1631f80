package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/slipway-deploy/slipway/agent/config"
	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/hub"
	"github.com/slipway-deploy/slipway/agent/hub/ca"
	"github.com/slipway-deploy/slipway/agent/hub/etcd"
	"github.com/slipway-deploy/slipway/agent/hub/roster"
	"github.com/slipway-deploy/slipway/agent/hub/serve"
	"github.com/slipway-deploy/slipway/agent/release"
)

// wired is everything a hub is made of.
type wired struct {
	cfg       *config.Hub
	log       hclog.Logger
	storeName string
	copier    *etcd.Store
	member    *etcd.Member // nil with a cluster
	plans     *plans
	witness   *witness
	engine    *hub.Engine
	roster    *roster.Roster
	server    *serve.Server
	issues    bool
	authority *ca.Authority
	gatherers prometheus.Gatherers
}

type systemClock struct{}

// Now implements hub.Clock.
func (systemClock) Now() time.Time { return time.Now() }

// wire opens everything and starts nothing but the embedded etcd.
func wire(ctx context.Context, cfg *config.Hub, log hclog.Logger) (w *wired, err error) {
	w = &wired{cfg: cfg, log: log}
	registry := prometheus.NewRegistry()
	// etcd's own metrics, and those of the process, are in the default registry.
	w.gatherers = prometheus.Gatherers{registry, prometheus.DefaultGatherer}
	if err := durable.MkdirAll(cfg.Paths.State, 0o700); err != nil {
		return nil, fmt.Errorf("cannot start: %w", err)
	}
	id, err := loadIdentity(cfg, time.Now)
	if err != nil {
		return nil, err
	}
	w.authority, w.issues = id.authority, id.authority != nil
	if w.plans, err = openPlans(ctx, cfg, log.Named("plans")); err != nil {
		return nil, err
	}
	if err := w.openStore(ctx); err != nil {
		return nil, err
	}
	w.witness = openWitness(cfg.Paths.State, log)
	store := measure(w.copier, registry)
	name, err := hubID(cfg.Paths.State)
	if err != nil {
		w.close()
		return nil, err
	}
	w.engine = hub.New(hub.Config{Fleet: cfg.Fleet, ID: name, Store: store, Plans: w.plans, Clock: systemClock{}, Log: log.Named("engine"), Witness: w.witness})
	if w.roster, err = w.newRoster(id, store); err != nil {
		w.close()
		return nil, err
	}
	w.server = serve.New(serve.Config{Engine: w.engine, Roster: w.roster, Trust: id.trust, Certificate: id.certificate,
		Roles: serve.Roles(cfg.Roles), Version: version, Ready: w.ready, Metrics: w.metrics(), Snapshot: w.snapshot, Log: log.Named("serve")})
	registry.MustRegister(w.server)
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "slipway_hub_repository_age_seconds",
		Help: "Seconds since the signed repository last verified as a whole."}, func() float64 {
		age, _ := w.plans.age()
		return age.Seconds()
	}))
	if w.authority != nil {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "slipway_hub_issuer_ends_timestamp_seconds",
			Help: "When this hub's issuer ends, and with it everything it signs."}, func() float64 { return float64(w.authority.Chain[0].NotAfter.Unix()) }))
	}
	return w, nil
}

func (w *wired) openStore(ctx context.Context) error {
	s := w.cfg.Store
	if s.Embedded() {
		m, err := etcd.StartMember(ctx, w.cfg.Paths.Data(), w.log.Named("etcd"))
		if err != nil {
			return err
		}
		w.member, w.copier, w.storeName = m, m.Store, "embedded"
		return nil
	}
	c := etcd.Config{Endpoints: s.Endpoints, Username: s.Username}
	if s.PasswordFile != "" {
		pass, err := firstLine(s.PasswordFile)
		if err != nil {
			return fmt.Errorf("store.password_file: %w", err)
		}
		c.Password = string(pass)
	}
	var err error
	if c.TLS, err = storeTLS(s); err != nil {
		return err
	}
	if w.copier, err = etcd.Open(c); err != nil {
		return err
	}
	w.storeName = strings.Join(s.Endpoints, " ")
	return nil
}

// storeTLS is nil where all endpoints are plain HTTP.
func storeTLS(s config.HubStore) (*tls.Config, error) {
	if !strings.HasPrefix(s.Endpoints[0], "https://") {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.CAFile != "" {
		roots, err := certificates(s.CAFile)
		if err != nil {
			return nil, fmt.Errorf("store.ca_file: %w", err)
		}
		c.RootCAs = pool(roots)
	}
	if s.Cert != "" {
		pair, err := tls.LoadX509KeyPair(s.Cert, s.Key)
		if err != nil {
			return nil, fmt.Errorf("store.cert: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

func (w *wired) newRoster(id identity, store hub.Store) (*roster.Roster, error) {
	root, err := os.ReadFile(w.cfg.Repository.Root)
	if err != nil {
		return nil, fmt.Errorf("cannot read the pinned root: %w", err)
	}
	return roster.New(roster.Config{Fleet: w.cfg.Fleet, Store: store, Prefix: hub.Prefix(w.cfg.Fleet), Authority: id.authority, Roots: id.known,
		Pin: id.pin, Root: root, Mirrors: forHosts(w.cfg.Repository.Mirrors), Validity: w.cfg.Certificates.Validity, Log: w.log.Named("roster"), Replaced: w.replaced, Note: w.engine.Note}), nil
}

// replaced lets go of what a machine held whose place another one took: that it is gone is what the operator said by making a
// token that replaces it.
func (w *wired) replaced(ctx context.Context, env release.Environment, host, by string) error {
	groups, err := w.plans.Groups(ctx)
	if err != nil {
		return err
	}
	for _, g := range groups {
		if g.Environment != env {
			continue
		}
		_, one := w.engine.Act(ctx, by, fleet.ActForget, fleet.Act{Environment: env, App: g.App, Host: host, Reason: "replaced by another machine, which enrolled under this name"})
		var refused *hub.RefusedError
		if errors.As(one, &refused) && refused.What == fleet.KindUnknown {
			one = nil // it held nothing there
		}
		err = errors.Join(err, one)
	}
	return err
}

// forHosts are the mirrors that hosts can use as they are written: those with one base URL, over HTTP.
func forHosts(mirrors []config.Mirror) []string {
	var out []string
	for _, m := range mirrors {
		base, ok := strings.CutSuffix(m.Metadata, "/metadata")
		u, err := url.Parse(base)
		if ok && err == nil && m.Targets == base+"/targets" && (u.Scheme == "https" || u.Scheme == "http") {
			out = append(out, base)
		}
	}
	return out
}

// ready asks the store for one linearizable read.
func (w *wired) ready(ctx context.Context) error {
	if err := w.copier.Ping(ctx); err != nil {
		return err
	}
	_, err := w.engine.Status(ctx)
	return err
}

// failed delivers the error that ended the embedded etcd; never with a cluster.
func (w *wired) failed() <-chan error {
	if w.member == nil {
		return nil
	}
	return w.member.Failed()
}

func (w *wired) close() {
	var err error
	switch {
	case w.member != nil:
		err = w.member.Close()
	case w.copier != nil:
		err = w.copier.Close()
	}
	if err != nil {
		w.log.Warn("the store did not close in good order", "error", err)
	}
}

// warnBefore is how long before the end of an issuer or a root people are told, once a day.
const warnBefore = 90 * 24 * time.Hour

func (w *wired) watchCertificates(ctx context.Context) {
	for w.authority != nil {
		for _, c := range w.authority.Chain {
			if left := time.Until(c.NotAfter); left < warnBefore {
				w.log.Error("a certificate of the fleet's authority ends soon, and everything below it with it", "certificate", c.Subject.CommonName,
					"until", c.NotAfter, "remedy", "slipway-hub ca issuer, or a new root with slipway-hub ca init in another directory")
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(24 * time.Hour):
		}
	}
}

func certificates(file string) ([]*x509.Certificate, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return ca.ParseCertificates(data)
}

func pool(list []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range list {
		p.AddCert(c)
	}
	return p
}
