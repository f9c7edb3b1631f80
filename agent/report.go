package agent

import (
	"errors"
	"fmt"

	"github.com/slipway-deploy/slipway/agent/audit"
	"github.com/slipway-deploy/slipway/agent/state"
)

// report is the one place that tells: the same sentence goes to the sink (audit), the log, and Observe (status line, event
// stream, metrics). Its error is the sink's: it stops an activation and is otherwise only logged.
func (m *Machine) report(e audit.Event) error {
	e.Time, e.App = m.Clock.Now().UTC(), m.app.String()
	err := m.Sink.Append(e)
	args := []any{"app", e.App}
	for _, kv := range [][2]string{{"phase", e.Phase}, {"attempt", e.Attempt}, {"cause", e.Cause}} {
		if kv[1] != "" {
			args = append(args, kv[0], kv[1])
		}
	}
	m.Log.Info(e.Message, args...)
	if err != nil {
		m.Log.Error("an event could not be recorded", "app", e.App, "error", err)
	}
	if m.Observe != nil {
		m.Observe(e)
	}
	return err
}

// reportPhase tells a transition that has just become durable.
func (m *Machine) reportPhase(st *state.App, message string) error {
	e := audit.Event{Type: "phase", Phase: string(st.Phase), Sequence: st.Sequence, Message: message}
	if a := st.Attempt; a != nil {
		e.Attempt, e.From, e.To, e.Cause = a.ID, name(a.From), name(a.To), string(a.Cause)
	}
	m.setWhy(message)
	return m.report(e)
}

// reportEnd tells how an attempt ended.
func (m *Machine) reportEnd(st *state.App, o state.Outcome, message string) error {
	m.setWhy(message)
	return m.report(audit.Event{
		Type: "phase", Phase: string(st.Phase), Attempt: o.Attempt, Sequence: o.Sequence, From: name(o.From), To: name(o.To),
		Cause: string(o.Cause), Message: message, Fields: map[string]string{"result": o.Result},
	})
}

// wait tells why nothing happens. The same reason is told once, not at every poll.
func (m *Machine) wait(cause, message string) {
	if !m.setWhy(message) {
		return
	}
	_ = m.report(audit.Event{Type: "wait", Cause: cause, Message: message})
}

// damage tells of something on this host that is not as we left it.
func (m *Machine) damage(message string) {
	_ = m.report(audit.Event{Type: "damage", Message: message})
}

// kindOf returns the stable name of an error, or "error".
func kindOf(err error) string {
	var k interface{ Kind() string }
	if errors.As(err, &k) {
		return k.Kind()
	}
	return "error"
}

// name prints a release directory's name, and nothing for none.
func name(id interface {
	IsZero() bool
	String() string
}) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

func sentence(format string, args ...any) string { return fmt.Sprintf(format, args...) }
