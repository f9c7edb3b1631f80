package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slipway-deploy/slipway/agent/api"
)

// tree makes a small root directory.
func tree(t *testing.T, files map[string]string) system {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return system{root: root}
}

func judge(t *testing.T, got api.DoctorCheck, status, words string) {
	t.Helper()
	if got.Status != status || !strings.Contains(got.Message, words) || (got.Status != api.DoctorOK) != (got.Hint != "") {
		t.Errorf("got %+v, want %s with %q, and a hint exactly if it is not well", got, status, words)
	}
}

var allUnits = map[string]string{
	"usr/lib/systemd/system/slipwayd.service": "x", "usr/lib/systemd/system/slipwayd.socket": "x", "usr/lib/systemd/system/slipwayd-ro.socket": "x",
	"usr/lib/systemd/system/slipway-boot.service": "x", "usr/lib/systemd/system/slipway-guard@.service": "x",
}

func TestDoctorNamesMissingAndMaskedUnits(t *testing.T) {
	s := tree(t, allUnits)
	judge(t, s.checkUnits(), api.DoctorOK, "installed")
	if err := os.Remove(s.path("usr/lib/systemd/system/slipway-guard@.service")); err != nil {
		t.Fatal(err)
	}
	judge(t, s.checkUnits(), api.DoctorFail, "slipway-guard@.service")
}

func TestDoctorNamesWhatBootDoesNotStart(t *testing.T) {
	s := tree(t, map[string]string{"etc/systemd/system/basic.target.wants/slipway-boot.service": ""})
	judge(t, s.checkBoot(), api.DoctorFail, "not started at boot: slipwayd.service")
	s = tree(t, map[string]string{
		"etc/systemd/system/basic.target.wants/slipway-boot.service":      "",
		"usr/lib/systemd/system/multi-user.target.wants/slipwayd.service": "",
	})
	judge(t, s.checkBoot(), api.DoctorOK, "started at boot")
}

func TestDoctorFindsLateMounts(t *testing.T) {
	for name, one := range map[string]struct{ fstab, mounts, status, words string }{
		"root only":  {"/dev/sda1 / ext4 defaults 0 1\n", "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n", api.DoctorOK, "/opt/slipway"},
		"netdev":     {"x:/y /opt nfs defaults,_netdev 0 0\n", "", api.DoctorFail, "/opt/slipway lies on /opt"},
		"nofail":     {"/dev/sdb /var/lib/slipway xfs nofail 0 0\n", "", api.DoctorFail, "/var/lib/slipway lies on /var/lib/slipway"},
		"comment":    {"# x:/y /opt nfs _netdev 0 0\n", "", api.DoctorOK, ""},
		"elsewhere":  {"x:/y /optional nfs _netdev 0 0\n", "", api.DoctorOK, ""},
		"mounted":    {"", "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 21 0:40 / /opt rw,relatime shared:1 - nfs4 x:/y rw\n", api.DoctorFail, "a nfs4 mount"},
		"local /opt": {"", "30 21 0:40 / /opt rw - nfs4 x:/y rw\n31 30 8:2 / /opt/slipway rw - xfs /dev/sdb rw\n", api.DoctorOK, ""},
	} {
		s := tree(t, map[string]string{"etc/fstab": one.fstab, "proc/self/mountinfo": one.mounts})
		t.Run(name, func(t *testing.T) { judge(t, s.checkMounts("/opt/slipway", "/var/lib/slipway"), one.status, one.words) })
	}
}

func TestDoctorJudgesLabels(t *testing.T) {
	judge(t, labelVerdict("/opt/slipway", "system_u:object_r:usr_t:s0", true), api.DoctorOK, "usr_t")
	judge(t, labelVerdict("/opt/slipway", "system_u:object_r:default_t:s0", true), api.DoctorFail, "default_t")
	judge(t, labelVerdict("/opt/slipway", "system_u:object_r:default_t:s0", false), api.DoctorWarn, "default_t")
	judge(t, labelVerdict("/opt/slipway", "nonsense", true), api.DoctorWarn, "odd")
	judge(t, tree(t, nil).checkLabels("/opt"), api.DoctorOK, "not in use")
}

func TestDoctorFindsTheProxyOfTheShell(t *testing.T) {
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"} {
		t.Setenv(name, "")
	}
	judge(t, checkProxyEnv(""), api.DoctorOK, "no proxy")
	t.Setenv("https_proxy", "http://p:1")
	judge(t, checkProxyEnv(""), api.DoctorWarn, "https_proxy is set in this shell")
	judge(t, checkProxyEnv("direct"), api.DoctorOK, "direct")
}

func TestDoctorComparesFreeSpaceWithTheReserve(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "made", "yet")
	judge(t, checkSpace(dir, 1), api.DoctorOK, "free")
	judge(t, checkSpace(dir, 1<<60), api.DoctorFail, "nothing can be staged")
	judge(t, checkNoexec(dir), api.DoctorOK, "may run")
	judge(t, noexecVerdict("/opt/slipway", unix.ST_NOEXEC|unix.ST_NODEV), api.DoctorFail, "noexec")
}

func TestDoctorJudgesThePinnedRoot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root.json")
	judge(t, checkRoot(path, now), api.DoctorFail, "no such file")
	for expires, want := range map[string]string{"2030-01-01": api.DoctorOK, "2026-03-20": api.DoctorWarn, "2026-02-01": api.DoctorWarn} {
		text := `{"signatures":[{}],"signed":{"_type":"root","version":3,"expires":"` + expires + `T00:00:00Z"}}`
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		judge(t, checkRoot(path, now), want, "version 3")
	}
}
