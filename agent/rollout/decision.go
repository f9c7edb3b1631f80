package rollout

import (
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

// Verb is what the signed documents want of the host.
type Verb string

// The verbs.
const (
	VerbNone     Verb = "none"
	VerbActivate Verb = "activate"
	VerbRevert   Verb = "revert"
	VerbRemove   Verb = "remove"
	VerbStop     Verb = "stop"
)

// Rule names what settled a decision. The set is closed, so it can label a metric; it is text so that it can travel as it is.
type Rule = string

// The rules, in the order of the package comment. RuleOpen means that nothing is in the way.
const (
	RuleDeployment  Rule = "deployment"
	RuleEnvironment Rule = "environment"
	RuleRevoked     Rule = "revoked"
	RuleRevert      Rule = "revert"
	RuleOrder       Rule = "order"
	RuleUpToDate    Rule = "up-to-date"
	RuleState       Rule = "state"
	RuleMetadata    Rule = "metadata"
	RuleClock       Rule = "clock"
	RuleNotBefore   Rule = "not-before"
	RuleExpires     Rule = "expires"
	RuleFreshness   Rule = "freshness"
	RuleEmergency   Rule = "emergency"
	RuleMinimum     Rule = "minimum"
	RuleQuarantined Rule = "quarantine"
	RuleHold        Rule = "hold"
	RuleInventory   Rule = "inventory"
	RuleWave        Rule = "wave"
	RuleAdvance     Rule = "advance"
	RuleFreeze      Rule = "freeze"
	RuleWindow      Rule = "window"
	RuleCoordinator Rule = "coordinator"
	RuleOpen        Rule = "open"
)

// Rules lists every rule, so that a metric can show the ones that never fired as zero.
func Rules() []Rule {
	return []Rule{RuleDeployment, RuleEnvironment, RuleRevoked, RuleRevert, RuleOrder, RuleUpToDate, RuleState, RuleMetadata, RuleClock,
		RuleNotBefore, RuleExpires, RuleFreshness, RuleEmergency, RuleMinimum, RuleQuarantined, RuleHold, RuleInventory,
		RuleWave, RuleAdvance, RuleFreeze, RuleWindow, RuleCoordinator, RuleOpen}
}

// Decision is the answer. Verb is what is wanted even while Act is false, so a host may stage ahead of its turn.
type Decision struct {
	Act  bool
	Verb Verb
	// Target is what to activate or to revert to. A revert without one goes to the newest intact known-good release.
	Target *release.Reference
	// Until is the first instant at which everything known now lets the host act; zero if it acts already, has nothing to
	// do, or waits for something without a known end.
	Until time.Time
	Rule  Rule
	// Because is one sentence for operators, without a full stop.
	Because  string
	Position float64
	Wave     string
	// Earliest is when the known times alone (wave, calendar, dated stops) let the host start; zero if they never do or
	// the host's place is not known. Unlike Until it is also given while an undated stop is in the way.
	Earliest time.Time
}

// wait is one rule's objection; until zero has no known end.
type wait struct {
	rule    Rule
	until   time.Time
	because string
}

// strictest picks the objection to report: the first without a known end, else the one that ends last. waits must not be empty.
func strictest(waits []wait) wait {
	worst := waits[0]
	for _, w := range waits {
		if w.until.IsZero() {
			return w
		}
		if w.until.After(worst.until) {
			worst = w
		}
	}
	return worst
}

func latest(times ...time.Time) time.Time {
	var t time.Time
	for _, u := range times {
		if u.After(t) {
			t = u
		}
	}
	return t
}

// clock prints an instant for people: UTC, never earlier than it is, seconds only where they matter.
func clock(t time.Time) string {
	t = t.UTC()
	if r := t.Truncate(time.Second); r.Before(t) {
		t = r.Add(time.Second)
	}
	if t.Second() != 0 {
		return t.Format("2006-01-02 15:04:05 MST")
	}
	return t.Format("2006-01-02 15:04 MST")
}

// why appends a signer's reason to a sentence if there is one.
func why(sentence, reason string) string {
	if reason == "" {
		return sentence
	}
	return sentence + ": " + reason
}
