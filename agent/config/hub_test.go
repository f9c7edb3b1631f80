package config

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func loadHub(t *testing.T, text string) (*Hub, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "slipway-hub.toml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return LoadHub(file)
}

const smallHub = "fleet = \"acme\"\n[[repository.mirrors]]\nurl = \"https://slipway.example.com\"\n"

func TestAHubNeedsAFleetAndARepositoryAndNothingElse(t *testing.T) {
	h, err := loadHub(t, smallHub)
	if err != nil {
		t.Fatal(err)
	}
	if !h.Store.Embedded() || h.Listen != ":7443" || len(h.Names) != 1 || len(h.Roles.Viewer) != 0 {
		t.Errorf("%+v", h)
	}
	_, err = loadHub(t, "")
	for _, want := range []string{"fleet: is required", "repository.mirrors: is required"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
}

func TestEveryProblemOfAHubsConfigurationIsToldWithItsLine(t *testing.T) {
	_, err := loadHub(t, `fleet = "ACME"
names = []
listen = "hub:7443"
[[repository.mirrors]]
url = "https://slipway.example.com"
[roles]
operator = ["*", "-x"]
viewers = ["*"]
[store]
endpoints = ["etcd1:2379", "http://etcd2:2379"]
username = "hub"
password_file = "/etc/p"
[certificates]
validity = "5m"
cert = "/etc/c"
[identity]
ca_file = "/etc/ca"
[[identity.hosts]]
dns = "web.example.com"
[[identity.operators]]
dns = "*.example.com"
cn = "x"
`)
	for _, want := range []string{`:1:1: fleet: "ACME" is no name`, ":2:1: names: must hold at least one", ":3:1: listen:", `:7:18: roles.operator[1]: "-x"`,
		":8:1: roles.viewers: there is no such option; did you mean viewer?", `:10:14: store.endpoints[0]: "etcd1:2379" must be https://host:port`,
		":10:1: store.endpoints: \"http://etcd2:2379\" must start with https://: a password", ":14:1: certificates.validity: 5m is not between",
		"certificates: cert and key belong together", "cert and ca_file belong together", "identity.hosts[0]: needs environment", `"web.example.com" names one host`,
		"identity.operators[0]: needs exactly one of dns and cn"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("there is no problem %q in\n%v", want, err)
		}
	}
}

func TestWhatAHubPrintsIsWhatItRead(t *testing.T) {
	sample, err := os.ReadFile("../../packaging/slipway-hub.toml")
	if err != nil {
		t.Fatal(err)
	}
	all := regexp.MustCompile(`(?m)^#(\[|[a-z_]+ = )`).ReplaceAllString(string(sample), "$1")
	all = strings.NewReplacer(`viewer = []`, `viewer = ["*"]`, `operator = []`, `operator = ["otto"]`).Replace(all)
	h, err := loadHub(t, all)
	if err != nil {
		t.Fatal(err)
	}
	var first, second bytes.Buffer
	if err := PrintHub(&first, h); err != nil {
		t.Fatal(err)
	}
	again, err := loadHub(t, first.String())
	if err != nil {
		t.Fatalf("what was printed cannot be read: %v\n%s", err, &first)
	}
	again.File = h.File
	if err := PrintHub(&second, again); err != nil {
		t.Fatal(err)
	}
	if first.String() != second.String() {
		t.Errorf("printed\n%s\nand then\n%s", &first, &second)
	}
}

func TestTheHubsSampleSaysTheDefaults(t *testing.T) {
	sample, err := os.ReadFile("../../packaging/slipway-hub.toml")
	if err != nil {
		t.Fatal(err)
	}
	plain, err := loadHub(t, string(sample))
	if err != nil {
		t.Fatal(err)
	}
	// Uncommented, a default changes nothing. What has none is left commented.
	withDefaults := string(sample)
	for _, line := range []string{`listen = ":7443"`, `interval = "30s"`, `jitter = 0.1`, `viewer = []`, `operator = []`, `maintainer = []`, `validity = "90d"`,
		`state = "/var/lib/slipway-hub"`, `run = "/run/slipway-hub"`, `level = "info"`} {
		if !strings.Contains(withDefaults, "\n#"+line+"\n") {
			t.Errorf("the sample does not show the default %s", line)
		}
		withDefaults = strings.Replace(withDefaults, "\n#"+line+"\n", "\n"+line+"\n", 1)
	}
	same, err := loadHub(t, withDefaults)
	if err != nil {
		t.Fatal(err)
	}
	plain.File, same.File = "", ""
	plain.Repository.Root, same.Repository.Root = "", ""
	var a, b bytes.Buffer
	_, _ = PrintHub(&a, plain), PrintHub(&b, same)
	if a.String() != b.String() {
		t.Errorf("the defaults are\n%s\nthe sample says\n%s", &a, &b)
	}
}
