package hub

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/slipway-deploy/slipway/agent/release"
)

// Group is what shares a budget and a rollout: one app in one environment.
type Group struct {
	Environment release.Environment
	App         release.App
}

// String is "environment/app".
func (g Group) String() string { return g.Environment.String() + "/" + g.App.String() }

// keys names everything in the store. The doc comment of the package tells what each holds.
type keys struct{ prefix string }

func newKeys(fleet string) keys { return keys{"/slipway/v1/" + url.PathEscape(fleet) + "/"} }

// Prefix is where a fleet's keys begin in a store. Others who keep something there must stay clear of the engine's kinds.
func Prefix(fleet string) string { return newKeys(fleet).prefix }

func (k keys) halt() string                  { return k.prefix + "halt" }
func (k keys) sweeper() string               { return k.prefix + "sweeper" }
func (k keys) hub(id string) string          { return k.prefix + "hub/" + url.PathEscape(id) }
func (k keys) auditHead() string             { return k.prefix + "audit-head" }
func (k keys) audit(n int64) string          { return fmt.Sprintf("%saudit/%016d", k.prefix, n) }
func (k keys) rollout(g Group) string        { return k.prefix + "rollout/" + g.String() }
func (k keys) slots(g Group) string          { return k.prefix + "slot/" + g.String() + "/" }
func (k keys) holds(g Group) string          { return k.prefix + "hold/" + g.String() + "/" }
func (k keys) hold(g Group, h string) string { return k.holds(g) + url.PathEscape(h) }
func (k keys) host(g Group, h string) string {
	return k.prefix + "host/" + g.String() + "/" + url.PathEscape(h)
}
func (k keys) tally(g Group, r, hub string) string {
	return k.prefix + "tally/" + g.String() + "/" + r + "/" + url.PathEscape(hub)
}

// slot is one unit of a cell's budget. Cell names hold no slash: see cellName.
func (k keys) slot(g Group, cell string, n int) string {
	return fmt.Sprintf("%s%s/%06d", k.slots(g), cell, n)
}

// parse takes a key apart: its kind, its group if it has one, and what follows, unescaped.
func (k keys) parse(key string) (kind string, g Group, rest []string, ok bool) {
	text, ok := strings.CutPrefix(key, k.prefix)
	if !ok {
		return "", g, nil, false
	}
	parts := strings.Split(text, "/")
	kind, parts = parts[0], parts[1:]
	switch kind {
	case "rollout", "slot", "hold", "host", "tally":
		if len(parts) < 2 {
			return "", g, nil, false
		}
		var errE, errA error
		g.Environment, errE = release.ParseEnvironment(parts[0])
		g.App, errA = release.ParseApp(parts[1])
		if errE != nil || errA != nil {
			return "", g, nil, false
		}
		parts = parts[2:]
	}
	for i, p := range parts {
		if kind == "slot" {
			break // a cell's name is its escaped form
		}
		text, err := url.PathUnescape(p)
		if err != nil {
			return "", g, nil, false
		}
		parts[i] = text
	}
	return kind, g, parts, true
}
