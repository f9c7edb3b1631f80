package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/slipway-deploy/slipway/agent/release"
)

// answers runs a command whose questions a person answers, one line each.
func (s *shell) answers(code int, line, typed string, want ...string) {
	s.t.Helper()
	var out, err bytes.Buffer
	got := run(context.Background(), strings.Fields(line), streams{in: strings.NewReader(typed), out: &out, err: &err})
	s.out, s.err = out.String(), err.String()
	if got != code {
		s.t.Fatalf("slipway-repo %s\nexit %d, want %d\n%s%s", line, got, code, s.out, s.err)
	}
	for _, w := range want {
		if !strings.Contains(s.out+s.err, w) {
			s.t.Errorf("slipway-repo %s\nno %q in\n%s%s", line, w, s.out, s.err)
		}
	}
}

const billingPath = "deployments/production/billing.json"

// follows asserts that hosts of every age believe what is published, and that verify agrees.
func (s *shell) follows(hosts ...*machine) {
	s.t.Helper()
	for i, h := range append(hosts, s.machine()) {
		if h.sees(billingPath) == nil {
			s.t.Errorf("host %d does not find %s", i+1, billingPath)
		}
	}
	s.expect(0, "verify --payloads")
}

func TestRootIsRotatedByQuestionsOnSeveralDays(t *testing.T) {
	s := newShell(t)
	old := s.deployed()
	old.sees(billingPath)
	s.expect(0, "key gen dora --unencrypted")
	s.answers(2, "rotate root", "", "root is signed by 2 of", "say what changes", "--remove-key KEY")
	s.answers(2, "rotate root", "bob\ndora.pub\nmany\nworn out\n", `"many" is not a number`)
	s.answers(3, "rotate root", "zoe\ndora.pub\n\nworn out\n\n", "0 keys match")
	s.answers(3, "rotate root", "bob\n\n\nworn out\n\n", "would end the role")
	s.answers(3, "rotate root", "bob\ndora.pub\n\n\n\n", "without a reason")
	s.answers(0, "rotate root", "bob\ndora.pub\n\nworn out\nalice\n",
		"Which keys leave?", "signed root with alice", "1. [done]", "2. [done]", "3. [now] have it signed", "root: 1 of 2", "change sign", "5. [later]")
	s.expect(3, "rotate root --remove-key carol --reason again", "is open")
	s.answers(0, "rotate root", "", "3. [now]", "root: 1 of 2, missing one of")
	s.answers(0, "rotate root --sign carol", "n\n", "4. [now] check as hosts do, and publish", "Publish now?", "not published")
	s.answers(0, "rotate root", "y\n", "published", "keep all N.root.json", "destroy the old key")
	s.expect(0, "role show root", "dora")
	s.follows(old)
	s.answers(2, "rotate root", "", "say what changes")
}

func TestARotationByFlagsNeedsNoQuestions(t *testing.T) {
	s := newShell(t)
	old := s.deployed()
	old.sees(billingPath)
	s.expect(0, "key gen online2 --unencrypted")
	s.answers(0, "rotate online --remove-key online --add-key online2.pub --use-online online2 --reason yearly --sign alice --json", "")
	var w struct {
		Complete bool
		Steps    []struct{ State string }
	}
	if err := json.Unmarshal([]byte(s.out), &w); err != nil || w.Complete || len(w.Steps) != 5 || w.Steps[2].State != "now" {
		t.Errorf("%v: %s", err, s.out)
	}
	s.answers(0, "rotate online --sign bob --yes", "", "published", "hosts forget the versions")
	s.expect(0, "refresh --force", "signed timestamp")
	s.follows(old)
	s.answers(3, "rotate app.shop", "", "cannot find role app.shop")
	s.expect(0, "key gen ci2 --unencrypted")
	s.answers(0, "rotate app.billing --remove-key ci --add-key ci2.pub --reason yearly --sign alice --sign bob --sign ci2 --yes", "",
		"app.billing has no spare key", "published")
	s.follows(old)
}

// TestAnOnlineKeyIsStolen is the runbook's page of that name.
func TestAnOnlineKeyIsStolen(t *testing.T) {
	s := newShell(t)
	old := s.deployed()
	old.sees(billingPath)
	if err := os.CopyFS("thief", os.DirFS("repo")); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		s.expect(0, "refresh --force -C thief")
	}
	if err := os.Rename("repo", "ours"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename("thief", "repo"); err != nil {
		t.Fatal(err)
	}
	old.sees(billingPath)
	if err := os.Rename("repo", "thief"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename("ours", "repo"); err != nil {
		t.Fatal(err)
	}
	s.expect(1, "recover diagnose --stolen online --seen timestamp=11", "URGENT stolen: 1 stolen keys sign timestamp", "hold news back",
		"URGENT fast-forward: hosts have seen version 11 of timestamp", "revoke online --replace-with NEW.pub --use-online NEW")
	s.expect(0, "key gen online2 --unencrypted")
	s.expect(0, "revoke online --replace-with online2.pub --use-online online2 --reason stolen --sign alice --sign carol", "root: 2 of 2")
	s.expect(0, "publish --online-key online2")
	s.expect(0, "refresh --force")
	s.follows(old)
	s.expect(0, "recover diagnose", "nothing is wrong")
}

func TestADeployKeyIsStolenAndItsSequenceTakenBack(t *testing.T) {
	s := newShell(t)
	old := s.deployed()
	s.expect(0, "recover sequence production billing --above 5000 --reason trust-me --sign ann --sign ben", "sequence 5001")
	s.expect(0, "publish")
	old.sees(billingPath)
	s.expect(1, "recover diagnose", "URGENT leap: the sequence of deploy.production.billing leapt from 1 to 5001", "trust-me", "1. ask the signers")
	s.expect(0, "key gen ann2 --unencrypted")
	s.expect(0, "key gen ben2 --unencrypted")
	s.expect(3, "recover sequence production billing --reason back", "revoke the stolen keys among them")
	s.expect(0, "revoke ann --replace-with ann2.pub --reason stolen")
	id := strings.Fields(s.out)[0]
	s.expect(0, "revoke ben --replace-with ben2.pub --reason stolen --change "+id)
	s.expect(0, "recover sequence production billing --reason back --change "+id+" --sign alice --sign bob --sign cem --sign ann2",
		"sequence 2 again as in version 1, back from 5001", "targets: 2 of 2", "deploy.production.billing: 2 of 2")
	s.expect(0, "publish "+id)
	d, err := release.ParseDeployment(old.sees(billingPath))
	if err != nil || d.Sequence != 2 || d.Reason != "back" {
		t.Errorf("a host reads %+v: %v", d, err)
	}
	s.follows(old)
	s.expect(0, "recover diagnose", "nothing is wrong")
	s.expect(2, "recover diagnose --seen timestamp", "write ROLE=VERSION")
	s.expect(1, "recover diagnose --seen sequence:production/billing=41 --json", `"kind": "fast-forward"`)
}

func TestAnEpochIsTakenBackWithTheStolenEmergencyKey(t *testing.T) {
	s := newShell(t)
	old := s.deployed()
	s.expect(0, "emergency halt production --reason ours --sign oncall")
	s.expect(0, "recover epoch production --above 5000 --reason trust-me --sign oncall")
	s.expect(0, "publish")
	s.expect(0, "key gen oncall2 --unencrypted")
	s.expect(0, "revoke oncall --replace-with oncall2.pub --reason stolen --sign alice --sign bob")
	id := strings.Fields(s.out)[0]
	s.expect(0, "recover epoch production --reason back --change "+id+" --sign oncall2", "epoch 2 again as in version 1", "keeps halt all apps")
	s.expect(0, "publish "+id)
	e, err := release.ParseEmergency(old.sees("emergency/production.json"))
	if err != nil || e.Epoch != 2 || len(e.Entries) != 1 {
		t.Errorf("a host reads %+v: %v", e, err)
	}
	s.follows(old)
}

func TestOneRootKeyIsLost(t *testing.T) {
	s := newShell(t)
	old := s.deployed()
	old.sees(billingPath)
	s.expect(1, "recover diagnose --lost carol", "lost: root has 2 of its 3 keys left and needs 2", "hosts: notice nothing", "1. slipway-repo revoke carol --replace-with NEW.pub")
	s.expect(0, "key gen dora --unencrypted")
	s.expect(0, "revoke carol --replace-with dora.pub --reason lost --sign alice --sign bob", "root: 2 of 2")
	s.expect(0, "publish")
	s.follows(old)
	s.expect(1, "recover diagnose --lost alice --lost bob", "URGENT root-lost", "by hand")
}
