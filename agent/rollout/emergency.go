package rollout

import (
	"fmt"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

// inForce calls f for every emergency entry that is about this app and has not ended. A document of another environment
// cannot reach here through the repository's roles; if it does, its entries still count, because they can only stop.
func (c *decider) inForce(f func(release.EmergencyEntry)) {
	if c.in.Emergency == nil {
		return
	}
	for _, e := range c.in.Emergency.Entries {
		ended := e.Until != nil && !c.in.Now.Before(*e.Until)
		if !ended && (e.App == nil || *e.App == c.d.App) {
			f(e)
		}
	}
}

func ends(e release.EmergencyEntry) time.Time {
	if e.Until == nil {
		return time.Time{}
	}
	return *e.Until
}

// banned returns the entries that forbid running a release of this digest and version at all. A version that cannot be
// read from the reference is below every minimum.
func (c *decider) banned(digest release.Digest, version release.Version) (waits []wait) {
	c.inForce(func(e release.EmergencyEntry) {
		switch {
		case e.Kind == "revoke" && e.Digest != nil && *e.Digest == digest:
			waits = append(waits, wait{RuleRevoked, ends(e), why("release "+digest.Short()+" is revoked", e.Reason)})
		case e.Kind == "minimum" && e.Version != nil && (version.IsZero() || version.Compare(*e.Version) < 0):
			text := fmt.Sprintf("release %s is below the emergency minimum %s", version, e.Version)
			waits = append(waits, wait{RuleMinimum, ends(e), why(text, e.Reason)})
		}
	})
	return waits
}

// stopped returns the halts and freezes; an entry of a kind this version does not know stops too.
func (c *decider) stopped() (waits []wait) {
	c.inForce(func(e release.EmergencyEntry) {
		if e.Kind == "revoke" || e.Kind == "minimum" {
			return
		}
		text := fmt.Sprintf("emergency %s of %s", e.Kind, c.d.Environment)
		if e.Until != nil {
			text += " until " + clock(*e.Until)
		}
		waits = append(waits, wait{RuleEmergency, ends(e), why(text, e.Reason)})
	})
	return waits
}

// revocation is the reason why the running release is revoked, if it is.
func (c *decider) revocation() (reason string, revoked bool) {
	if c.in.Current == nil {
		return "", false
	}
	c.inForce(func(e release.EmergencyEntry) {
		if e.Kind == "revoke" && e.Digest != nil && *e.Digest == c.in.Current.Digest {
			reason, revoked = e.Reason, true
		}
	})
	return reason, revoked
}

// fallback is the signed fallback if a revert from the running release may go there.
func (c *decider) fallback() *release.Reference {
	f := c.d.Fallback
	if f == nil || c.in.Current != nil && c.in.Current.Digest == f.SHA256 {
		return nil
	}
	if len(c.banned(f.SHA256, versionOf(f))) > 0 {
		return nil
	}
	return f
}

func versionOf(r *release.Reference) release.Version {
	_, v, err := release.ParseReleasePath(r.Path)
	if err != nil {
		return release.Version{}
	}
	return v
}
