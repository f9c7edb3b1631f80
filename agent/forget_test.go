package agent_test

import (
	"testing"

	"github.com/slipway-deploy/slipway/agent/release"
)

// signedBy says which keys signed what is published for billing, and which may.
func (w *world) signedBy(path string, signed, may []string) {
	w.src.set(func(s *source) {
		d := s.docs[path]
		d.KeyIDs, d.AllKeyIDs = signed, may
		s.docs[path] = d
	})
}

// TestASequenceIsForgottenOnceAKeyThatSignedItIsGone is the host's half of the recovery from stolen approvers' keys.
func TestASequenceIsForgottenOnceAKeyThatSignedItIsGone(t *testing.T) {
	story(t, func(w *world) {
		w.installed(900, v11())
		path := release.DeploymentPath(production, billing)
		w.machine = nil
		w.deploy(3, v10())
		w.signedBy(path, []string{"k2", "k3"}, []string{"k2", "k3"})
		w.start()
		w.until("it follows the keys that are left", w.rests(v10()))
	})
}

func TestASequenceIsKeptWhileEveryKeyThatSignedItStays(t *testing.T) {
	story(t, func(w *world) {
		w.installed(900, v11())
		path := release.DeploymentPath(production, billing)
		w.machine = nil
		w.deploy(3, v10())
		w.signedBy(path, []string{"k2", "k3"}, []string{"k1", "k2", "k3"})
		w.start()
		w.refused("the deployment has sequence 3, this host has already accepted 900", v11())
	})
}
