package fleet

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Bounds of what a host may say: a hub keeps it, and shows it to people.
const (
	maxName   = 128
	maxWords  = 500
	maxLabels = 64
)

// Check tells what is malformed in a turn; whether it is true is the hub's business.
func (t Turn) Check() error {
	if t.App.IsZero() {
		return fmt.Errorf("app: is missing")
	}
	if t.Document.IsZero() {
		return fmt.Errorf("document: is missing")
	}
	if t.Want != Nowhere && t.Want != Forward && t.Want != Back {
		return fmt.Errorf("want: %q is not %q, %q or empty", t.Want, Forward, Back)
	}
	if err := checkLabels(t.Labels); err != nil {
		return err
	}
	return firstOf(name("rollout", t.Rollout), name("install", t.Install), optional("boot", t.Boot, maxName), optional("wave", t.Wave, maxName),
		optional("phase", t.Phase, maxName), optional("why", t.Why, maxWords), notNegative("sequence", t.Sequence), notNegative("fence", t.Fence), notNegative("epoch", t.Epoch))
}

// Check tells what is malformed in a check.
func (c Check) Check() error {
	if c.App.IsZero() {
		return fmt.Errorf("app: is missing")
	}
	return firstOf(name("rollout", c.Rollout), name("install", c.Install), notNegative("fence", c.Fence))
}

// Check tells what is malformed in a finish.
func (f Finish) Check() error {
	if f.App.IsZero() {
		return fmt.Errorf("app: is missing")
	}
	switch f.Result {
	case Committed, Reverted, FailedBefore, Stuck, Skipped:
	default:
		return fmt.Errorf("result: %q is none", f.Result)
	}
	return firstOf(name("rollout", f.Rollout), name("install", f.Install), optional("cause", f.Cause, maxName), optional("reason", f.Reason, maxWords),
		optional("wave", f.Wave, maxName), notNegative("fence", f.Fence), notNegative("took", int64(f.Took)))
}

// Check tells what is malformed in an act. The reason is the one thing every act has.
func (a Act) Check() error {
	if strings.TrimSpace(a.Reason) == "" {
		return fmt.Errorf("reason: is missing; it is what the next person on call reads")
	}
	return firstOf(optional("reason", a.Reason, maxWords), optional("rollout", a.Rollout, maxName), optional("wave", a.Wave, maxName), optional("host", a.Host, maxName))
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func name(field, s string) error {
	if s == "" {
		return fmt.Errorf("%s: is missing", field)
	}
	return optional(field, s, maxName)
}

func optional(field, s string, limit int) error {
	if len(s) > limit {
		return fmt.Errorf("%s: %d bytes are more than %d", field, len(s), limit)
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return fmt.Errorf("%s: must not hold control characters or line breaks", field)
	}
	return nil
}

func notNegative(field string, n int64) error {
	if n < 0 {
		return fmt.Errorf("%s: %d is negative", field, n)
	}
	return nil
}

func checkLabels(labels map[string]string) error {
	if len(labels) > maxLabels {
		return fmt.Errorf("labels: %d are more than %d", len(labels), maxLabels)
	}
	for k, v := range labels {
		if err := firstOf(name("labels", k), optional("labels."+k, v, maxName)); err != nil {
			return err
		}
	}
	return nil
}
