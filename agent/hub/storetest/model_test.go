package storetest

import (
	"fmt"
	"testing"

	"github.com/slipway-deploy/slipway/agent/hub"
)

func TestTheModelKeepsTheContract(t *testing.T) {
	m, n := NewModel(), 0
	Run(t, func(t *testing.T) (hub.Store, func()) {
		n++
		name := fmt.Sprint("client-", n)
		return m.Client(name), func() { m.Expire(name) }
	})
}
