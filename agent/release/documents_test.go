package release

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

var (
	testApp     = must(ParseApp("billing"))
	testVersion = must(ParseVersion("2.4.1"))
	testAMD64   = must(ParsePlatform("linux/amd64"))
	testTime    = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
)

func testFile(base string) File {
	return File{Path: "releases/billing/2.4.1/" + base, SHA256: Sum([]byte(base)), Length: 10}
}

func testRelease() *Release {
	floor := must(ParseVersion("2.0.0"))
	sbom := testFile("sbom.json")
	return &Release{
		Schema: ReleaseSchema, App: testApp, Version: testVersion, Created: testTime,
		Source:    &Source{Repository: "https://example.org/billing", Commit: "abc"},
		Platforms: map[Platform]Artifact{testAMD64: {Archive: testFile("linux-amd64.tar.zst"), Manifest: testFile("linux-amd64.manifest.json"), Unpacked: 100, Files: 3}},
		Restart:   RestartModeSocket,
		Units:     []UnitFile{{must(ParseUnitName("billing.service")), "units/billing.service"}, {must(ParseUnitName("billing.socket")), "units/billing.socket"}},
		Users:     []User{{Name: "billing", Home: "/var/lib/billing"}},
		Dirs:      []Directory{{Path: "/var/lib/billing", Mode: "0750", User: "billing", Group: "billing"}},
		Checks: []Check{
			{Name: "unit", Kind: CheckUnitState, Unit: must(ParseUnitName("billing.service"))},
			{Name: "web", Kind: CheckHTTP, URL: "http://127.0.0.1:8080/healthz", Status: 200, Timing: Timing{Interval: Duration(5 * time.Second), FailureThreshold: 3}},
			{Name: "port", Kind: CheckTCP, Address: "[::1]:8080"},
			{Name: "self", Kind: CheckExec, Command: []string{"bin/check", "--all"}, User: "billing"},
			{Name: "rpc", Kind: CheckGRPC, Address: "localhost:9090", Service: "billing"},
		},
		Hooks:         &Hooks{PreActivate: &Command{Command: []string{"bin/migrate"}, Timeout: Duration(time.Minute)}},
		RollbackFloor: &floor, SBOM: &sbom, Provenance: []File{testFile("provenance.json")},
	}
}

func testDeployment() *Deployment {
	later := testTime.Add(time.Hour)
	return &Deployment{
		Schema: DeploymentSchema, App: testApp, Environment: must(ParseEnvironment("production")), Sequence: 7, RolloutID: "01HX-a_b", State: StateActive,
		Release:  &Reference{ReleasePath(testApp, testVersion), Sum([]byte("a"))},
		Fallback: &Reference{ReleasePath(testApp, must(ParseVersion("2.4.0"))), Sum([]byte("b"))},
		Reason:   "quarterly “big” release", Created: testTime, NotBefore: &testTime, Expires: &later, Freshness: Duration(15 * time.Minute),
		Health:     &TrialPolicy{MinHealthyTime: Duration(time.Minute), HealthyDeadline: Duration(5 * time.Minute), Checks: map[string]Timing{"web": {Timeout: Duration(time.Second)}}},
		Gates:      &Gates{SBOM: &GatePolicy{Required: true, Policy: &Reference{"trust/sbom.json", Sum([]byte("p"))}}},
		Population: 1000,
		Waves: []Wave{
			{Name: "canary", Hosts: []string{"host-1"}, Advance: "signed"}, {Name: "labels", Labels: map[string]string{"site": "fra1"}},
			{Name: "ten", PercentBP: 1000, StartAfter: Duration(time.Hour)}, {Name: "all", PercentBP: 10000, StartAfter: Duration(2 * time.Hour), Spread: Duration(time.Hour)},
		},
		MaxWave: "ten", Budget: &Budget{PercentBP: 500, GroupBy: []string{"site"}}, Windows: []Window{{Days: []string{"mon", "tue"}, Start: "09:30", Length: Duration(time.Hour), Zone: "UTC"}},
		Freeze: []Freeze{{From: testTime, Until: later}}, Halt: &HaltPolicy{MaxFailures: 2, OnHalt: "revert"}, Revert: &RevertPolicy{MaxUnavailable: 5},
		Coordinator: &Coordinator{Kind: "hub", URLs: []string{"https://hub.example.org"}}, OnCoordinatorLoss: "hold", Inventory: &InventoryRef{Sum([]byte("i"))},
	}
}

func testEmergency() *Emergency {
	digest, until := Sum([]byte("bad")), testTime.Add(time.Hour)
	return &Emergency{Schema: EmergencySchema, Environment: must(ParseEnvironment("production")), Epoch: 3, Issued: testTime, Entries: []EmergencyEntry{
		{Kind: "revoke", Digest: &digest, Reason: "leaks"}, {Kind: "halt", App: &testApp, Until: &until, Reason: "incident"},
		{Kind: "minimum", App: &testApp, Version: &testVersion, Until: &until, Reason: "hole"}, {Kind: "freeze", Until: &until, Reason: "holiday"},
	}}
}

func testInventory() *Inventory {
	return &Inventory{Schema: InventorySchema, Environment: must(ParseEnvironment("production")), Issued: testTime, Hosts: []InventoryHost{{ID: "h1", Labels: map[string]string{"site": "fra1"}}, {ID: "h2"}}}
}

func roundTrip[D Document](t *testing.T, doc D, read func([]byte) (D, error)) {
	t.Helper()
	data, err := Encode(doc)
	check(t, err)
	back, err := read(data)
	check(t, err)
	if !reflect.DeepEqual(doc, back) {
		t.Errorf("got  %+v\nwant %+v", back, doc)
	}
	if again := must(Encode(back)); !bytes.Equal(data, again) {
		t.Error("encoding again gives other bytes")
	}
}

func TestDocumentsSurviveEncodingAndParsing(t *testing.T) {
	roundTrip(t, testRelease(), ParseRelease)
	roundTrip(t, testDeployment(), ParseDeployment)
	roundTrip(t, testEmergency(), ParseEmergency)
	roundTrip(t, testInventory(), ParseInventory)
	roundTrip(t, manyEntries(t, 100), ParseManifest)
}

func TestStrictParsingNamesThePlaceOfWhatItRefuses(t *testing.T) {
	good := string(must(Encode(testDeployment())))
	for _, c := range []struct{ what, old, new, want string }{
		{"out of range", `"percent_bp": 10000`, `"percent_bp": 10001`, "deployment: waves[3].percent_bp: 10001 is above 10000"},
		{"unknown field", `"ticket"`, `"tickets"`, ""},
		{"unknown nested field", `"advance"`, `"gate"`, "waves[0].gate: the field is unknown"},
		{"mis-cased field", `"sequence"`, `"Sequence"`, "Sequence: the field is unknown: write sequence"},
		{"duplicate field", `"sequence": 7,`, `"sequence": 7, "sequence": 8,`, "sequence: the field appears twice"},
		{"escaped duplicate", `"sequence": 7,`, `"sequence": 7, "\u0073equence": 8,`, "sequence: the field appears twice"},
		{"duplicate map key", `"site": "fra1"`, `"site": "fra1", "site": "x"`, "waves[1].labels.site: the field appears twice"},
		{"missing field", `"sequence": 7,`, ``, "sequence: the field is missing"},
		{"fraction", `"sequence": 7`, `"sequence": 7.0`, "sequence: fractions"},
		{"exponent", `"sequence": 7`, `"sequence": 7e2`, "sequence: fractions"},
		{"leading zero", `"sequence": 7`, `"sequence": 07`, "must not start with 0"},
		{"too big", `"sequence": 7`, `"sequence": 99999999999999999999`, "does not fit"},
		{"text for number", `"sequence": 7`, `"sequence": "7"`, "sequence: text where a whole number"},
		{"null", `"max_wave": "ten"`, `"max_wave": null`, "max_wave: null is not allowed"},
		{"bad duration", `"start_after": "1h"`, `"start_after": "1 hour"`, "waves[2].start_after: cannot use"},
		{"number for duration", `"start_after": "1h"`, `"start_after": 3600`, "a number where text"},
		{"bad digest", Sum([]byte("a")).String(), strings.ToUpper(Sum([]byte("a")).String()), "release.sha256"},
		{"control character", `“big”`, `\u001b[31m`, "reason: the text holds a control character"},
		{"reordering mark", `“big”`, `\u202e`, "reorders"},
		{"lone surrogate", `“big”`, `\ud800`, "broken escape"},
		{"broken UTF-8", `“big”`, "\xff", "not UTF-8"},
		{"trailing data", "", "", ""},
	} {
		data := strings.Replace(good, c.old, c.new, 1)
		if c.what == "trailing data" {
			data, c.want = good+"{}", "more data follows"
		}
		if c.what == "unknown field" {
			data, c.want = strings.Replace(good, `"reason"`, `"reasons"`, 1), "reasons: the field is unknown"
		}
		_, err := ParseDeployment([]byte(data))
		var refused *DocumentError
		if !errors.As(err, &refused) || refused.Kind() != "bad-document" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.what, err, c.want)
		}
	}
}

func TestParsingBoundsSizeAndDepth(t *testing.T) {
	if _, err := ParseRelease(bytes.Repeat([]byte(" "), 1<<20+1)); err == nil || !strings.Contains(err.Error(), "1048577 bytes, at most 1048576") {
		t.Error(err)
	}
	var nested struct {
		A [][][][][][][][][][][][][][][][][][][][][][][][][][][][][][][][][][]string `json:"a"`
	}
	if r := decodeStrict([]byte(`{"a":`+strings.Repeat("[", 40)), &nested); r == nil || !strings.Contains(r.reason, "deeper than 32") {
		t.Error(r)
	}
}

func TestAnotherSchemaVersionIsNotCalledDamaged(t *testing.T) {
	for _, data := range []string{`{"schema":"slipway.deployment/v2","colour":"red"}`, strings.Replace(string(must(Encode(testDeployment()))), "/v1", "/v2", 1)} {
		var other *SchemaError
		if _, err := ParseDeployment([]byte(data)); !errors.As(err, &other) || other.Got != "slipway.deployment/v2" {
			t.Errorf("got %v", err)
		}
	}
}

func TestReleaseRules(t *testing.T) {
	for want, breakIt := range map[string]func(r *Release){
		"platforms: at least one": func(r *Release) { r.Platforms = nil },
		"archive.path": func(r *Release) {
			a := r.Platforms[testAMD64]
			a.Archive.Path = "releases/other/1/x"
			r.Platforms[testAMD64] = a
		},
		"restart: \"sometimes\"":             func(r *Release) { r.Restart = "sometimes" },
		"mode socket needs":                  func(r *Release) { r.Units = r.Units[:1] },
		"units[0].name":                      func(r *Release) { r.Units[0].Name = must(ParseUnitName("ssh.service")) },
		"units[1].name: billing.service app": func(r *Release) { r.Units[1].Name = r.Units[0].Name; r.Restart = RestartModeRestart },
		"units[0].path":                      func(r *Release) { r.Units[0].Path = "../x" },
		"users[0].name":                      func(r *Release) { r.Users[0].Name = "root" },
		"users[0].home":                      func(r *Release) { r.Users[0].Home = "/root" },
		"directories[0].path":                func(r *Release) { r.Dirs[0].Path = "/var/lib/billing/../payments" },
		"lets everybody write":               func(r *Release) { r.Dirs[0].Mode = "0777" },
		"directories[0].mode":                func(r *Release) { r.Dirs[0].Mode = "4755" },
		"checks[0].unit":                     func(r *Release) { r.Checks[0].Unit = must(ParseUnitName("ssh.service")) },
		"checks[0].url: a check of kind":     func(r *Release) { r.Checks[0].URL = "http://localhost" },
		"checks[1].url: \"10.0.0.1\"":        func(r *Release) { r.Checks[1].URL = "http://10.0.0.1/" },
		"localhost.evil.org":                 func(r *Release) { r.Checks[1].URL = "http://localhost.evil.org/" },
		"checks[1].status":                   func(r *Release) { r.Checks[1].Status = 99 },
		"checks[2].address: a check":         func(r *Release) { r.Checks[2].Address = "" },
		"checks[2].address: the port":        func(r *Release) { r.Checks[2].Address = "127.0.0.1:0" },
		"checks[3].command[0]":               func(r *Release) { r.Checks[3].Command[0] = "/bin/sh" },
		"checks[3].user":                     func(r *Release) { r.Checks[3].User = "root" },
		"checks[4].kind":                     func(r *Release) { r.Checks[4].Kind = "icmp" },
		"checks[4].name: \"web\" appears":    func(r *Release) { r.Checks[4].Name = "web" },
		"hooks.pre_activate.command":         func(r *Release) { r.Hooks.PreActivate.Command = nil },
		"rollback_floor":                     func(r *Release) { v := must(ParseVersion("3.0.0")); r.RollbackFloor = &v },
		"created":                            func(r *Release) { r.Created = time.Time{} },
	} {
		r := testRelease()
		breakIt(r)
		if err := r.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestDeploymentRules(t *testing.T) {
	for want, breakIt := range map[string]func(d *Deployment){
		"sequence: 0 is below 1":      func(d *Deployment) { d.Sequence = 0 },
		"rollout_id":                  func(d *Deployment) { d.RolloutID = "a b" },
		"exclude each other":          func(d *Deployment) { d.Absent = true },
		"one of release and absent":   func(d *Deployment) { d.Release = nil },
		"state revert needs":          func(d *Deployment) { d.State, d.Fallback, d.Halt = StateRevert, nil, nil },
		"release of payments":         func(d *Deployment) { d.Release.Path = "releases/payments/1/release.json" },
		"fallback: it is the release": func(d *Deployment) { d.Fallback.SHA256 = d.Release.SHA256 },
		"expires":                     func(d *Deployment) { d.Expires = &testTime },
		"no trial could pass":         func(d *Deployment) { d.Health.MinHealthyTime = d.Health.HealthyDeadline },
		"on_revoked":                  func(d *Deployment) { d.OnRevoked = "explode" },
		"exactly one must be":         func(d *Deployment) { d.Waves[0].PercentBP = 10 },
		"percentages are cumulative":  func(d *Deployment) { d.Waves[3].PercentBP = 500 },
		"is before 1h":                func(d *Deployment) { d.Waves[3].StartAfter = 1 },
		"a count needs an inventory":  func(d *Deployment) { d.Waves[0].Hosts, d.Waves[0].Count, d.Inventory = nil, 3, nil },
		"max_wave":                    func(d *Deployment) { d.MaxWave = "none" },
		"budget: exactly one":         func(d *Deployment) { d.Budget.Count = 1 },
		"of what is it":               func(d *Deployment) { d.Population, d.Inventory = 0, nil },
		"windows[0].days[0]":          func(d *Deployment) { d.Windows[0].Days[0] = "Monday" },
		"windows[0].start":            func(d *Deployment) { d.Windows[0].Start = "9:30" },
		"windows[0].zone":             func(d *Deployment) { d.Windows[0].Zone = "Mars/Base" },
		"windows[0].length":           func(d *Deployment) { d.Windows[0].Length = 0 },
		"freeze[0].until":             func(d *Deployment) { d.Freeze[0].Until = d.Freeze[0].From },
		"halt.on_halt":                func(d *Deployment) { d.Halt.OnHalt = "panic" },
		"coordinator.urls":            func(d *Deployment) { d.Coordinator.Kind = "none" },
		"on_coordinator_loss":         func(d *Deployment) { d.OnCoordinatorLoss = "go" },
	} {
		d := testDeployment()
		breakIt(d)
		if err := d.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestEmergencyAndInventoryRules(t *testing.T) {
	for want, breakIt := range map[string]func(e *Emergency){
		"entries[0].digest": func(e *Emergency) { e.Entries[0].Digest = nil },
		"entries[1].until":  func(e *Emergency) { e.Entries[1].Until = nil },
		"entries[2].app":    func(e *Emergency) { e.Entries[2].App = nil },
		"entries[3].kind":   func(e *Emergency) { e.Entries[3].Kind = "start" },
		"entries[3].reason": func(e *Emergency) { e.Entries[3].Reason = "" },
		"epoch":             func(e *Emergency) { e.Epoch = 0 },
	} {
		e := testEmergency()
		breakIt(e)
		if err := e.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	i := testInventory()
	i.Hosts[1].ID = "h1"
	if err := i.Validate(); err == nil || !strings.Contains(err.Error(), `hosts[1].id: "h1" appears twice`) {
		t.Error(err)
	}
}

func TestManifestRules(t *testing.T) {
	sum := Sum(nil)
	dir := Entry{Path: "d", Type: TypeDir, Mode: ModeDir}
	file := func(path string) Entry { return Entry{Path: path, Type: TypeFile, Mode: ModeFile, SHA256: &sum} }
	link := func(path, target string) Entry { return Entry{Path: path, Type: TypeSymlink, Target: target} }
	for _, c := range []struct {
		entries []Entry
		want    string
	}{
		{[]Entry{dir, file("d/f"), link("d/l", "../e/f"), link("e", "d/f")}, ""},
		{nil, "entries: 0 is below 1"},
		{[]Entry{file("/etc/passwd")}, "absolute"},
		{[]Entry{file("../x")}, `component ".."`},
		{[]Entry{file("d/f")}, "not listed as a directory"},
		{[]Entry{link("d", "e"), file("d/f")}, "not listed as a directory"},
		{[]Entry{file("b"), file("a")}, "not in byte order"},
		{[]Entry{file("a"), file("a")}, "appears twice"},
		{[]Entry{link("l", "/etc/passwd")}, "absolute path"},
		{[]Entry{link("l", "../x")}, "leads out"},
		{[]Entry{dir, link("d/l", "../../x")}, "leads out"},
		{[]Entry{dir, link("d/l", "a/../../../x")}, "leads out"},
		{[]Entry{link("l", "")}, "no target"},
		{[]Entry{{Path: "f", Type: TypeFile, Mode: "4555", SHA256: &sum}}, "only 0444 and 0555"},
		{[]Entry{{Path: "f", Type: TypeFile, Mode: ModeFile}}, "no sha256"},
		{[]Entry{{Path: "f", Type: "device", Mode: ModeFile}}, "none of file, dir, symlink"},
		{[]Entry{{Path: "f", Type: TypeFile, Mode: ModeFile, SHA256: &sum, Size: -1}}, "size -1"},
		{[]Entry{{Path: "f", Type: TypeFile, Mode: ModeFile, SHA256: &sum, Size: 1 << 62}}, "above"},
	} {
		m := &Manifest{Schema: ManifestSchema, App: testApp, Version: testVersion, Platform: testAMD64, Entries: c.entries}
		if err := m.Validate(); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("want %q, got %v", c.want, err)
		}
	}
}

func fuzzParse[D Document](f *testing.F, doc D, read func([]byte) (D, error)) {
	f.Add(must(Encode(doc)))
	f.Add([]byte(`{"schema":"\u0073"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := read(data)
		if err != nil {
			return
		}
		again := reflect.New(reflect.TypeOf(doc).Elem()).Interface()
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.DisallowUnknownFields()
		if err := dec.Decode(again); err != nil {
			t.Fatalf("encoding/json refuses what we accept: %v", err)
		}
		if fmt.Sprintf("%+v", again) != fmt.Sprintf("%+v", got) && string(must(json.Marshal(again))) != string(must(json.Marshal(got))) {
			t.Fatalf("encoding/json reads\n%+v, we read\n%+v", again, got)
		}
	})
}

func FuzzParseRelease(f *testing.F)    { fuzzParse(f, testRelease(), ParseRelease) }
func FuzzParseDeployment(f *testing.F) { fuzzParse(f, testDeployment(), ParseDeployment) }
func FuzzParseEmergency(f *testing.F)  { fuzzParse(f, testEmergency(), ParseEmergency) }
func FuzzParseInventory(f *testing.F)  { fuzzParse(f, testInventory(), ParseInventory) }
func FuzzParseEvidence(f *testing.F) {
	f.Add(must(EncodeEvidence(&Evidence{Host: "web1", Environment: must(ParseEnvironment("staging")), App: must(ParseApp("billing")),
		Release: "1.0.0-0123456789ab", Sequence: 1, Attempt: "a1", Committed: time.Unix(1, 0).UTC(), Observed: time.Unix(2, 0).UTC()})))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := ParseEvidence(data)
		if err != nil {
			return
		}
		again, err := EncodeEvidence(e)
		if err != nil {
			t.Fatalf("accepted and not encoded: %v", err)
		}
		if back := must(ParseEvidence(again)); *back != *e {
			t.Errorf("%+v became %+v", e, back)
		}
	})
}

func FuzzParseManifest(f *testing.F) { fuzzParse(f, manyEntries(f, 5), ParseManifest) }
