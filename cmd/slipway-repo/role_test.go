package main

import (
	"encoding/json"
	"testing"
)

func TestAnApproverLeavesAndAnotherComes(t *testing.T) {
	s := newShell(t)
	s.published()
	s.expect(0, "key gen dan --unencrypted")
	s.expect(2, "role set deploy.production.billing --add-key dan.pub", "reason")
	s.expect(2, "role set deploy.production.billing --expires soon --reason tired", "--expires")
	s.expect(3, "role set deploy.production.billing --remove-key ben --reason left", "cannot ask deploy.production.billing for 2 of 2", "--allow-no-spare",
		"rule: a key can be lost")
	s.expect(3, "role set deploy.production.billing --threshold 0 --reason tired", "for 0 signatures")
	s.expect(0, "role set deploy.production.billing --remove-key ben --add-key dan.pub --reason left --sign alice --sign bob",
		"remove ben", "add dan", "because: left", "targets: 2 of 2")
	s.expect(0, "publish")
	s.expect(0, "status", "deploy.production.billing")
	s.expect(0, "role set root --expires 100d --reason audit --sign alice --sign carol", "expires after 100d", "root: 2 of 2")
	s.expect(0, "publish")
	s.expect(0, "verify")
}

func TestRolesAreShownWithTheirKeys(t *testing.T) {
	s := newShell(t)
	s.published()
	s.expect(0, "role show deploy.production.billing", "deploy.production.billing: 2 of 3, named by targets version 3", "has signed nothing yet", "cem")
	s.expect(0, "role show --all", "root: 2 of 3, named by root version 1", "timestamp: 1 of 1", "app.billing: 1 of 1")
	s.expect(0, "role show targets --json")
	var roles []struct{ Role, By string }
	if err := json.Unmarshal([]byte(s.out), &roles); err != nil || len(roles) != 1 || roles[0].By != "root version 1" {
		t.Errorf("%v: %s", err, s.out)
	}
	s.expect(3, "role show app.shop", "cannot find role app.shop")
	s.expect(2, "role show")
	s.expect(2, "role show root --all")
}

func TestAStolenOnlineKeyIsRevokedAndReplaced(t *testing.T) {
	s := newShell(t)
	s.published()
	s.expect(0, "key gen online2 --unencrypted")
	s.expect(3, "revoke online --reason stolen", "snapshot needs 1 and would have 0", "timestamp needs 1 and would have 0", "--replace-with FILE.pub")
	s.expect(0, "revoke online.pub --reason stolen --replace-with online2.pub --use-online online2 --sign alice",
		"revoke online", "root: 1 of 2, missing one of bob")
	s.expect(0, "change list")
	s.expect(3, "revoke online --reason again --replace-with online2.pub", "is open")
	s.expect(3, "publish")
}

func TestAnApproversKeyIsRevokedEverywhere(t *testing.T) {
	s := newShell(t)
	s.published()
	s.expect(0, "key gen ben2 --unencrypted")
	s.expect(3, "revoke ben --reason stolen", "deploy.production.billing needs 2 and would have 2", "the template of production", "--replace-with FILE.pub")
	s.expect(0, "revoke ben --reason stolen --replace-with ben2.pub --sign bob --sign carol", "targets: 2 of 2")
	s.expect(0, "publish")
	s.expect(0, "role show deploy.production.billing", "ben2")
	s.expect(0, "app add shop --key ci.pub --sign alice --sign bob")
	s.expect(0, "publish")
	s.expect(0, "role show deploy.production.shop", "ben2")
	s.expect(0, "verify")
	s.expect(3, "revoke ben --reason stolen", "0 keys match")
}
