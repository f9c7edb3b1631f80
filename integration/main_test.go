// Package integration tells stories on real systemd hosts with the built packages.
package integration

import (
	"os"
	"testing"

	"github.com/slipway-deploy/slipway/agent/hub/etcd/etcdtest"
	"github.com/slipway-deploy/slipway/integration/lab"
)

// atExit is what has to go when all tests are over.
var atExit []func()

func TestMain(m *testing.M) {
	code := lab.Main(m)
	etcdtest.Clean()
	for _, f := range atExit {
		f()
	}
	os.Exit(code)
}
