//go:build race

package hub_test

// raced says that the race detector watches, which makes a history ten times as expensive. It is there for data races, and
// one history has all of them; that the simulator judges well is for the run without it.
const raced = true
