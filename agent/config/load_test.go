package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"
)

const smallest = "environment = \"production\"\n[[repository.mirrors]]\nurl = \"https://tuf.example.com/\"\n"

// write makes a configuration directory from name and content pairs.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func load(t *testing.T, files map[string]string) *Host {
	t.Helper()
	h, err := Load(write(t, files))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// problems loads and returns the problems with the directory cut off.
func problems(t *testing.T, files map[string]string) []string {
	t.Helper()
	dir := write(t, files)
	h, err := Load(dir)
	var p Problems
	if !errors.As(err, &p) || h != nil {
		t.Fatalf("Load = %v, %v; want only problems", h, err)
	}
	var out []string
	for _, one := range p {
		out = append(out, strings.ReplaceAll(one.String(), dir+"/", ""))
	}
	return out
}

func TestTheSmallestConfigurationHasAllDefaults(t *testing.T) {
	h := load(t, map[string]string{"slipway.toml": smallest})
	if h.Environment != "production" || h.HostID != "" || h.Supervisor != SupervisorSystemd {
		t.Errorf("got %+v", h)
	}
	want := []Mirror{{Metadata: "https://tuf.example.com/metadata", Targets: "https://tuf.example.com/targets"}}
	if !reflect.DeepEqual(h.Repository.Mirrors, want) {
		t.Errorf("mirrors = %+v, want %+v", h.Repository.Mirrors, want)
	}
	if h.Poll.Interval != 5*time.Minute || h.Space.Reserve != 256<<20 || h.Retention.Keep != 3 {
		t.Errorf("defaults are wrong: %+v", h)
	}
	if len(h.Unsafe()) != 0 {
		t.Errorf("unsafe = %v, want none", h.Unsafe())
	}
}

func TestACopyOfAConfigurationLooksForThePinnedRootWhereTheOriginalDoes(t *testing.T) {
	dir := write(t, map[string]string{"slipway.toml": smallest})
	h, err := LoadCopy(dir, "/etc/slipway")
	if err != nil || h.Repository.Root != "/etc/slipway/root.json" {
		t.Errorf("LoadCopy: root %v, error %v", h, err)
	}
}

func TestEveryProblemIsReportedAtOnceWithItsPlace(t *testing.T) {
	got := problems(t, map[string]string{
		"slipway.toml": `environment = "Production"
enviroment = "x"
[poll]
interval = "5 minutes"
jitter = 2
[space]
reserve = 12
[paths]
install = "/tmp"
state = "relative"
[[repository.mirrors]]
url = "ftp://x"
[[repository.mirrors]]
url = "https://user:pw@x/"
metadata = "https://y"
[roles.operator]
groups = ["ok", "not ok"]
[unsafe]
everything = true
`,
		"slipway.d/10.toml": "[retention]\nkeep = -1\n",
		"apps.d/Bad_.toml":  "",
		"apps.d/web.toml":   "[env]\nNOTIFY_SOCKET = \"x\"\n\"A B\" = \"x\"\n[checks.http]\nurl = \"http://10.0.0.1/\"\nport = 1\n[credentials]\nkey = \"etc/key\"\n",
		"apps.d/db.toml":    "allow_root = \"yes\"\n= 3\n",
	})
	want := []string{
		"apps.d/Bad_.toml: the file's name: \"Bad_\" is no app name",
		"apps.d/db.toml:2:1: ",
		"apps.d/web.toml:2:1: env.NOTIFY_SOCKET: NOTIFY_SOCKET is set by systemd",
		"apps.d/web.toml:3:1: env.\"A B\": \"A B\" is no name of a variable",
		"apps.d/web.toml:4:9: checks.http: needs exactly one of url, address and port",
		"apps.d/web.toml:5:1: checks.http.url: \"10.0.0.1\" is not this machine",
		"apps.d/web.toml:8:1: credentials.key: \"etc/key\" must be an absolute path",
		"slipway.d/10.toml:2:1: retention.keep: -1 is not between 0 and 1000",
		"slipway.toml:1:1: environment: \"Production\" is no environment name",
		"slipway.toml:2:1: enviroment: there is no such option; did you mean environment?",
		"slipway.toml:4:1: poll.interval: \"5 minutes\" is no duration",
		"slipway.toml:5:1: poll.jitter: 2 is not between 0 and 1",
		"slipway.toml:7:1: space.reserve: must be a string in quotes, not the number 12",
		"slipway.toml:9:1: paths.install: must not be /tmp",
		"slipway.toml:10:1: paths.state: \"relative\" must be an absolute path",
		"slipway.toml:12:1: repository.mirrors[0].url: \"ftp://x\" must be a URL",
		"slipway.toml:13:14: repository.mirrors[1]: url already says",
		"slipway.toml:14:1: repository.mirrors[1].url: must not hold a password",
		"slipway.toml:17:17: roles.operator.groups[1]: \"not ok\" is no name or number",
		"slipway.toml:18:2: unsafe: there is no such option",
	}
	if len(got) != len(want) {
		t.Errorf("%d problems, want %d", len(got), len(want))
	}
	for i := range min(len(got), len(want)) {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("problem %d\n got %s\nwant %s…", i, got[i], want[i])
		}
	}
}

func TestMissingThingsAreNamed(t *testing.T) {
	got := strings.Join(problems(t, map[string]string{"slipway.toml": ""}), "\n")
	for _, want := range []string{"slipway.toml: environment: is required", "slipway.toml: repository.mirrors: is required"} {
		if !strings.Contains(got, want) {
			t.Errorf("got %s\nwant %s", got, want)
		}
	}
	if got := problems(t, nil); !strings.Contains(got[0], "run slipway init") {
		t.Errorf("got %v", got)
	}
}

func TestASyntaxErrorHidesNothingInOtherFiles(t *testing.T) {
	got := problems(t, map[string]string{"slipway.toml": "environment = \n", "apps.d/web.toml": "x = 1\n"})
	if len(got) != 2 || !strings.HasPrefix(got[1], "slipway.toml:1:") || !strings.HasPrefix(got[0], "apps.d/web.toml:1:1: x: there is no such option") {
		t.Errorf("got %q", got)
	}
}

func TestDropInsChangeSingleKeysInOrder(t *testing.T) {
	h := load(t, map[string]string{
		"slipway.toml":           smallest + "[labels]\nsite = \"a\"\nrack = \"1\"\n[poll]\ninterval = \"1m\"\njitter = 0.5\n",
		"slipway.d/10-a.toml":    "[labels]\nsite = \"b\"\n[poll]\ninterval = \"2m\"\n",
		"slipway.d/20-b.toml":    "poll.interval = \"3m\"\n[[repository.mirrors]]\nmetadata = \"file:///srv/m\"\ntargets = \"http://b/t\"\n",
		"slipway.d/ignored.conf": "nonsense",
		"slipway.d/.hidden.toml": "nonsense",
	})
	if h.Poll.Interval != 3*time.Minute || h.Poll.Jitter != 0.5 {
		t.Errorf("poll = %+v", h.Poll)
	}
	if !reflect.DeepEqual(h.Labels, map[string]string{"site": "b", "rack": "1"}) {
		t.Errorf("labels = %v", h.Labels)
	}
	if want := []Mirror{{Metadata: "file:///srv/m", Targets: "http://b/t"}}; !reflect.DeepEqual(h.Repository.Mirrors, want) {
		t.Errorf("mirrors = %v, want %v: a list is replaced whole", h.Repository.Mirrors, want)
	}
}

func TestAppsAndUnsafeOptions(t *testing.T) {
	h := load(t, map[string]string{
		"slipway.toml":    smallest + "[clock]\nunsafe_unsynchronised = true\n",
		"apps.d/web.toml": "enabled = false\nallow_root = true\nunsafe_remote_checks = true\n[env]\nA = \"1\"\n[credentials]\nkey = \"/etc/web/key\"\n[checks.http]\nurl = \"http://10.0.0.1/\"\n[checks.grpc]\nport = 9000\n",
		"apps.d/db.toml":  "",
	})
	want := map[string]App{
		"db": {Enabled: true, Env: nil, Checks: map[string]CheckOverride{}},
		"web": {AllowRoot: true, UnsafeRemoteChecks: true, Env: map[string]string{"A": "1"}, Credentials: map[string]string{"key": "/etc/web/key"},
			Checks: map[string]CheckOverride{"http": {URL: "http://10.0.0.1/"}, "grpc": {Port: 9000}}},
	}
	for name, w := range want {
		got := h.Apps[name]
		if len(got.Env) == 0 {
			got.Env = nil
		}
		if len(got.Credentials) == 0 {
			got.Credentials = nil
		}
		if !reflect.DeepEqual(got, w) {
			t.Errorf("%s = %+v, want %+v", name, got, w)
		}
	}
	if len(h.Unsafe()) != 3 || !strings.Contains(h.Unsafe()[1], "web.toml:2: allow_root = true weakens safety") {
		t.Errorf("unsafe = %q", h.Unsafe())
	}
}

func TestFilesThatOthersMayWriteAreRefused(t *testing.T) {
	dir := write(t, map[string]string{"slipway.toml": smallest})
	if err := os.Chmod(filepath.Join(dir, "slipway.toml"), 0o664); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "can be written by others") {
		t.Errorf("err = %v", err)
	}
	if os.Geteuid() != 0 {
		return
	}
	if err := os.Chown(filepath.Join(dir, "slipway.toml"), 12345, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "slipway.toml"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "belongs to uid 12345") {
		t.Errorf("err = %v", err)
	}
}

func TestDirectoriesInsideOneAnotherAreRefused(t *testing.T) {
	got := problems(t, map[string]string{"slipway.toml": smallest + "[paths]\nstate = \"/opt/slipway/state\"\n"})
	if len(got) != 1 || !strings.Contains(got[0], "must not lie inside one another") || !strings.HasPrefix(got[0], "slipway.toml:4:") {
		t.Errorf("got %q", got)
	}
}

func TestWhatIsPrintedReadsBackAsTheSame(t *testing.T) {
	h := load(t, map[string]string{
		"slipway.toml":    smallest + "[labels]\n\"a.b\" = \"quote \\\" back \\\\ ü\"\n[roles.admin]\nusers = [\"ann\", \"1000\"]\n[metrics]\nlisten = \"[::1]:9464\"\n[clock]\nmax_step = \"36h\"\n",
		"apps.d/web.toml": "[env]\nA = \"x y\"\n",
	})
	var b strings.Builder
	if err := Print(&b, h); err != nil {
		t.Fatal(err)
	}
	text, apps, _ := strings.Cut(b.String(), "\n[apps.")
	again := load(t, map[string]string{"slipway.toml": text, "apps.d/web.toml": "[env]\nA = \"x y\"\n"})
	again.Files = h.Files
	var b2 strings.Builder
	if err := Print(&b2, again); err != nil || b2.String() != b.String() {
		t.Errorf("printed\n%s\nand read back\n%s", b.String(), b2.String())
	}
	var any map[string]any
	if err := toml.Unmarshal([]byte("[apps."+apps), &any); err != nil {
		t.Errorf("the apps are no TOML: %v", err)
	}
}

func TestTheShippedSamplesAreValidAndShowTheDefaults(t *testing.T) {
	host, err := os.ReadFile("../../packaging/slipway.toml")
	if err != nil {
		t.Fatal(err)
	}
	app, err := os.ReadFile("../../packaging/apps.d/example.toml.sample")
	if err != nil {
		t.Fatal(err)
	}
	dir := write(t, map[string]string{"slipway.toml": string(host), "apps.d/example.toml": string(app)})
	plain, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	d := defaults()
	if !reflect.DeepEqual(plain.Poll, d.Poll) || !reflect.DeepEqual(plain.Paths, d.Paths) || plain.Space != d.Space || plain.Retention != d.Retention {
		t.Errorf("the sample changes defaults: %+v", plain)
	}
	// The defaults that stand in comments must be the real ones.
	var shown []string
	for line := range strings.SplitSeq(string(host), "\n") {
		switch key, _, _ := strings.Cut(line, " = "); key {
		case "#interval", "#jitter", "#reserve", "#keep", "#min_age", "#install", "#state", "#run", "#units", "#level", "#supervisor":
			line = line[1:]
		}
		shown = append(shown, line)
	}
	spelt := load(t, map[string]string{"slipway.toml": strings.Join(shown, "\n")})
	if !reflect.DeepEqual(spelt.Poll, d.Poll) || !reflect.DeepEqual(spelt.Paths, d.Paths) || spelt.Space != d.Space || spelt.Retention != d.Retention || spelt.Log != d.Log {
		t.Errorf("the sample's comments show other defaults: %+v", spelt)
	}
}

func TestDurationsAndSizes(t *testing.T) {
	for text, want := range map[string]int64{"0B": 0, "1KiB": 1024, "256MiB": 256 << 20, "2 GiB": 2 << 30, "500MB": 5e8, "3kB": 3000} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "12", "-1MiB", "1.5GiB", "99999999999TiB", "MiB"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("parseSize(%q) = %d, want an error", text, got)
		}
	}
	for text, want := range map[string]string{"90s": "1m30s", "5m": "5m", "24h": "24h", "7d": "168h", "0s": "0s", "1h0m5s": "1h0m5s"} {
		got, err := parseDuration(text)
		if err != nil || formatDuration(got) != want {
			t.Errorf("parseDuration(%q) = %s, %v; want %s", text, formatDuration(got), err, want)
		}
	}
}

func FuzzLoadNeverPanicsAndPlacesEveryProblem(f *testing.F) {
	f.Add(smallest)
	f.Add("a.b.c = [{x=1}, {y=[1,2]}]\n[[a.d]]\n[a.d.e]\nf=1\n[[a.d]]\n")
	f.Add("[[repository.mirrors]]\n[repository.mirrors.x]\n")
	f.Add("environment = \"a\"\nenvironment = \"b\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		n, p := parse("f.toml", []byte(text))
		if p != nil {
			return
		}
		var found Problems
		h := defaults()
		readHost(root(n, &found), h, true)
		a := App{}
		readApp(root(n, &found), &a, &h.unsafe)
		lines := strings.Count(text, "\n") + 1
		for _, one := range found {
			if one.Line < 0 || one.Line > lines || one.Line > 0 && one.Col < 1 {
				t.Errorf("%v lies outside of %d lines", one, lines)
			}
			if one.Line == 0 && !strings.Contains(one.Message, "required") && one.Key != "paths" {
				t.Errorf("%v has no place", one)
			}
		}
		if len(found) == 0 {
			var b strings.Builder
			_ = Print(&b, h)
			var again map[string]any
			if err := toml.Unmarshal([]byte(b.String()), &again); err != nil {
				t.Errorf("printed no TOML: %v\n%s", err, b.String())
			}
		}
	})
}
