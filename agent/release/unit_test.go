package release

import (
	"errors"
	"strings"
	"testing"
)

var unitTestRules = UnitRules{AppRoot: "/opt/slipway/billing"}

const goodService = `# billing
[Unit]
Description=Billing
After=network-online.target postgresql.service
Wants=network-online.target
[Service]
Type=notify
User=billing
ExecStartPre=-@current@/bin/prepare --quick
ExecStart=@current@/bin/billing \
  --listen 127.0.0.1:8080 \
  --name @app@
ExecReload=/opt/slipway/billing/current/bin/reload $MAINPID
EnvironmentFile=-@current@/etc/env
StateDirectory=billing billing-cache/deep
ProtectSystem=strict
SystemCallFilter=@system-service
AmbientCapabilities=CAP_NET_BIND_SERVICE
Restart=on-failure
[Install]
WantedBy=multi-user.target
`

func checkUnit(name, content string, rules UnitRules) error {
	return CheckUnit(must(ParseApp("billing")), must(ParseUnitName(name)), []byte(content), rules)
}

func TestCheckUnitAcceptsWhatAReleaseNeeds(t *testing.T) {
	for name, content := range map[string]string{
		"billing.service":       goodService,
		"billing-worker.socket": "[Socket]\nListenStream=8080\nListenStream=/run/billing/api.sock\nSocketGroup=www-data\n[Install]\nWantedBy=sockets.target\n",
		"billing@.service":      "[Service]\nDynamicUser=yes\nExecStart=@current@/bin/worker %i\n",
		"billing-nightly.timer": "[Timer]\nOnCalendar=daily\nUnit=billing-nightly.service\n[Install]\nWantedBy=timers.target\n",
		"billing.target":        "[Unit]\nWants=billing-a.service billing@1.service\n[Install]\nWantedBy=multi-user.target\n",
	} {
		if err := checkUnit(name, content, unitTestRules); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckUnitRefusesWhatReachesBeyondTheApp(t *testing.T) {
	service := func(line string) string { return "[Service]\nUser=billing\nExecStart=@current@/bin/x\n" + line + "\n" }
	for _, c := range []struct{ what, content, want string }{
		{"no user", "[Service]\nExecStart=@current@/bin/x\n", "run as root"},
		{"the last user counts", service("User="), "run as root"},
		{"dynamic user taken back", "[Service]\nDynamicUser=yes\nDynamicUser=no\nExecStart=@current@/x\n", "run as root"},
		{"root by name", service("User=root"), "root is not billing"},
		{"root by number", service("User=0"), "0 is not billing"},
		{"computed user", service("User=%i"), "is not billing"},
		{"foreign user", service("User=payments"), "payments is not billing"},
		{"foreign group", service("SupplementaryGroups=billing docker"), "docker is not billing"},
		{"shell", service("ExecStartPre=/bin/sh -c 'rm -rf /'"), "not inside @current@"},
		{"climbing program", service("ExecStart=@current@/../../../../bin/sh"), "not inside @current@"},
		{"quoted program", service(`ExecStart="/bin/sh"`), "not inside @current@"},
		{"escaped program", service(`ExecStart=@current@/\x2e\x2e/x`), "not inside @current@"},
		{"computed program", service("ExecStart=@current@/%i"), "not inside @current@"},
		{"look-alike directory", service("ExecStart=/opt/slipway/billing/current-evil/x"), "not inside @current@"},
		{"full rights", service("ExecStartPre=+@current@/bin/x"), "prefix +"},
		{"full rights behind others", service("ExecStop=-@!!@current@/bin/x"), "prefix !"},
		{"second command", service("ExecStart=@current@/bin/x ; /bin/sh"), "second command"},
		{"comment that continues for some readers only", "[Service]\nUser=billing\n# note \\\nExecStart=/bin/sh\n", "backslash at the end"},
		{"comment inside a directive", "[Service]\nUser=billing\nExecStart=@current@/x \\\n# y\n  z\n", "must not interrupt"},
		{"two backslashes", service(`Description=x\\`), "backslash at the end"},
		{"backslash and space", "[Service]\nUser=billing\nExecStart=@current@/x \\ \n  ; /bin/sh\n", "backslash at the end"},
		{"carriage return", "[Service]\r\nUser=billing\r\n", "control character"},
		{"directive before a section", "User=billing\n[Service]\nExecStart=@current@/x\n", "no directive in a section"},
		{"junk before a section", "x[Service]\nUser=billing\n", "no directive in a section"},
		{"unfinished", "[Service]\nUser=billing\nExecStart=@current@/x \\", "middle of a continued"},
		{"foreign section", service("[Mount]\nWhat=/dev/sda"), "no place"},
		{"unknown directive", service("RootImage=/x.img"), "not on the list"},
		{"bind paths", service("BindPaths=/etc/shadow:/x"), "not on the list"},
		{"open file", service("OpenFile=/etc/shadow"), "not on the list"},
		{"foreign environment file", service("EnvironmentFile=/etc/shadow"), "not inside"},
		{"climbing environment file", service("EnvironmentFile=/etc/billing/../shadow"), "no"},
		{"environment file that the app's user may replace", service("EnvironmentFile=/var/lib/billing/env"), "not inside"},
		{"process left behind", service("KillMode=none"), "leaves processes"},
		{"service before sockets", service("ExecReload=@current@/x\n[Install]\nWantedBy=sockets.target"), "not a unit"},
		{"stop refused", "[Unit]\nRefuseManualStop=yes\n" + service(""), "not on the list"},
		{"credential", service("LoadCredential=x:/etc/shadow"), "not inside"},
		{"output file", service("StandardOutput=append:/etc/passwd"), "none of null"},
		{"foreign state directory", service("StateDirectory=payments"), "not below"},
		{"climbing state directory", service("StateDirectory=billing/../payments"), "not below"},
		{"linked state directory", service("StateDirectory=billing:payments"), "not below"},
		{"capability", service("AmbientCapabilities=CAP_SYS_ADMIN"), "only CAP_NET_BIND"},
		{"priority", service("OOMScoreAdjust=-1000"), "negative"},
		{"reboot", service("[Unit]\nFailureAction=reboot"), "only none"},
		{"poweroff by wanting", service("[Unit]\nWants=poweroff.target"), "poweroff.target is not"},
		{"requires foreign", service("[Unit]\nRequires=postgresql.service"), "postgresql.service is not"},
		{"conflicts foreign", service("[Unit]\nConflicts=ssh.service"), "ssh.service is not"},
		{"stops foreign", service("[Unit]\nPropagatesStopTo=ssh.service"), "ssh.service is not"},
		{"fails into foreign", service("[Unit]\nOnFailure=reboot.target"), "reboot.target is not"},
		{"computed reference", service("[Unit]\nOnFailure=%i.service"), "is not"},
		{"before foreign", service("[Unit]\nBefore=sysinit.target"), "sysinit.target is not"},
		{"no default dependencies", service("[Unit]\nDefaultDependencies=no"), "not on the list"},
		{"alias", service("[Install]\nAlias=ssh.service"), "only WantedBy"},
		{"wanted by foreign", service("[Install]\nWantedBy=ssh.service"), "ssh.service is not"},
		{"also foreign", service("[Install]\nAlso=ssh.service"), "ssh.service is not"},
		{"empty", "", "no [Service] section"},
	} {
		err := checkUnit("billing.service", c.content, unitTestRules)
		var refused *UnitError
		if !errors.As(err, &refused) || refused.Kind() != "unit-refused" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.what, err, c.want)
		}
	}
}

func TestCheckUnitRefusesForeignNamesSocketsAndTimers(t *testing.T) {
	for _, c := range []struct{ name, content string }{
		{"ssh.service", goodService},
		{"billingx.service", goodService},
		{"billing.socket", "[Socket]\nListenStream=/run/payments/x.sock\n"},
		{"billing.socket", "[Socket]\nListenStream=80\nExecStartPre=/bin/sh\n"},
		{"billing.socket", "[Socket]\nListenStream=80\nSymlinks=/run/x\n"},
		{"billing.socket", "[Socket]\nListenStream=@payments\n"},
		{"billing.socket", "[Socket]\nListenStream=80\nService=ssh.service\n"},
		{"billing.timer", "[Timer]\nOnBootSec=1\nUnit=poweroff.target\n"},
		{"billing.path", "[Path]\nPathExists=/x\nMakeDirectory=yes\n"},
		{"billing.target", "[Service]\nUser=billing\n"},
	} {
		if err := checkUnit(c.name, c.content, unitTestRules); err == nil {
			t.Errorf("%s was accepted with %q", c.name, c.content)
		}
	}
}

func TestAllowRootLiftsTheUserButNotTheNameSpace(t *testing.T) {
	root := UnitRules{AppRoot: "/opt/slipway/billing", AllowRoot: true}
	if err := checkUnit("billing.service", "[Service]\nExecStart=+/bin/sh -c x\nBindPaths=/a\nUser=root\n", root); err != nil {
		t.Error(err)
	}
	for _, line := range []string{"[Unit]\nConflicts=ssh.service", "[Install]\nAlias=ssh.service", "[Install]\nWantedBy=ssh.service", "Sockets=ssh.socket"} {
		if err := checkUnit("billing.service", "[Service]\nExecStart=/bin/x\n"+line+"\n", root); err == nil {
			t.Errorf("%q was accepted", line)
		}
	}
}

func TestCheckUnitReportsEveryProblemWithItsLine(t *testing.T) {
	err := checkUnit("billing.service", "[Service]\nUser=root\nExecStart=/bin/sh\n", unitTestRules)
	for _, want := range []string{"billing.service", "line 2: User=", "line 3: ExecStart="} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}

func TestRenderAndInstallReadTheSameUnit(t *testing.T) {
	text := RenderUnit([]byte(goodService), UnitVars{Current: "/opt/slipway/billing/current", App: must(ParseApp("billing"))})
	if s := string(text); strings.Contains(s, "@current@") || !strings.Contains(s, "ExecStart=/opt/slipway/billing/current/bin/billing") || !strings.Contains(s, "--name billing") {
		t.Errorf("rendered: %s", s)
	}
	if links := UnitInstall(text); len(links.WantedBy) != 1 || links.WantedBy[0] != "multi-user.target" || links.RequiredBy != nil {
		t.Errorf("links: %v", links)
	}
}

func FuzzCheckUnit(f *testing.F) {
	f.Add(goodService)
	f.Add("[Service]\nUser=billing\nExecStart=@current@/x \\\n y\n")
	f.Fuzz(func(t *testing.T, content string) {
		if err := checkUnit("billing.service", content, unitTestRules); err != nil || strings.Contains(content, "\\") {
			return
		}
		for _, line := range strings.Split(content, "\n") {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "Exec") && strings.Contains(line, "=/bin/") {
				t.Errorf("accepted %q", content)
			}
		}
		UnitInstall([]byte(content))
	})
}
