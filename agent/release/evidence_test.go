package release

import (
	"strings"
	"testing"
	"time"
)

func TestEvidenceIsReadAsItWasWrittenAndNothingElseIs(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	e := &Evidence{Host: "web-01", Environment: must(ParseEnvironment("staging")), App: must(ParseApp("billing")), Release: "2.4.1-0123456789ab",
		Sequence: 7, Attempt: "a1", Committed: at, Observed: at.Add(30 * time.Hour)}
	data := must(EncodeEvidence(e))
	again := must(ParseEvidence(data))
	if *again != *e || again.Soaked() != 30*time.Hour {
		t.Errorf("%+v", again)
	}
	for name, edit := range map[string][2]string{
		"an unknown field":   {`"host"`, `"extra": 1, "host"`},
		"a field twice":      {`"host"`, `"host": "x", "host"`},
		"another case":       {`"host"`, `"Host"`},
		"another schema":     {"evidence/v1", "evidence/v2"},
		"no release id":      {"2.4.1-0123456789ab", "2.4.1"},
		"an empty host":      {"web-01", ""},
		"the past":           {"2026-01-03", "2026-01-01"},
		"a control byte":     {"web-01", `web\u001b01`},
		"an environment bad": {"staging", "Staging"},
		"too much":           {"a1", strings.Repeat("a", maxEvidence)},
		"cut short":          {"}\n", ""},
	} {
		bent := strings.Replace(string(data), edit[0], edit[1], 1)
		if bent == string(data) {
			t.Fatal(name, "changes nothing")
		}
		if _, err := ParseEvidence([]byte(bent)); err == nil {
			t.Error(name, "was read")
		}
	}
}
