package hub

import "github.com/slipway-deploy/slipway/agent/release"

// Caller is the host that asks, as its certificate names it. Nothing a host sends in a body can change it.
type Caller struct {
	Environment release.Environment
	Host        string
}
