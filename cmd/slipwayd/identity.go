package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/slipway-deploy/slipway/agent/config"
	"github.com/slipway-deploy/slipway/agent/fleet"
	"github.com/slipway-deploy/slipway/agent/release"
)

// identity is who this host is towards a fleet: its installation, and the certificate it speaks with.
type identity struct {
	home    fleet.Home
	host    string
	install fleet.Install
	unfit   string // why this machine may not use the identity it finds; empty if it may
}

// open reads the identity, or makes the installation's name at the first start. A disk that was copied before anything was ever
// issued to it simply becomes another installation; one that was enrolled is a copy of somebody. Only the daemon opens it: guard,
// boot guardian and settle speak to nobody.
func (i *identity) open(cfg *config.Host, machine fleet.Machine, clk clock, log hclog.Logger) {
	var err error
	if i.install, err = i.home.Install(machine, clk.Now()); err != nil {
		i.unfit = err.Error()
		return
	}
	elsewhere := i.install.Elsewhere(machine)
	if elsewhere != "" && !i.home.Enrolled() && cfg.Fleet.Cert == "" {
		log.Info("this is another machine than the one this installation was made on; it gets a name of its own")
		if i.install, err = i.home.NewInstall(machine, clk.Now()); err != nil {
			i.unfit = err.Error()
		}
		return
	}
	if i.unfit = elsewhere; elsewhere != "" {
		log.Error("THIS HOST'S IDENTITY BELONGS TO ANOTHER MACHINE; nothing new starts", "why", elsewhere)
	}
}

// why is the reason not to use this identity, "" if there is none or nobody opened it.
func (i *identity) why() string {
	if i == nil {
		return ""
	}
	return i.unfit
}

func (i *identity) usable() error {
	if i.unfit != "" {
		return errors.New(i.unfit)
	}
	return nil
}

// credentials are the configured files, and those of the enrolment for what is not configured.
func (i *identity) credentials(cfg config.HostFleet) fleet.Credentials {
	c := i.home.Credentials()
	if cfg.Cert != "" {
		c.Cert, c.Key = cfg.Cert, cfg.Key
		c.CA = ""
	}
	if cfg.CA != "" {
		c.CA = cfg.CA
	}
	return c
}

// leaf is the certificate in force, checked to be this host's own.
func (i *identity) leaf(cfg *config.Host) (*x509.Certificate, error) {
	leaf, err := i.credentials(cfg.Fleet).Leaf()
	if err != nil {
		return nil, err
	}
	env, err := release.ParseEnvironment(cfg.Environment)
	if err != nil {
		return nil, err
	}
	return leaf, fleet.Speaks(leaf, env, i.host)
}

const (
	renewLook  = 10 * time.Minute
	renewLimit = 30 * time.Second // of one exchange
)

// renewals keeps the certificate that slipway enroll brought in date: at two thirds of its life the hub is asked for another, for
// a new key. One that comes from elsewhere is renewed there.
func (d *wired) renewals(ctx context.Context) {
	for {
		timer := time.NewTimer(renewLook + rand.N(renewLook))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		if err := d.renew(ctx); err != nil {
			d.log.Warn("this host's certificate could not be renewed yet", "error", err)
		}
	}
}

// renew does nothing while the certificate is young.
func (d *wired) renew(ctx context.Context) error {
	cfg := d.config()
	if cfg.Fleet.Cert != "" || !d.identity.home.Enrolled() || d.identity.unfit != "" {
		return nil
	}
	leaf, err := d.identity.leaf(cfg)
	if err != nil {
		return err
	}
	if d.clock.Now().Before(fleet.RenewAt(leaf)) {
		return nil
	}
	hubs := cfg.Fleet.URLs
	if len(hubs) == 0 {
		hubs = d.coordinator.lastHubs()
	}
	client, err := fleet.NewClient(fleet.Options{URLs: hubs, Credentials: d.identity.credentials(cfg.Fleet), UserAgent: "slipwayd/" + version})
	if err != nil {
		return err
	}
	csr, err := d.identity.home.Request(d.identity.host)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, renewLimit)
	defer cancel()
	got, err := client.Renew(ctx, fleet.Renew{CSR: string(csr), Install: d.identity.install.ID})
	if err != nil {
		return err
	}
	want, err := fleet.IdentityIn(leaf)
	if err != nil {
		return err
	}
	if _, err := d.identity.home.Adopt([]byte(got.Certificate), []byte(got.CA), want, d.clock.Now()); err != nil {
		return fmt.Errorf("the hub's answer is of no use: %w", err)
	}
	d.log.Info("this host's certificate was renewed", "until", got.Until.UTC().Format(time.RFC3339))
	return nil
}

func (c *coordinator) lastHubs() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hubs
}
