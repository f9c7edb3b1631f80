package main

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/slipway-deploy/slipway/agent/config"
	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/hub/ca"
	"github.com/slipway-deploy/slipway/agent/hub/serve"
	"github.com/slipway-deploy/slipway/agent/release"
)

// identity is whom this hub believes, and who it is to them.
type identity struct {
	trust       serve.Trust
	authority   *ca.Authority // nil: it issues nothing
	certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	known       []*x509.Certificate // what hosts know hubs by
	pin         release.Digest      // of the one that this hub's certificate leads to
}

func loadIdentity(cfg *config.Hub, now func() time.Time) (id identity, err error) {
	if id.trust, err = loadTrust(cfg); err != nil {
		return id, err
	}
	if id.authority, err = ca.LoadIssuer(cfg.Paths.CA()); err != nil && !errors.Is(err, ca.ErrNoIssuer) {
		return id, err
	}
	if id.authority != nil && id.authority.Fleet != cfg.Fleet {
		return id, fmt.Errorf("cannot use the issuer in %s: it is for the fleet %s, and the configuration says %s", cfg.Paths.CA(), id.authority.Fleet, cfg.Fleet)
	}
	if cfg.Certificates.Cert != "" {
		return id, id.ownCertificate(cfg.Certificates)
	}
	if id.authority == nil {
		return id, fmt.Errorf("this hub has no certificate: make the fleet's authority with slipway-hub ca init, an issuer with slipway-hub ca issuer, or set certificates.cert in %s", cfg.File)
	}
	server, err := ca.NewServer(id.authority, cfg.Names, now)
	if err != nil {
		return id, err
	}
	id.certificate, id.known = server.Certificate, id.trust.Own
	_, id.pin = id.authority.Root()
	return id, nil
}

func loadTrust(cfg *config.Hub) (serve.Trust, error) {
	t := serve.Trust{Fleet: cfg.Fleet}
	var err error
	if t.Own, err = ca.LoadRoots(cfg.Paths.CA()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return t, err
	}
	if cfg.Identity.CAFile != "" {
		if t.Foreign, err = certificates(cfg.Identity.CAFile); err != nil {
			return t, fmt.Errorf("identity.ca_file: %w", err)
		}
	}
	if len(t.Own)+len(t.Foreign) == 0 {
		return t, fmt.Errorf("nobody could ask this hub anything: make the fleet's authority with slipway-hub ca init, or name an existing one under [identity] in %s", cfg.File)
	}
	for _, r := range cfg.Identity.Rules {
		rule := serve.Rule{Field: r.Field, Pattern: r.Pattern, WholeName: r.WholeName, Operator: r.Operator}
		if r.Environment != "" {
			if rule.Environment, err = release.ParseEnvironment(r.Environment); err != nil {
				return t, err
			}
		}
		t.Rules = append(t.Rules, rule)
	}
	return t, nil
}

// ownCertificate shows a certificate from files, read anew when they change. What it leads to is shown with it, for hosts that
// enrol and know that by its digest only.
func (id *identity) ownCertificate(c config.HubCertificates) (err error) {
	if id.known, err = certificates(c.CAFile); err != nil {
		return fmt.Errorf("certificates.ca_file: %w", err)
	}
	id.pin = release.Sum(id.known[0].Raw)
	f := &fileCertificate{cert: c.Cert, key: c.Key, known: id.known}
	id.certificate = f.get
	_, err = f.get(nil)
	return err
}

type fileCertificate struct {
	cert, key string
	known     []*x509.Certificate

	mu      sync.Mutex
	changed time.Time
	current *tls.Certificate
}

// get keeps the last good certificate while the files do not fit together, as they do for a moment when both are replaced.
func (f *fileCertificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.cert)
	if err == nil && f.current != nil && info.ModTime().Equal(f.changed) {
		return f.current, nil
	}
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		if f.current != nil {
			return f.current, nil
		}
		return nil, fmt.Errorf("cannot use the hub's certificate: %w", err)
	}
	for _, c := range f.known {
		pair.Certificate = append(pair.Certificate, c.Raw)
	}
	if info != nil {
		f.changed = info.ModTime()
	}
	f.current = &pair
	return f.current, nil
}

// hubID is this hub's own name in the store, the same after a restart and different on every hub, whatever their machines are
// called.
func hubID(dir string) (string, error) {
	file := filepath.Join(dir, "hub-id")
	data, err := os.ReadFile(file)
	if id := strings.TrimSpace(string(data)); err == nil && id != "" {
		return id, nil
	}
	name, err := os.Hostname()
	if err != nil {
		return "", err
	}
	id := name + "-" + strings.ToLower(rand.Text()[:8])
	return id, durable.WriteFile(file, []byte(id+"\n"), 0o644)
}
