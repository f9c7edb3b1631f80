package config

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestTheFleetSectionIsReadAndPrinted(t *testing.T) {
	h := load(t, map[string]string{
		"slipway.toml":      smallest,
		"slipway.d/50.toml": "[fleet]\nurls = [\"https://a.example.com:7443\", \"https://b.example.com\"]\nca = \"/etc/pki/ca.pem\"\ncert = \"/etc/pki/h.pem\"\nkey = \"/etc/pki/h.key\"\npoll = \"1m\"\n",
	})
	want := HostFleet{URLs: []string{"https://a.example.com:7443", "https://b.example.com"}, CA: "/etc/pki/ca.pem", Cert: "/etc/pki/h.pem", Key: "/etc/pki/h.key", Poll: time.Minute}
	if !reflect.DeepEqual(h.Fleet, want) {
		t.Errorf("%+v", h.Fleet)
	}
	var b strings.Builder
	if err := Print(&b, h); err != nil || !strings.Contains(b.String(), "[fleet]\nurls = [\"https://a.example.com:7443\", \"https://b.example.com\"]\nca = ") {
		t.Errorf("%v\n%s", err, b.String())
	}
	if h := load(t, map[string]string{"slipway.toml": smallest}); h.Fleet.Poll != 30*time.Second || h.Fleet.URLs != nil {
		t.Errorf("defaults: %+v", h.Fleet)
	}
}

func TestAFleetSectionThatCannotWorkIsRefusedWithItsLine(t *testing.T) {
	got := problems(t, map[string]string{
		"slipway.toml":      smallest,
		"slipway.d/50.toml": "[fleet]\nurls = [\"http://hub.example.com\"]\ncert = \"/etc/pki/h.pem\"\npoll = \"1ms\"\nhub = \"x\"\n",
	})
	for _, want := range []string{"50.toml:2:", "must be https://host:port", "cert and key belong together", "50.toml:4:1: fleet.poll", "50.toml:5:1: fleet.hub"} {
		if !strings.Contains(strings.Join(got, "\n"), want) {
			t.Errorf("nobody says %q:\n%s", want, strings.Join(got, "\n"))
		}
	}
}
