package main

import "testing"

func TestAnApproverLeavesAndAnotherComes(t *testing.T) {
	s := newShell(t)
	s.published()
	s.expect(0, "key gen dan --unencrypted")
	s.expect(2, "role set deploy.production.billing --add-key dan.pub", "reason")
	s.expect(2, "role set deploy.production.billing --expires soon --reason tired", "--expires")
	s.expect(3, "role set deploy.production.billing --remove-key ben --reason left", "cannot ask deploy.production.billing for 2 of 2", "--allow-no-spare")
	s.expect(3, "role set deploy.production.billing --threshold 0 --reason tired", "for 0 signatures")
	s.expect(0, "role set deploy.production.billing --remove-key ben --add-key dan.pub --reason left --sign alice --sign bob",
		"remove ben", "add dan", "because: left", "targets: 2 of 2")
	s.expect(0, "publish")
	s.expect(0, "status", "deploy.production.billing")
	s.expect(0, "role set root --expires 100d --reason audit --sign alice --sign carol", "expires after 100d", "root: 2 of 2")
	s.expect(0, "publish")
	s.expect(0, "verify")
}
