package signer

import "time"

// Hurry shortens how long programs are waited for.
func Hurry(answer, end time.Duration) (restore func()) {
	a, b := timeout, grace
	timeout, grace = answer, end
	return func() { timeout, grace = a, b }
}
