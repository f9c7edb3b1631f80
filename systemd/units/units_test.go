// Package units_test checks the shipped units with systemd's own tools. The directory holds no Go of its own.
package units_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// unitDir is a copy of the shipped units whose programs exist, since verify looks for them.
func unitDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, pattern := range []string{"*.service", "*.socket", "*.timer"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("no %s here: %v", pattern, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			text = []byte(strings.NewReplacer("/usr/sbin/slipwayd", "/bin/true", "/usr/bin/slipway-repo", "/bin/true", "/usr/sbin/slipway-hub", "/bin/true").Replace(string(text)))
			if err := os.WriteFile(filepath.Join(dir, file), text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// analyze runs systemd-analyze on a machine whose PID 1 need not be systemd.
func analyze(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("systemd-analyze", args...)
	cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze %s: %v", strings.Join(args, " "), err)
	}
	return string(out)
}

func TestSystemdFindsNoFaultInTheUnits(t *testing.T) {
	dir := unitDir(t)
	for _, unit := range []string{"slipwayd.service", "slipwayd.socket", "slipwayd-ro.socket", "slipway-boot.service", "slipway-hub.service", "slipway-repo-refresh.service", "slipway-repo-publish.service", "slipway-repo-refresh.timer"} {
		if out := analyze(t, dir, "verify", "--man=no", filepath.Join(dir, unit)); out != "" {
			t.Errorf("%s: %s", unit, out)
		}
	}
}

func TestTheBootHasNoOrderingCycleWithTheUnitsEnabled(t *testing.T) {
	dir := unitDir(t)
	for target, units := range map[string][]string{
		"multi-user.target": {"slipwayd.service"}, "sockets.target": {"slipwayd.socket", "slipwayd-ro.socket"}, "basic.target": {"slipway-boot.service"},
	} {
		wants := filepath.Join(dir, target+".wants")
		if err := os.Mkdir(wants, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, unit := range units {
			if err := os.Symlink("../"+unit, filepath.Join(wants, unit)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if out := analyze(t, dir, "verify", "--man=no", "default.target"); regexp.MustCompile(`(?i)cycle|slipway`).MatchString(out) {
		t.Errorf("the boot is wired wrongly:\n%s", out)
	}
}

func TestTheExposureOfTheServicesIsAtMostThree(t *testing.T) {
	dir := unitDir(t)
	for _, unit := range []string{"slipwayd.service", "slipway-guard@.service", "slipway-hub.service", "slipway-repo-refresh.service", "slipway-repo-publish.service"} {
		out := analyze(t, dir, "security", "--offline=true", filepath.Join(dir, unit))
		found := regexp.MustCompile(`exposure level for \S+: ([0-9.]+)`).FindStringSubmatch(out)
		if found == nil {
			t.Fatalf("no score for %s in:\n%s", unit, out)
		}
		score, err := strconv.ParseFloat(found[1], 64)
		if err != nil || score > 3.0 {
			t.Errorf("%s scores %s, want at most 3.0", unit, found[1])
		}
		t.Logf("%s: %s", unit, found[1])
	}
}

func TestTheGuardianIsWiredForEarlyBoot(t *testing.T) {
	text, err := os.ReadFile("slipway-boot.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"DefaultDependencies=no", "RequiresMountsFor=/opt/slipway /var/lib/slipway", "After=local-fs.target",
		"Conflicts=shutdown.target", "RefuseManualStart=yes", "WantedBy=basic.target",
	} {
		if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(line) + `$`).Match(text) {
			t.Errorf("slipway-boot.service lacks %q", line)
		}
	}
	if !regexp.MustCompile(`(?m)^TimeoutStartSec=[0-9]+s$`).Match(text) {
		t.Error("slipway-boot.service has no finite timeout")
	}
}
