package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
)

// A release soaks in staging and is promoted on the word of a host.
func TestAReleaseIsPromotedFromStagingToProduction(t *testing.T) {
	s := newShell(t)
	s.published()
	s.tree()
	s.expect(0, "key gen tester --unencrypted")
	s.expect(0, "env add staging --key tester.pub --sign alice --sign bob")
	s.expect(0, "publish")
	s.expect(0, "release pack build --app billing --version 1.0.0")
	s.expect(0, "release publish billing 1.0.0 --sign ci")
	s.expect(0, "publish")

	policy, err := os.ReadFile("repo/policy.json")
	if err != nil {
		t.Fatal(err)
	}
	s.write("repo/policy.json", strings.Replace(string(policy), `"freshness": "24h"`, `"freshness": "24h", "promotion": {"from": "staging", "committed": "24h"}`, 1))
	s.expect(3, "deploy new --env production --app billing --release 1.0.0", "releases come there by promotion from staging; run deploy promote billing 1.0.0")
	s.expect(3, "deploy promote billing 1.0.0 --from staging --to production", "no release of it is deployed in staging; run deploy new --env staging")
	s.expect(0, "deploy new --env staging --app billing --release 1.0.0 --sign tester")
	s.expect(0, "publish")
	s.expect(3, "deploy promote billing 1.0.0 --from staging --to production", "0 of 1 hosts of staging say that they have had it committed for at least 24h0m0s", "slipway evidence billing on hosts of staging")

	found, err := filepath.Glob("repo/targets/releases/billing/1.0.0/*.release.json")
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	digest := filepath.Base(found[0])[:12]
	now := time.Now().UTC().Truncate(time.Second)
	evidence := fmt.Sprintf(`{"schema":%q,"host":"stage-01","environment":"staging","app":"billing","release":"1.0.0-%s","sequence":1,"attempt":"a1","committed":%q,"observed":%q}`,
		release.EvidenceSchema, digest, now.Add(-26*time.Hour).Format(time.RFC3339), now.Format(time.RFC3339))
	s.write("stage-01.json", evidence)
	s.expect(0, "deploy promote billing 1.0.0 --from staging --to production --evidence stage-01.json --requested-by dora --ticket OPS-7 --sign ann",
		"production/billing: nothing → 1.0.0, requested by dora, ticket OPS-7, promoted from staging (sequence 1), evidence ",
		"production/billing: host stage-01 says: 1.0.0-"+digest+" committed since ", "for 26h0m0s when asked (not signed; sha256 ",
		"deploy.production.billing: 1 of 2")
	id := strings.Fields(s.out)[0]
	s.expect(0, "change sign "+id+" --key ben", "Sign this?", "host stage-01 says")
	s.expect(0, "publish")
	s.expect(0, "verify --payloads", "production/billing: 1.0.0, sequence 1, active", "staging/billing: 1.0.0, sequence 1, active", "1 releases, 2 files")
	s.expect(3, "deploy promote billing 1.0.0 --from staging --to production --evidence stage-01.json", "production runs it already (sequence 1)")
	s.expect(2, "deploy promote billing --from staging --to production")
	s.expect(1, "deploy promote billing 1.0.0 --from staging --to production --evidence none.json", "cannot read evidence")
}
