// Package integration tells stories on real systemd hosts with the built packages.
package integration

import (
	"os"
	"testing"

	"github.com/slipway-deploy/slipway/integration/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }
