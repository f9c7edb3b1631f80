package integration

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-deploy/slipway/integration/lab"
)

// TestThePackagedSignerSignsWithAToken takes the two programs as they are packaged: the one for tokens is built unlike the others.
func TestThePackagedSignerSignsWithAToken(t *testing.T) {
	takeSlot(t)
	if os.Geteuid() != 0 {
		t.Skipf("SKIPPED, needs root: %s installs softhsm2 and opensc when they are missing", t.Name())
	}
	if err := lab.InstallTools(t.Context(), "softhsm2-util=softhsm2", "pkcs11-tool=opensc", "dpkg-deb=dpkg"); err != nil {
		t.Fatal(err)
	}
	set := lab.Packages(t, firstVersion, "")
	dir := t.TempDir()
	conf := filepath.Join(dir, "softhsm2.conf")
	if err := os.WriteFile(conf, []byte("directories.tokendir = "+dir+"\nobjectstore.backend = file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	do := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+conf, "SLIPWAY_PKCS11_PIN=1234")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out.String())
		}
		return out.String()
	}
	const module = "/usr/lib/softhsm/libsofthsm2.so"
	do("dpkg-deb", "-x", set.PublisherDeb, filepath.Join(dir, "root"))
	do("softhsm2-util", "--init-token", "--free", "--label", "alice", "--so-pin", "0000", "--pin", "1234")
	tool, signer, key := filepath.Join(dir, "root/usr/bin/slipway-repo"), filepath.Join(dir, "root/usr/lib/slipway-repo/sign-pkcs11"), filepath.Join(dir, "alice")
	for id, kind := range map[string]string{"01": "EC:prime256v1", "02": "EC:edwards25519"} {
		do("pkcs11-tool", "--module", module, "--token-label", "alice", "--login", "--pin", "1234", "--keypairgen", "--key-type", kind, "--id", id)
		do(tool, "key", "external", key+id, "--name", "Alice", "--", signer, "--module", module, "--token", "alice", "--id", id)
		if out := do(tool, "key", "test", key+id); !strings.Contains(out, "Alice") {
			t.Errorf("key test says\n%s", out)
		}
	}
}
