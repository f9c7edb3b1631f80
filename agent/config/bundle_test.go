package config

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestABundleIsAMirrorWithAnAgeOfItsOwn(t *testing.T) {
	const text = "environment = \"production\"\n[repository]\nmax_bundle_age = \"14d\"\n[[repository.mirrors]]\nurl = \"bundle:/media/usb/a b%.bundle\"\n"
	h := load(t, map[string]string{"slipway.toml": text})
	want := []Mirror{{Metadata: "bundle:/media/usb/a b%.bundle", Targets: "bundle:/media/usb/a b%.bundle"}}
	if !reflect.DeepEqual(h.Repository.Mirrors, want) || h.Repository.MaxBundleAge != 14*24*time.Hour {
		t.Errorf("%+v", h.Repository)
	}
	var b strings.Builder
	if err := Print(&b, h); err != nil || !strings.Contains(b.String(), "max_bundle_age = \"336h\"") {
		t.Error(err, b.String())
	}
	again := load(t, map[string]string{"slipway.toml": "environment = \"production\"\n" + b.String()[strings.Index(b.String(), "\n[repository]"):strings.Index(b.String(), "\n[paths]")]})
	if !reflect.DeepEqual(again.Repository.Mirrors, want) {
		t.Errorf("what is printed reads differently: %+v", again.Repository)
	}
}

func TestABundleIsAnAbsolutePathAndHoldsBothHalves(t *testing.T) {
	for mirror, want := range map[string]string{
		`url = "bundle:usb.bundle"`:                           "must be bundle: and the absolute path of a file",
		`url = "bundle:/"`:                                    "must be bundle: and the absolute path of a file",
		`url = "bundle:/a/../b"`:                              "must be bundle: and the absolute path of a file",
		"metadata = \"https://x/m\"\ntargets = \"bundle:/b\"": `a bundle holds metadata and targets; write url = "bundle:/path"`,
	} {
		got := problems(t, map[string]string{"slipway.toml": "environment = \"production\"\n[[repository.mirrors]]\n" + mirror + "\n"})
		if !strings.Contains(got[0], want) {
			t.Errorf("%s: %v", mirror, got)
		}
	}
}
