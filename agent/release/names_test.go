package release

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

func accepts[T any](t *testing.T, parse func(string) (T, error), good, bad []string) {
	t.Helper()
	for _, s := range good {
		if _, err := parse(s); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range bad {
		var refused *NameError
		if _, err := parse(s); !errors.As(err, &refused) || refused.Kind() != "bad-name" {
			t.Errorf("%q was accepted or refused with %v", s, err)
		}
	}
}

func TestNamesAcceptOnlyWhatIsSafeAsAPathComponent(t *testing.T) {
	common := []string{"", ".", "..", "a/b", "a b", "a\x00", "a\n", "ä", "*", "../a", strings.Repeat("a", 300)}
	accepts(t, ParseApp, []string{"a", "billing", "pay-2", strings.Repeat("a", 48)}, append(common, "A", "-a", "a-", "a.b", "a_b", strings.Repeat("a", 49)))
	accepts(t, ParseEnvironment, []string{"production", "eu-1"}, append(common, "Prod", strings.Repeat("a", 33)))
	accepts(t, ParseVersion, []string{"1", "v1.2.3-rc.1+b_2", "2026.11"}, append(common, ".1", "-1", "1~2", strings.Repeat("1", 65)))
	accepts(t, ParsePlatform, []string{"linux/amd64", "linux/arm64"}, append(common, "darwin/arm64", "linux/", "linux/../x", "linux/AMD"))
	accepts(t, ParseUnitName, []string{"billing.service", "billing@.service", "billing@a.b.socket", "a_b-c.timer"}, append(common, "a.mount", "a", ".service", "a@b@.service", `a\x2d.service`, "a:b.service", "-a.service"))
	accepts(t, ParseDigest, []string{strings.Repeat("0a", 32)}, append(common, strings.Repeat("0A", 32), strings.Repeat("0", 64), strings.Repeat("0a", 31)))
	accepts(t, ParseID, []string{"1.0-0123456789ab", "1.0-rc-1-0123456789ab"}, append(common, "1.0", "1.0-0123456789AB", "-0123456789ab", ".x-0123456789ab", "1.0-0123456789ab.meta"))
}

func TestUnitsBelongToTheirAppOnly(t *testing.T) {
	for unit, want := range map[string]bool{"billing.service": true, "billing-worker.timer": true, "billing@.service": true, "billing@x.socket": true, "billingx.service": false, "ssh.service": false, "x-billing.service": false} {
		if got := must(ParseUnitName(unit)).BelongsTo(testApp); got != want {
			t.Errorf("%s: %v", unit, got)
		}
	}
	if must(ParseUnitName("x.service")).BelongsTo(App{}) {
		t.Error("a unit belongs to no app")
	}
	if u := must(ParseUnitName("billing@.service")); !u.IsTemplate() || u.Stem() != "billing@" || u.Kind() != "service" {
		t.Error(u)
	}
}

func TestVersionsCompareLikeSemanticVersions(t *testing.T) {
	ordered := []string{"0.9", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc1", "1.0.0-rc10", "1.0.0", "1.0.1", "1.2", "1.2.0", "1.10.0", "2.0.0", "20261123"}
	for i := range ordered {
		for j := range ordered {
			v, w := must(ParseVersion(ordered[i])), must(ParseVersion(ordered[j]))
			if c := v.Compare(w); (c < 0) != (i < j) || (c == 0) != (i == j) {
				t.Errorf("%s against %s: %d", v, w, c)
			}
		}
	}
	if must(ParseVersion("v1.0+a")).Compare(must(ParseVersion("1.0+b"))) != 0 {
		t.Error("a leading v or build metadata counts")
	}
}

func TestTextFormsSurviveARoundTripAndZeroIsNeverWritten(t *testing.T) {
	type all struct {
		App      App      `json:"app"`
		ID       ID       `json:"id"`
		Digest   Digest   `json:"digest"`
		Duration Duration `json:"duration"`
		Maybe    ID       `json:"maybe,omitzero"`
	}
	in := all{App: testApp, ID: NewID(testVersion, Sum(nil)), Digest: Sum(nil), Duration: Duration(90 * time.Minute)}
	data := must(json.Marshal(in))
	var out all
	check(t, json.Unmarshal(data, &out))
	if in != out || !strings.Contains(string(data), `"1h30m"`) || strings.Contains(string(data), "maybe") {
		t.Errorf("%s gives %+v", data, out)
	}
	if id := must(ParseID(in.ID.String())); id != in.ID || id.Version() != testVersion || id.Short() != Sum(nil).Short() {
		t.Error(id)
	}
	for _, zero := range []any{App{}, Digest{}, ID{}} {
		if data, err := json.Marshal(zero); err == nil {
			t.Errorf("a zero value was written as %s", data)
		}
	}
}

func TestDurationsAreShortAndNeverNegative(t *testing.T) {
	for in, want := range map[string]string{"90s": "1m30s", "5m0s": "5m", "60m": "1h", "1h30m": "1h30m", "0": "0s", "1500ms": "1.5s", "10m": "10m", "1h0m30s": "1h0m30s"} {
		if got := must(ParseDuration(in)).String(); got != want {
			t.Errorf("%s: %s, not %s", in, got, want)
		}
	}
	for _, bad := range []string{"", "5", "-5s", "5 minutes", "1d"} {
		if _, err := ParseDuration(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestReleasePathsAreReadOnlyInTheirOneForm(t *testing.T) {
	path := ReleasePath(testApp, testVersion)
	if a, v, err := ParseReleasePath(path); err != nil || a != testApp || v != testVersion || path != "releases/billing/2.4.1/release.json" {
		t.Error(path, err)
	}
	accepts(t, func(s string) (App, error) { a, _, err := ParseReleasePath(s); return a, err }, nil,
		[]string{"", "/" + path, path + "/", "releases/billing/../release.json", "releases/../1/release.json", "deployments/a/b/release.json", "releases/a/1/other.json"})
}
