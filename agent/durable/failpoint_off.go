//go:build !failpoints

package durable

// FailpointsBuilt says whether this binary honours SLIPWAY_FAILPOINT. A release build must not.
const FailpointsBuilt = false

// Hit does nothing and is inlined away. With the tag `failpoints` it may not return.
func (*Failpoint) Hit() error { return nil }
