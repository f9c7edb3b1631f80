package units_test

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/coreos/go-systemd/v22/unit"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/agent/units"
)

var (
	billing = mustParse(release.ParseApp, "billing")
	shop    = mustParse(release.ParseApp, "shop")
	v1      = release.NewID(mustParse(release.ParseVersion, "1.0.0"), release.Sum([]byte("1")))
	v2      = release.NewID(mustParse(release.ParseVersion, "2.0.0"), release.Sum([]byte("2")))
)

func mustParse[T any](parse func(string) (T, error), s string) T {
	v, err := parse(s)
	if err != nil {
		panic(err)
	}
	return v
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const (
	service = "[Unit]\nDescription=Billing\n[Service]\nUser=billing\nExecStart=@current@/bin/billing --app @app@\n[Install]\nWantedBy=multi-user.target\n"
	socket  = "[Socket]\nListenStream=8080\n[Install]\nWantedBy=sockets.target\n"
	worker  = "[Service]\nUser=billing\nExecStart=@current@/bin/worker %i\n"
)

// render renders a release that ships files, name to text.
func render(t *testing.T, id release.ID, o units.Options, files map[string]string) (*units.Set, error) {
	t.Helper()
	tree := t.TempDir()
	rel := &release.Release{App: billing, Version: id.Version()}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		must(t, os.WriteFile(filepath.Join(tree, name), []byte(files[name]), 0o644))
		rel.Units = append(rel.Units, release.UnitFile{Name: mustParse(release.ParseUnitName, name), Path: name})
	}
	if o.AppRoot == "" {
		o.AppRoot = "/opt/slipway/billing"
	}
	return units.Render(rel, id, tree, o)
}

func rendered(t *testing.T, id release.ID, files map[string]string) *units.Set {
	t.Helper()
	set, err := render(t, id, units.Options{}, files)
	must(t, err)
	return set
}

var (
	first  = map[string]string{"billing.service": service, "billing.socket": socket, "billing-worker@.service": worker}
	second = map[string]string{"billing.service": service}
)

func newDir(t *testing.T) units.Dir {
	t.Helper()
	return units.Dir{Path: t.TempDir()}
}

// content is every file and link below dir.
func content(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		if e.Type() == fs.ModeSymlink {
			to, err := os.Readlink(path)
			out[name] = "-> " + to
			return err
		}
		data, err := os.ReadFile(path)
		out[name] = string(data)
		return err
	}))
	return out
}

func apply(t *testing.T, d units.Dir, set *units.Set, trial, wantChange bool) {
	t.Helper()
	if changed, err := d.Apply(set, trial); err != nil || changed != wantChange {
		t.Fatalf("changed %v, error %v", changed, err)
	}
}

func TestRenderingSortsUnitsIntoStartedIdleAndLinked(t *testing.T) {
	set := rendered(t, v1, first)
	if got := strings.Join(set.Start, " "); got != "billing.socket billing.service" {
		t.Errorf("started are %s", got)
	}
	if got := strings.Join(set.Idle, " "); got != "billing-worker@.service" {
		t.Errorf("idle are %s", got)
	}
	if got := strings.Join(set.Links, " "); got != "multi-user.target.wants/billing.service sockets.target.wants/billing.socket" {
		t.Errorf("links are %s", got)
	}
	if !strings.Contains(set.Files["billing.service"], "ExecStart=/opt/slipway/billing/current/bin/billing --app billing\n") {
		t.Errorf("rendered:\n%s", set.Files["billing.service"])
	}
	if !set.HasSocketFor("billing.service") || set.HasSocketFor("billing.socket") || set.HasSocketFor("billing-worker@.service") {
		t.Error("sockets are matched wrongly")
	}
}

func TestEveryUnitIsOrderedAfterTheBootGuardianAndServicesGetTheHostsVariables(t *testing.T) {
	set, err := render(t, v1, units.Options{Env: map[string]string{"B": "2", "A": "1 x"}, Credentials: map[string]string{"key": "/etc/billing/50%.key"}}, first)
	must(t, err)
	want := "[Unit]\nAfter=slipway-boot.service\n\n[Service]\nEnvironment=\"A=1 x\"\nEnvironment=\"B=2\"\nLoadCredential=key:/etc/billing/50%%.key\n"
	if got := set.DropIns["billing.service"]; !strings.HasSuffix(got, want) {
		t.Errorf("drop-in:\n%s", got)
	}
	if got := set.DropIns["billing.socket"]; strings.Contains(got, "[Service]") || !strings.Contains(got, "After=slipway-boot.service") {
		t.Errorf("drop-in of the socket:\n%s", got)
	}
}

func TestAUnitThatBreaksTheRulesOrCannotBeReadIsRefusedByName(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"no user":   {"billing.service": "[Service]\nExecStart=@current@/bin/billing\n"},
		"malformed": {"billing.service": "[Service\n"},
		"too large": {"billing.service": service + strings.Repeat("# padding\n", 30000)},
	} {
		var refused *units.RefusedError
		if _, err := render(t, v1, units.Options{}, files); !errors.As(err, &refused) || refused.Unit != "billing.service" || refused.Kind() != "unit-refused" {
			t.Errorf("%s: %v", name, err)
		}
	}
	rel := &release.Release{App: billing, Units: []release.UnitFile{{Name: mustParse(release.ParseUnitName, "billing.service"), Path: "link"}}}
	tree := t.TempDir()
	must(t, os.Symlink("/etc/hostname", filepath.Join(tree, "link")))
	if _, err := units.Render(rel, v1, tree, units.Options{}); err == nil {
		t.Error("a unit outside of the release was read")
	}
}

func TestApplyingTwiceChangesNothingAndAnotherReleaseReplacesAll(t *testing.T) {
	d := newDir(t)
	apply(t, d, rendered(t, v1, first), false, true)
	before := content(t, d.Path)
	apply(t, d, rendered(t, v1, first), false, false)
	if !maps.Equal(before, content(t, d.Path)) {
		t.Error("the second time changed something")
	}
	apply(t, d, rendered(t, v2, second), false, true)
	got := slices.Sorted(maps.Keys(content(t, d.Path)))
	if want := "billing.service billing.service.d/10-slipway.conf multi-user.target.wants/billing.service"; strings.Join(got, " ") != want {
		t.Errorf("left are %v", got)
	}
	if left, _ := filepath.Glob(filepath.Join(d.Path, "*.d")); len(left) != 1 {
		t.Errorf("empty directories are left: %v", left)
	}
}

func TestATrialRequiresTheBootGuardianUntilItEnds(t *testing.T) {
	d := newDir(t)
	set := rendered(t, v1, first)
	apply(t, d, set, false, true)
	plain := content(t, d.Path)
	apply(t, d, set, true, true)
	for _, name := range set.Names() {
		text := content(t, d.Path)[name+".d/20-slipway-trial.conf"]
		if !strings.Contains(text, "[Unit]\nRequires=slipway-boot.service\n") {
			t.Errorf("%s in trial has %q", name, text)
		}
	}
	for _, want := range []bool{true, false} {
		if changed, err := d.UnwireTrial(billing); err != nil || changed != want {
			t.Errorf("changed %v, want %v: %v", changed, want, err)
		}
	}
	if !maps.Equal(plain, content(t, d.Path)) {
		t.Error("the trial left something")
	}
	for _, want := range []bool{true, false} {
		if changed, err := d.WireTrial(set); err != nil || changed != want {
			t.Errorf("changed %v, want %v: %v", changed, want, err)
		}
	}
	apply(t, d, set, false, true)
	if !maps.Equal(plain, content(t, d.Path)) {
		t.Error("applying outside of a trial left something")
	}
}

func TestATrialIsWiredIntoTheUnitsOfBothReleasesBeforeTheSwap(t *testing.T) {
	d := newDir(t)
	old, next := rendered(t, v1, second), rendered(t, v2, first)
	apply(t, d, old, false, true)
	plain := content(t, d.Path)
	for _, sets := range [][2]*units.Set{{old, next}, {next, old}} {
		_, err := d.Apply(sets[0], false)
		must(t, err)
		before := content(t, d.Path)
		if changed, err := d.WireTrial(sets[1]); err != nil || !changed {
			t.Fatalf("changed %v, %v", changed, err)
		}
		for _, name := range next.Names() {
			if text := content(t, d.Path)[name+".d/20-slipway-trial.conf"]; !strings.Contains(text, "Requires=slipway-boot.service") {
				t.Errorf("%s is not wired: %q", name, text)
			}
		}
		if changed, err := d.UnwireTrial(billing); err != nil || !changed || !maps.Equal(before, content(t, d.Path)) {
			t.Errorf("an attempt that was given up left %v (changed %v, %v)", content(t, d.Path), changed, err)
		}
		if left, _ := filepath.Glob(filepath.Join(d.Path, "*.d")); len(left) != len(sets[0].Names()) {
			t.Errorf("empty directories are left: %v", left)
		}
	}
	_, err := d.WireTrial(next)
	must(t, err)
	apply(t, d, old, false, true)
	if !maps.Equal(plain, content(t, d.Path)) {
		t.Error("a revert leaves drop-ins of units that it does not have")
	}
}

func TestATemporaryFileThatACrashLeftIsNoUnitAndGoesAtTheNextApplication(t *testing.T) {
	d := newDir(t)
	set := rendered(t, v1, second)
	apply(t, d, set, false, true)
	plain := content(t, d.Path)
	for _, name := range []string{".billing.service.tmp-1", "billing.service.d/.20-slipway-trial.conf.tmp-2", "billing.service.d/.10-slipway.conf.tmp-3"} {
		must(t, os.WriteFile(filepath.Join(d.Path, name), []byte(set.Files["billing.service"]), 0o644))
	}
	if names, err := d.Owned(billing); err != nil || !slices.Equal(names, []string{"billing.service"}) {
		t.Errorf("units of the app are %v, %v", names, err)
	}
	apply(t, d, set, false, true)
	if !maps.Equal(plain, content(t, d.Path)) {
		t.Errorf("left are %v", slices.Sorted(maps.Keys(content(t, d.Path))))
	}
}

func TestATrialIsNotWiredIntoAUnitOfSomebodyElse(t *testing.T) {
	d := newDir(t)
	must(t, os.WriteFile(filepath.Join(d.Path, "billing.service"), []byte("[Service]\nExecStart=/bin/true\n"), 0o644))
	var refused *units.RefusedError
	if _, err := d.WireTrial(rendered(t, v1, first)); !errors.As(err, &refused) || len(content(t, d.Path)) != 1 {
		t.Errorf("%v, %v", err, content(t, d.Path))
	}
}

func TestDuringATrialADyingReleaseCannotTakeItsSocketAlong(t *testing.T) {
	for _, c := range []struct {
		files   map[string]string
		unit    string
		limited bool
		off     string
	}{
		{first, "billing.service", false, "[Unit]\nRequires=slipway-boot.service\nStartLimitIntervalSec=0\n"},
		{first, "billing.socket", false, "[Socket]\nTriggerLimitIntervalSec=0\n"},
		{second, "billing.service", true, "LimitIntervalSec"},
	} {
		d := newDir(t)
		apply(t, d, rendered(t, v1, c.files), true, true)
		if text := content(t, d.Path)[c.unit+".d/20-slipway-trial.conf"]; strings.Contains(text, c.off) == c.limited {
			t.Errorf("%s in trial has %q", c.unit, text)
		}
	}
}

func TestAUnitOfSomebodyElseIsNeverTouched(t *testing.T) {
	d := newDir(t)
	must(t, os.WriteFile(filepath.Join(d.Path, "billing.service"), []byte("[Service]\nExecStart=/bin/true\n"), 0o644))
	before := content(t, d.Path)
	var refused *units.RefusedError
	if _, err := d.Apply(rendered(t, v1, first), true); !errors.As(err, &refused) || refused.Unit != "billing.service" {
		t.Errorf("got %v", err)
	}
	if changed, err := d.Remove(billing); err != nil || changed {
		t.Errorf("changed %v, error %v", changed, err)
	}
	if !maps.Equal(before, content(t, d.Path)) {
		t.Error("something changed")
	}
}

func TestAUnitOfTheSameNameElsewhereIsNeverShadowed(t *testing.T) {
	d := newDir(t)
	d.Search = []string{t.TempDir()}
	must(t, os.WriteFile(filepath.Join(d.Search[0], "billing.socket"), nil, 0o644))
	err := d.Check(rendered(t, v1, first))
	if err == nil || !strings.Contains(err.Error(), "billing.socket") || !strings.Contains(err.Error(), d.Search[0]) {
		t.Errorf("got %v", err)
	}
}

func TestARemovalKeepsOtherAppsAndTheAdministratorsDropIns(t *testing.T) {
	d := newDir(t)
	apply(t, d, rendered(t, v1, first), true, true)
	foreign := map[string]string{
		"billing.service.d/50-admin.conf": "[Service]\nNice=5\n",
		"shop.service":                    "# slipway: app=shop release=" + v1.String() + "\n",
		"ssh.service":                     "[Service]\n",
	}
	for name, text := range foreign {
		must(t, os.WriteFile(filepath.Join(d.Path, name), []byte(text), 0o644))
	}
	for _, want := range []bool{true, false} {
		if changed, err := d.Remove(billing); err != nil || changed != want {
			t.Errorf("changed %v, want %v: %v", changed, want, err)
		}
	}
	if got := content(t, d.Path); !maps.Equal(got, foreign) {
		t.Errorf("left are %v", slices.Sorted(maps.Keys(got)))
	}
	if names, err := d.Owned(shop); err != nil || len(names) != 1 {
		t.Errorf("the shop owns %v (%v)", names, err)
	}
}

func TestABootLinkOfAnAdministratorIsKept(t *testing.T) {
	d := newDir(t)
	apply(t, d, rendered(t, v1, first), false, true)
	link := filepath.Join(d.Path, "rescue.target.wants", "billing.service")
	must(t, os.Mkdir(filepath.Dir(link), 0o755))
	must(t, os.Symlink("/etc/systemd/system/billing.service", link))
	apply(t, d, rendered(t, v1, first), false, false)
	if _, err := os.Lstat(link); err != nil {
		t.Error(err)
	}
}

func TestDifferencesNameEveryEditedFileAndLink(t *testing.T) {
	d := newDir(t)
	set := rendered(t, v1, first)
	apply(t, d, set, false, true)
	if got := d.Differences(set); len(got) != 0 {
		t.Errorf("without an edit: %v", got)
	}
	must(t, os.WriteFile(filepath.Join(d.Path, "billing.socket"), []byte("[Socket]\n"), 0o644))
	must(t, os.Remove(filepath.Join(d.Path, "billing.service.d", "10-slipway.conf")))
	must(t, os.Remove(filepath.Join(d.Path, "multi-user.target.wants", "billing.service")))
	want := "billing.service.d/10-slipway.conf billing.socket multi-user.target.wants/billing.service"
	if got := strings.Join(d.Differences(set), " "); got != want {
		t.Errorf("got %s", got)
	}
}

func TestASetSurvivesARoundTrip(t *testing.T) {
	set := rendered(t, v1, first)
	got, err := units.Decode(set.Encode())
	if err != nil || !bytes.Equal(got.Encode(), set.Encode()) || got.ID != v1 || got.App != billing {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := units.Decode([]byte("{")); err == nil {
		t.Error("half a set was read")
	}
}

// unquote reads what systemd makes of the value of Environment=: words with C escapes in double quotes, and specifiers.
func unquote(t *testing.T, value string) string {
	t.Helper()
	if len(value) < 2 || value[0] != '"' || value[len(value)-1] != '"' {
		t.Fatalf("%q is not one quoted word", value)
	}
	var b strings.Builder
	for in := value[1 : len(value)-1]; in != ""; {
		if in[0] == '"' {
			t.Fatalf("%q has a quote inside", value)
		}
		if strings.HasPrefix(in, "%") {
			if !strings.HasPrefix(in, "%%") {
				t.Fatalf("%q has a specifier", value)
			}
			b.WriteByte('%')
			in = in[2:]
			continue
		}
		r, multibyte, rest, err := strconv.UnquoteChar(in, '"')
		if err != nil {
			t.Fatalf("%q: %v", value, err)
		}
		if multibyte || r < utf8.RuneSelf {
			b.WriteRune(r)
		} else {
			b.WriteByte(byte(r))
		}
		in = rest
	}
	return b.String()
}

func TestAnyVariableComesOutOfTheDropInAsItWentIn(t *testing.T) {
	alphabet := []rune("aZ0 \t\n\r\\\"'%$#;=[]~`!&*?<>|{}()/.,:@^-+_é世\a\b\f\v\x01\x1b\x7f")
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 3000 {
		var b strings.Builder
		for range rng.IntN(24) {
			b.WriteRune(alphabet[rng.IntN(len(alphabet))])
		}
		value := b.String()
		if i == 0 {
			value = `\` + "\n[Service]\nExecStart=/bin/evil"
		}
		set, err := render(t, v1, units.Options{Env: map[string]string{"NAME": value}}, second)
		must(t, err)
		text := set.DropIns["billing.service"]
		if strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && unicode.IsControl(r) }) {
			t.Fatalf("%q left a control character in:\n%s", value, text)
		}
		lines, err := unit.DeserializeOptions(strings.NewReader(text))
		must(t, err)
		got := lines[len(lines)-1]
		if len(lines) != 2 || got.Section != "Service" || got.Name != "Environment" {
			t.Fatalf("%q made:\n%s", value, text)
		}
		if plain := unquote(t, got.Value); plain != "NAME="+value {
			t.Fatalf("%q came out as %q through %s", value, plain, got.Value)
		}
	}
}

func TestACredentialPathCannotAddALine(t *testing.T) {
	_, err := render(t, v1, units.Options{Credentials: map[string]string{"key": "/etc/key\nExecStartPre=/bin/evil"}}, second)
	var refused *units.RefusedError
	if !errors.As(err, &refused) {
		t.Errorf("got %v", err)
	}
}
