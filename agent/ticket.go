package agent

import (
	"fmt"
	"strings"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/state"
)

// Ticket is what a guard is armed with, in the instance name of its unit: app, attempt and the short digests of where it
// would go to and from. The state file decides; the ticket only says which attempt is meant.
type Ticket struct {
	App      release.App
	Attempt  string
	From, To string
}

func ticket(app release.App, a *state.Attempt) Ticket {
	return Ticket{App: app, Attempt: a.ID, From: short(a.Fallback), To: short(a.To)}
}

func short(id release.ID) string {
	if id.IsZero() {
		return "none"
	}
	return id.Short()
}

// String is the ticket as a unit's instance name.
func (t Ticket) String() string {
	return strings.Join([]string{t.App.String(), t.Attempt, t.From, t.To}, ":")
}

// ParseTicket reads what String wrote.
func ParseTicket(s string) (Ticket, error) {
	parts := strings.Split(s, ":")
	if len(parts) != 4 {
		return Ticket{}, fmt.Errorf("cannot read guard ticket %q: it must be APP:ATTEMPT:FROM:TO", s)
	}
	app, err := release.ParseApp(parts[0])
	if err != nil {
		return Ticket{}, fmt.Errorf("cannot read guard ticket %q: %w", s, err)
	}
	return Ticket{App: app, Attempt: parts[1], From: parts[2], To: parts[3]}, nil
}
