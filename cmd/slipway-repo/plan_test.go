package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// fleet is a repository with two releases of billing and an inventory of twelve hosts, and nothing deployed.
func (s *shell) fleet() {
	s.published()
	s.expect(0, "key gen fleet --unencrypted")
	s.expect(0, "key gen oncall --unencrypted")
	s.expect(0, "env set production --emergency-key oncall.pub --inventory-key fleet.pub --reason fleet --sign alice --sign bob")
	s.tree()
	for _, v := range []string{"1.0.0", "1.1.0"} {
		s.expect(0, "release pack build --app billing --version "+v)
		s.expect(0, "release publish billing "+v+" --sign ci")
		s.expect(0, "publish")
	}
	var hosts strings.Builder
	for _, h := range []string{"a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9", "b1", "b2", "b3"} {
		hosts.WriteString(h + " site=" + h[:1] + "\n")
	}
	s.write("hosts.txt", hosts.String())
	s.expect(0, "inventory set production hosts.txt --sign fleet")
	s.expect(0, "publish")
}

// head is what every deployment.toml of these tests begins with: seven lines.
const head = `environment = "production"
app = "billing"
release = "1.1.0"
population = 10000
not_before = "2031-01-06T00:00:00Z"
freshness = "30m"

`

// waves are two sound ones, on lines 8 to 13.
const waves = `[[waves]]
name = "canary"
percent_bp = 500
[[waves]]
name = "rest"
percent_bp = 10000
`

func TestPlansThatCannotWorkAreRefusedBeforeAnybodySignsWithTheLineAndTheReason(t *testing.T) {
	s := newShell(t)
	s.fleet()
	for name, c := range map[string]struct{ toml, want string }{
		"percent not increasing": {"[[waves]]\nname = \"a\"\npercent_bp = 500\n[[waves]]\nname = \"b\"\npercent_bp = 500\n", "13: waves[1].percent_bp: 500 is not above 500"},
		"percent of nothing":     {"[[waves]]\nname = \"a\"\npercent_bp = 0\n", "8: waves[0]: 0 of percent_bp, count, labels and hosts are set"},
		"two selectors":          {"[[waves]]\nname = \"a\"\npercent_bp = 5\nhosts = [\"x\"]\n", "8: waves[0]: 2 of percent_bp"},
		"floors that go back":    {"[[waves]]\nname = \"a\"\npercent_bp = 5\nstart_after = \"2h\"\n[[waves]]\nname = \"b\"\npercent_bp = 10000\nstart_after = \"1h\"\n", "15: waves[1].start_after: 1h is before 2h"},
		"one name twice":         {"[[waves]]\nname = \"a\"\npercent_bp = 5\n[[waves]]\nname = \"a\"\npercent_bp = 10000\n", "12: waves[1].name: \"a\" appears twice"},
		"max_wave unknown":       {"max_wave = \"late\"\n" + waves, "8: max_wave: \"late\" is the name of no wave"},
		"advance unknown":        {waves + "advance = \"later\"\n", "14: waves[1].advance: \"later\" is none of auto, signed, none"},
		"count, no inventory":    {"[[waves]]\nname = \"a\"\ncount = 5\n", "10: waves[0].count: a count needs an inventory"},
		"inventory of others":    {"inventory.sha256 = \"" + strings.Repeat("1", 64) + "\"\n" + waves, "8: inventory.sha256: nobody could start: the deployment pins inventory 111111111111, the published one is"},
		"empty ranked wave":      {"inventory = \"published\"\n[[waves]]\nname = \"a\"\ncount = 12\n[[waves]]\nname = \"b\"\npercent_bp = 10000\n", "12: waves[1]: wave b is empty"},
		"empty label wave":       {"inventory = \"published\"\n[[waves]]\nname = \"c\"\n[waves.labels]\nsite = \"c\"\n", "9: waves[0]: wave c is empty: no host of the inventory"},
		"wave behind all":        {waves + "[[waves]]\nname = \"late\"\nhosts = [\"web-1\"]\n", "14: waves[2]: wave late is empty: wave rest before it takes all its hosts"},
		"more than it has":       {"[[waves]]\nname = \"a\"\nhosts = [\"x\", \"y\"]\nmin_hosts = 3\n", "11: waves[0].min_hosts: wave a could never pass: it asks for 3 hosts and has 2"},
		"a host that is no host": {"[[waves]]\nname = \"a\"\nhosts = [\n\"x\",\n\"y z\",\n]\n", "12: waves[0].hosts[1]: \"y z\" is no host id"},
		"window never open":      {"expires = \"2031-01-07T00:00:00Z\"\n" + waves + "[[windows]]\ndays = [\"sat\"]\nstart = \"10:00\"\nlength = \"2h\"\n", "9: waves[0]: wave canary never opens"},
		"window of no length":    {waves + "[[windows]]\ndays = [\"sat\"]\nstart = \"10:00\"\nlength = \"0s\"\n", "17: windows[0].length: it must be longer than zero"},
		"zone unknown":           {waves + "[[windows]]\ndays = [\"sat\"]\nstart = \"10:00\"\nlength = \"1h\"\nzone = \"Europe/Atlantis\"\n", "18: windows[0].zone: \"Europe/Atlantis\" is no zone"},
		"day unknown":            {waves + "[[windows]]\ndays = [\n  \"mon\",\n  \"caturday\",\n]\nstart = \"10:00\"\nlength = \"1h\"\n", "17: windows[0].days[1]: \"caturday\" is none of"},
		"no time of day":         {waves + "[[windows]]\ndays = [\"mon\"]\nstart = \"25:00\"\nlength = \"1h\"\n", "16: windows[0].start: \"25:00\" is no time of day"},
		"frozen until the end":   {"expires = \"2031-01-07T00:00:00Z\"\n" + waves + "[[freeze]]\nfrom = \"2031-01-01T00:00:00Z\"\nuntil = \"2031-02-01T00:00:00Z\"\n", "9: waves[0]: wave canary never opens"},
		"frozen, no waves":       {"expires = \"2031-01-07T00:00:00Z\"\n[[freeze]]\nfrom = \"2031-01-01T00:00:00Z\"\nuntil = \"2031-02-01T00:00:00Z\"\n", "8: expires: no host could ever start"},
		"freeze backwards":       {"[[freeze]]\nfrom = \"2031-02-01T00:00:00Z\"\nuntil = \"2031-01-01T00:00:00Z\"\n", "10: freeze[0].until: it is not after from"},
		"floor after the end":    {"expires = \"2031-01-07T00:00:00Z\"\n" + waves + "start_after = \"48h\"\n", "12: waves[1]: wave rest never opens"},
		"ends before it starts":  {"expires = \"2031-01-05T00:00:00Z\"\n", "8: expires: it is not after not_before"},
		"budget of nothing":      {waves + "[budget]\ncount = 0\n", "14: budget: exactly one of count and percent_bp must be set, and above zero"},
		"budget twice":           {waves + "[budget]\ncount = 1\npercent_bp = 5\n", "14: budget: exactly one"},
		"budget all must stay":   {waves + "[budget]\ncount = 5\nmin_available = 10000\n", "16: budget.min_available: no host may ever be unavailable"},
		"a site all must stay":   {"inventory = \"published\"\n[budget]\ncount = 5\ngroup_by = [\"site\"]\nmin_available = 3\n", "12: budget.min_available: no host of site \"b\""},
		"hub without budget":     {waves + "[coordinator]\nkind = \"hub\"\n", "14: coordinator: a hub needs a [budget]"},
		"lock without server":    {waves + "[coordinator]\nkind = \"fleetlock\"\n", "14: coordinator.urls: kind fleetlock needs one"},
		"coordinator unknown":    {waves + "[coordinator]\nkind = \"zookeeper\"\n", "15: coordinator.kind: \"zookeeper\" is none of"},
		"loss of nobody":         {"on_coordinator_loss = \"signed-schedule\"\n" + waves, "8: on_coordinator_loss: no coordinator is named"},
		"halt without limit":     {waves + "[halt]\non_halt = \"stop\"\n", "14: halt: it names no limit"},
		"share without sample":   {waves + "[halt]\nmax_failure_bp = 200\n", "15: halt.max_failure_bp: a share needs min_sample"},
		"sample above fleet":     {waves + "[halt]\nmax_failure_bp = 200\nmin_sample = 20000\n", "16: halt.min_sample: the share would never be judged"},
		"revert to nothing":      {waves + "[halt]\nmax_failures = 2\non_halt = \"revert\"\n", "16: halt.on_halt: revert needs a signed fallback"},
		"fallback is itself":     {"fallback = \"1.1.0\"\n" + waves, "8: fallback: it is the release itself"},
		"trial that must fail":   {"[health]\nmin_healthy_time = \"10m\"\nhealthy_deadline = \"5m\"\n", "9: health.min_healthy_time: 10m is not shorter than"},
		"an unknown key":         {waves + "spred = \"1h\"\n", "14: waves[1].spred: the field is unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			s.t = t
			s.write("deployment.toml", head+c.toml)
			for _, command := range []string{"plan", "new --sign ann"} {
				s.expect(1, "deploy "+command+" --file deployment.toml", "deployment.toml:"+c.want)
			}
			if open, err := os.ReadDir("repo/changes"); err != nil || len(open) != 1 {
				t.Errorf("a refused deployment left something: %v %v", open, err)
			}
		})
	}
}

func TestAProblemThatAFlagBringsIsNotBlamedOnALineOfTheFile(t *testing.T) {
	s := newShell(t)
	s.fleet()
	s.write("deployment.toml", head+"expires = \"2032-01-01T00:00:00Z\"\n"+waves)
	s.expect(1, "deploy plan --file deployment.toml --expires 2031-01-05T00:00:00Z", "deployment.toml: expires: it is not after not_before")
	s.expect(0, "deploy plan --file deployment.toml")
}

func TestAPlanShowsWhoWouldGoWhen(t *testing.T) {
	s := newShell(t)
	s.fleet()
	s.write("deployment.toml", head+"salt = \"s\"\n"+waves+"start_after = \"4h\"\nspread = \"12h\"\nadvance = \"signed\"\n")
	s.expect(0, "deploy plan --file deployment.toml --host web-1",
		"10000 hosts as given", "canary  up to 5 %    ~500", "rest    up to 100 %  ~9500  0.0 %   +4h    2031-01-06 04:00 UTC  2031-01-06 15:59 UTC  signed max_wave", "web-1  rest")
	s.expect(0, "deploy plan --file deployment.toml --population 20", "warning: in a fleet of 20 wave canary has no host at all with a chance of 36 %")
	s.expect(2, "deploy plan --env production", "name a deployment")
	s.expect(1, "deploy plan --env production --app billing", "no deployment of billing is in force")

	s.write("ranked.toml", head+"inventory = \"published\"\n[[waves]]\nname = \"canary\"\ncount = 2\n[[waves]]\nname = \"rest\"\npercent_bp = 10000\nstart_after = \"1h\"\n[budget]\ncount = 2\ngroup_by = [\"site\"]\n")
	s.expect(0, "deploy plan --file ranked.toml --hosts", "12 hosts by the pinned inventory", "canary  2 hosts      2      0.0 %", "b3")
	s.expect(0, "deploy new --file ranked.toml --sign ann --sign ben", "nothing → 1.1.0, waves canary 2 hosts, rest 100 % after 1h")
	id := strings.Fields(s.out)[0]
	s.expect(0, "deploy plan --change "+id+" --hosts --json")
	made := s.out
	s.expect(0, "publish")
	s.expect(0, "deploy plan --env production --app billing --hosts --json")
	if s.out != made {
		t.Errorf("the plan of the change was\n%sand in force is\n%s", made, s.out)
	}
	var a outlook
	if err := json.Unmarshal([]byte(s.out), &a); err != nil || len(a.Starts) != 12 || a.Starts[0].Wave != "canary" || a.Draft || !a.Exact {
		t.Errorf("%v: %+v", err, a)
	}
	s.expect(0, "emergency halt production --reason drill --sign oncall")
	s.expect(0, "deploy plan --env production --app billing", "in force now: emergency halt")
	s.expect(2, "deploy plan --env production --app billing --population -1")
}

func TestWhoMakesADeploymentIsToldThePlansWarnings(t *testing.T) {
	s := newShell(t)
	s.fleet()
	s.write("deployment.toml", strings.Replace(head, "10000", "20", 1)+waves)
	s.expect(0, "deploy new --file deployment.toml", "warning: in a fleet of 20 wave canary has no host at all with a chance of 36 %")
	id := strings.Fields(s.out)[0]
	s.expect(0, "deploy plan --change "+id, "warning: in a fleet of 20")
	s.expect(0, "change sign "+id+" --key ann", "warning: in a fleet of 20", "Sign this?")
	s.expect(0, "change sign "+id+" --key ben")
	s.expect(0, "publish")
	// A renewal brings no deployment, so it is not judged: what was signed stays alive, whatever became of it.
	s.expect(0, "role renew deploy.production.billing --sign ann")
	if strings.Contains(s.err, "empty") {
		t.Errorf("a renewal is warned about the deployment: %s", s.err)
	}
}

func TestASimulationSaysWhatARolloutCostsBeforeItIsSigned(t *testing.T) {
	s := newShell(t)
	s.fleet()
	s.write("deployment.toml", head+waves+"start_after = \"4h\"\nspread = \"12h\"\n[halt]\nmax_failures = 3\n")
	line := "deploy plan --file deployment.toml --simulate --population 2000 --runs 5 --seed 7 --failure-rate "
	s.expect(0, line+"0%", "seeds 7 to 11", "hosts touched", "2000", "no run was halted", "no budget is kept")
	s.expect(0, line+"50%", "a person, 15m after the failure that reaches the signed limits", "halted in 5 of 5 runs")
	s.expect(0, line+"50% --json")
	var a, b outlook
	if err := json.Unmarshal([]byte(s.out), &a); err != nil || a.Simulation == nil || a.Simulation.Halted != 5 || a.Simulation.Started.Most >= 2000 {
		t.Fatalf("%v: %s", err, s.out)
	}
	s.expect(0, line+"50% --json")
	if err := json.Unmarshal([]byte(s.out), &b); err != nil || a.Simulation.Failed != b.Simulation.Failed {
		t.Errorf("the same seeds give %+v and %+v", a.Simulation, b.Simulation)
	}
	for _, bad := range []string{"120%", "half", "NaN", "-1"} {
		s.expect(2, line+bad, "--failure-rate")
	}
	s.write("hub.toml", head+waves+"advance = \"auto\"\n[halt]\nmax_failures = 3\n[budget]\npercent_bp = 100\n[coordinator]\nkind = \"hub\"\n")
	s.expect(0, "deploy plan --file hub.toml --simulate --runs 3 --failure-rate 1", "the hub, by the signed limits", "budget 100", "halted in 3 of 3")
}

func TestAnAmendmentOpensAWaveAndPausesWithoutANewOrderOfHosts(t *testing.T) {
	s := newShell(t)
	s.fleet()
	s.expect(3, "deploy amend production billing --state paused --reason drill", "no deployment of billing is in force in production")
	s.write("deployment.toml", head+waves+"advance = \"signed\"\nstart_after = \"4h\"\nspread = \"12h\"\n")
	s.expect(0, "deploy new --file deployment.toml --sign ann --sign ben")
	s.expect(0, "publish")
	starts := func() string {
		s.t.Helper()
		s.expect(0, "deploy plan --env production --app billing --host web-1 --host web-2 --host web-3 --json")
		var a outlook
		if err := json.Unmarshal([]byte(s.out), &a); err != nil {
			t.Fatal(err)
		}
		data, err := json.Marshal(a.Starts)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	before := starts()
	s.expect(2, "deploy amend production billing --reason nothing", "at least one of the flags")
	s.expect(1, "deploy amend production billing --max-wave late --reason go --sign ann", "production/billing: max_wave: \"late\" is the name of no wave")
	s.expect(0, "deploy amend production billing --max-wave rest --reason well --sign ann --sign ben", "amend sequence 1: max_wave none → rest")
	s.expect(0, "publish")
	if after := starts(); after != before || strings.Contains(s.out, `"needs_signature": true`) {
		t.Errorf("before the amendment:\n%s\nafter it:\n%s", before, after)
	}
	s.expect(3, "deploy amend production billing --max-wave rest --reason well --sign ann", "it is so already")
	s.expect(0, "deploy amend production billing --state paused --reason doubt --sign ann --sign ben", "state active → paused")
	s.expect(0, "publish")
	s.expect(0, "deploy plan --env production --app billing", "sequence 3, paused")
	s.expect(1, "deploy amend production billing --state revert --reason bad --sign ann", "fallback: state revert needs it")
}
