package main

import (
	"os"
	"testing"
)

// The publisher's half of the way to a host without a network; integration plays the host's.
func TestABundleIsMadeCarriedAndVerifiedWithoutARepository(t *testing.T) {
	s := newShell(t)
	s.published()
	s.tree()
	s.expect(3, "bundle create --out out.bundle", "there is no deployment in any environment; run deploy new and publish first")
	s.expect(0, "release pack build --app billing --version 1.0.0")
	s.expect(0, "release publish billing 1.0.0 --sign ci")
	s.expect(0, "deploy new --env production --app billing --release 1.0.0 --sign ann --sign ben")
	s.expect(0, "publish")
	s.expect(0, "bundle create --out production.bundle --environment production",
		"production.bundle: verified for environment production; all apps; all platforms",
		"issued ", "production/billing: 1.0.0, sequence 1, active", "1 releases, 4 files", "hosts start nothing from it after", "when timestamp expires")
	s.expect(3, "bundle create --out web.bundle --environment production --app web", "web has no deployment in environment production")
	s.expect(2, "bundle create --out x --platform windows", "--platform")

	// The carrier's machine has the pinned root and the file, and no repository.
	for from, to := range map[string]string{"production.bundle": "usb/production.bundle", "repo/metadata/1.root.json": "usb/root.json"} {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		s.write(to, string(data))
	}
	t.Chdir("usb")
	s.expect(0, "bundle verify production.bundle --root root.json --max-age 14d", "production/billing: 1.0.0, sequence 1, active", "0m old")
	s.expect(2, "bundle verify production.bundle --root root.json", "max-age")
	s.expect(2, "bundle verify production.bundle --root root.json --max-age soon", "--max-age")
	data, err := os.ReadFile("production.bundle")
	if err != nil {
		t.Fatal(err)
	}
	s.write("half.bundle", string(data[:len(data)/2]))
	s.expect(1, "bundle verify half.bundle --root root.json --max-age 14d", "cannot verify bundle half.bundle: it is incomplete")
	data[len(data)-3000] ^= 1
	s.write("bent.bundle", string(data))
	s.expect(1, "bundle verify bent.bundle --root root.json --max-age 14d", "cannot verify bundle bent.bundle")
}
