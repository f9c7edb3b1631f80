package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/api"
)

// bundle makes a bundle of what production runs now and returns its path on the publisher's machine.
func (s *stage) bundle(name string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	s.publisher("bundle", "create", "--environment", "production", "--out", path)
	s.publisher("bundle", "verify", path, "--root", filepath.Join(s.repo, "metadata", "1.root.json"), "--max-age", "1d")
	return path
}

// carry copies a file onto the host the way cp does, in its place.
func (h *fleetHost) carry(from, to string) {
	h.t.Helper()
	if err := h.Push(from, "/root/carried"); err != nil {
		h.t.Fatal(err)
	}
	h.Run(h.t, "cp", "/root/carried", to)
}

// waitRepositorySays waits until status has the state and its error the words.
func (h *fleetHost) waitRepositorySays(state api.RepositoryState, words string) {
	h.t.Helper()
	h.WaitFor(h.t, 20*time.Second, fmt.Sprintf("the repository is %s: %s", state, words), func(ctx context.Context) error {
		st, err := h.status(ctx)
		if err == nil && (st.Repository.State != state || !strings.Contains(st.Repository.Error, words)) {
			err = errors.New(string(st.Repository.State) + ": " + st.Repository.Error)
		}
		return err
	})
}

// A host that never sees a network gets its releases on a medium, from the first one on.
func TestAHostWithoutANetworkLivesOnBundles(t *testing.T) {
	const usb = "/media/usb/production.bundle"
	s := newStage(t)
	s.ship("harbor", "1.0.0", s.harborTree("1.0.0", "ok"), deployment{})
	first := s.bundle("first.bundle")
	h := s.host("island", hostSpec{apps: []string{"harbor"}, repository: "bundle:" + usb})
	// Polls are an hour apart, and what fails is tried again after 30 s: whatever comes sooner was noticed.
	h.Write(t, "/etc/slipway/slipway.d/zz-island.toml", "[poll]\ninterval = \"1h\"\n[repository]\nmax_bundle_age = \"1d\"\n")
	if err := h.CutNetwork(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.waitRepositorySays(api.RepositoryUnreachable, "cannot read "+usb+": it is not there; mount its medium, or copy it there")
	h.waitWhy("harbor", "cannot trust any metadata yet", "it is not there")

	data := mustRead(t, first)
	half := filepath.Join(s.dir, "half.bundle")
	if err := os.WriteFile(half, data[:len(data)/2], 0o644); err != nil {
		t.Fatal(err)
	}
	h.Run(t, "mkdir", "-p", "/media/usb")
	h.carry(half, usb)
	h.waitRepositorySays(api.RepositoryUnreachable, "it is incomplete: still being copied")
	h.carry(first, usb)
	h.waitCommitted("harbor", "1.0.0")

	// The next one comes on a medium that is mounted over the place.
	s.ship("harbor", "1.1.0", s.harborTree("1.1.0", "ok"), deployment{})
	second := s.bundle("second.bundle")
	h.Run(t, "mount", "-t", "tmpfs", "tmpfs", "/media/usb")
	h.waitRepositorySays(api.RepositoryUnreachable, "it is not there")
	h.carry(second, usb)
	h.waitCommitted("harbor", "1.1.0")
	h.Run(t, "umount", "/media/usb") // nothing keeps the medium busy, and the first bundle shows again
	h.waitRepositorySays(api.RepositoryRefused, "cannot use bundle "+usb+": cannot trust timestamp version")
	if a := h.app("harbor"); a.Version != "1.1.0" {
		t.Errorf("an older bundle changed something: %s", brief(a))
	}

	// A signed halt reaches the island as everything else does.
	s.deploy("harbor", "1.0.0", deployment{flags: []string{"--state", "halted"}})
	h.carry(s.bundle("third.bundle"), usb)
	h.waitWhy("harbor", "halted")
	h.JournalInOrder(t, 5*time.Second, daemonLog, `cannot read `+usb+`: it is not there`, `it is incomplete`, `metadata is up to date`, `harbor 1\.0\.0 is committed`,
		`it is not there`, `harbor 1\.1\.0 is committed`, `cannot use bundle .*timestamp version`)
	for _, r := range s.server.Requests() {
		t.Errorf("the server was asked for %s", r.Path)
	}
}

// What soaked in staging comes to production on the word of a host there.
func TestAReleaseIsPromotedOnTheWordOfAHost(t *testing.T) {
	s := newStage(t)
	policy := filepath.Join(s.repo, "policy.json")
	ruled := strings.Replace(string(mustRead(t, policy)), `"production": {`, `"production": {"promotion": {"from": "staging", "committed": "1h"},`, 1)
	if err := os.WriteFile(policy, []byte(ruled), 0o644); err != nil {
		t.Fatal(err)
	}
	s.ship("harbor", "1.0.0", s.harborTree("1.0.0", "ok"), deployment{env: "staging"})
	h := s.host("stage1", hostSpec{env: "staging", apps: []string{"harbor"}})
	h.waitCommitted("harbor", "1.0.0")

	evidence := filepath.Join(s.dir, "stage1.json")
	promote := []string{"deploy", "promote", "harbor", "1.0.0", "--from", "staging", "--to", "production", "--evidence", evidence,
		"--min-healthy", "3s", "--deadline", "20s", "--sign", s.key("approver-1"), "--sign", s.key("approver-2")}
	said := h.Run(t, "slipway", "evidence", "harbor")
	if err := os.WriteFile(evidence, []byte(said), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := slipwayRepo(t.Context(), filepath.Dir(s.keys), s.repo, promote...)
	if err == nil || !strings.Contains(out, "0 of 1 hosts of staging say that they have had it committed for at least 1h0m0s") {
		t.Fatalf("promoted at once: %v %s", err, out)
	}
	if err := os.WriteFile(policy, []byte(strings.Replace(string(mustRead(t, policy)), `"committed": "1h"`, `"hosts": 1`, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	s.publisher(promote...)
	s.publisher("publish")
	p := s.host("prod1", hostSpec{apps: []string{"harbor"}})
	a := p.waitCommitted("harbor", "1.0.0")
	if at := h.app("harbor"); a.Current != at.Current {
		t.Errorf("production runs %s, staging %s", a.Current, at.Current)
	}
	if a.Deployment == nil || !strings.Contains(a.Deployment.Reason, "promoted from staging (sequence 1), evidence ") {
		t.Errorf("the signed reason does not say where it comes from: %+v", a.Deployment)
	}
}
