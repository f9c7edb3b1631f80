package integration

import (
	"testing"
	"time"
)

// Story 1.
func TestAFreshHostInstallsItsFirstDeploymentAndCommitsIt(t *testing.T) {
	s := newStage(t)
	h := s.host("web1", hostSpec{apps: []string{"nats"}})
	h.waitWhy("nats", "no deployment of nats is signed for production")
	s.ship("nats", "2.15.1", natsTree(t, "2.15.1"), deployment{})
	h.waitCommitted("nats", "2.15.1")
	h.natsAnswers("2.15.1")
	h.JournalInOrder(t, 5*time.Second, daemonLog, `staging nats 2\.15\.1`, `activating nats 2\.15\.1 \(was nothing\)`, `nats 2\.15\.1 is in trial`, `nats 2\.15\.1 is committed: healthy for 3s`)
}
