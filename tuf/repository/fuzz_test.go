package repository

import (
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// FuzzPayloadsOfOthers: whatever a change folder holds is refused or read, never a panic.
func FuzzPayloadsOfOthers(f *testing.F) {
	t := metadata.Targets(time.Unix(2_000_000_000, 0).UTC()).Signed
	raw, err := encode(&t)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	for _, s := range []string{`null`, `{}`, `[]`, `{"_type":1}`, `{"_type":"targets","delegations":{"keys":{"a":null},"roles":[null]}}`, `{"signed":{},"signatures":[null]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if p, err := parse[metadata.TargetsType](raw, "targets"); err == nil {
			if _, err := delegatedSigners(p.doc, "app.x"); err == nil && p.doc.Delegations == nil {
				t.Error("signers out of nothing")
			}
		}
		if p, err := parse[metadata.RootType](raw, "root"); err == nil {
			_, _ = rootSigners(p.doc, "root")
		}
		_, _ = openEnvelope(raw)
	})
}

func TestPayloadsThatClientsReadDifferentlyAreRefused(t *testing.T) {
	doc := metadata.Targets(time.Unix(2_000_000_000, 0).UTC()).Signed
	raw, err := encode(&doc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parse[metadata.TargetsType](raw, "targets"); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"mis-cased":    {`"version": 1`, `"version": 1, "Version": 2`},
		"nanoseconds":  {"Z\"", ".5Z\""},
		"other zone":   {"Z\"", "+01:00\""},
		"other type":   {`"_type": "targets"`, `"_type": "root"`},
		"version zero": {`"version": 1`, `"version": 0`},
		"other spec":   {`"spec_version": "1.`, `"spec_version": "2.`},
	} {
		bad := strings.Replace(string(raw), change[0], change[1], 1)
		if bad == string(raw) {
			t.Fatalf("%s changes nothing", name)
		}
		if _, err := parse[metadata.TargetsType]([]byte(bad), "targets"); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestPeriodsReadBackAndStayWithinReason(t *testing.T) {
	for _, s := range []string{"365d", "12h", "90m", "1m"} {
		p, err := ParsePeriod(s)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ParsePeriod(p.String()); err != nil || again != p {
			t.Errorf("%s became %s", s, p)
		}
	}
	for _, s := range []string{"", "d", "-1d", "0d", "30s", "99999999999999d", "100000d", "1.5d"} {
		if p, err := ParsePeriod(s); err == nil {
			t.Errorf("%q is %s", s, p)
		}
	}
}
