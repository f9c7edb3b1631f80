// Package client is the host's side of TUF: it says which bytes the repository's keys vouch for, and fetches them.
//
// A Client starts from one pinned root.json and believes nothing else. Refresh follows new roots and brings timestamp,
// snapshot and targets up to date; Lookup finds a target through the delegations; Read, Fetch and Download get its bytes.
// All outside bytes are bounded before they are read, hashed while they are read and parsed behind a guard, so that a
// mirror, a person in the middle or a holder of one online key can make a request fail but not the daemon.
//
// # What is remembered
//
// Everything verified is kept as exact bytes under its checksum, with one index that says what belongs together. Apart from
// the index, floors remember the highest versions seen: losing the cache is no way to roll a host back. Specification 5.3.11
// clears them when a timestamp or snapshot key is rotated out, and nothing else does. Whatever is damaged is fetched again,
// down to the pinned root.
//
// # Time
//
// Expiry is judged by the host's clock, and the clock by the latest time at which everything verified. Trusted.Issued is when
// the timestamp was signed. A poll that finds nothing new costs one conditional request, verifies nothing and renews no age.
//
// # Errors
//
// Every refusal has a type of its own with a Kind. ErrNotFound is only ever said by verified metadata. With several mirrors
// the error holds each one's; errors.As finds any of them.
package client
