package rollout

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

var seedFlag = flag.Uint64("seed", 0, "replay the property tests with this seed")

// random gives a generator whose seed is printed when the test fails.
func random(t *testing.T) *rand.Rand {
	t.Helper()
	n := *seedFlag
	if n == 0 {
		n = rand.Uint64()
	}
	t.Logf("replay with -seed %d", n)
	return rand.New(rand.NewPCG(n, 1))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func at(s string) time.Time { return must(time.Parse(time.RFC3339, s)) }

func ptr[T any](v T) *T { return &v }

func hours(n float64) release.Duration { return release.Duration(n * float64(time.Hour)) }

var (
	billing    = must(release.ParseApp("billing"))
	other      = must(release.ParseApp("shop"))
	production = must(release.ParseEnvironment("production"))
	staging    = must(release.ParseEnvironment("staging"))
	noon       = at("2026-11-24T12:00:00Z")
)

func ref(version string) *release.Reference {
	v := must(release.ParseVersion(version))
	return &release.Reference{Path: release.ReleasePath(billing, v), SHA256: release.Sum([]byte(version))}
}

func running(version string) *Running {
	return &Running{Version: must(release.ParseVersion(version)), Digest: release.Sum([]byte(version)), Healthy: true}
}

// deployment wants 2.4.1 in production since noon, with nothing in the way.
func deployment() *release.Deployment {
	return &release.Deployment{
		Schema: release.DeploymentSchema, App: billing, Environment: production, Sequence: 7, RolloutID: "r-7",
		State: release.StateActive, Release: ref("2.4.1"), Fallback: ref("2.4.0"), Created: noon,
	}
}

// open is an input that acts: web-1 runs 2.4.0 an hour after the deployment was made.
func open() Input {
	return Input{
		Deployment: deployment(), Host: Host{ID: "web-1", Environment: production, Labels: map[string]string{"site": "ams"}},
		Now: noon.Add(time.Hour), ClockTrusted: true, Issued: noon.Add(time.Hour - time.Minute), Current: running("2.4.0"),
	}
}

// with changes a copy of the open input; the deployment is a copy too.
func with(change func(*Input)) Input {
	in := open()
	change(&in)
	return in
}

func pin(in *Input, hosts ...release.InventoryHost) {
	in.Inventory = &release.Inventory{Schema: release.InventorySchema, Environment: production, Issued: noon, Hosts: hosts}
	in.InventoryDigest = release.Sum([]byte(fmt.Sprint(hosts)))
	in.Deployment.Inventory = &release.InventoryRef{SHA256: in.InventoryDigest}
}

func fleet(n int, label func(i int) map[string]string) []release.InventoryHost {
	hosts := make([]release.InventoryHost, n)
	for i := range hosts {
		hosts[i].ID = fmt.Sprintf("host-%d", i)
		if label != nil {
			hosts[i].Labels = label(i)
		}
	}
	return hosts
}

func entry(kind string, change func(*release.EmergencyEntry)) *release.Emergency {
	e := release.EmergencyEntry{Kind: kind, Reason: "incident 12"}
	if kind != "revoke" {
		e.Until = ptr(noon.Add(5 * time.Hour))
	}
	if change != nil {
		change(&e)
	}
	return &release.Emergency{Schema: release.EmergencySchema, Environment: production, Epoch: 3, Issued: noon,
		Entries: []release.EmergencyEntry{e}}
}

func revoke(version string) *release.Emergency {
	return entry("revoke", func(e *release.EmergencyEntry) { e.Digest = ptr(release.Sum([]byte(version))) })
}
