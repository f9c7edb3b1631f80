// Package repository owns the publisher's side of a Slipway repository: a directory, and changes to it that people sign.
//
//	R/metadata/     published metadata: N.<role>.json and timestamp.json; with targets/ it is what a mirror serves
//	R/targets/      published files under hash-prefixed names: <dir>/<sha256>.<base>
//	R/changes/<id>/ one folder per open change (see Change); changes/published/ keeps what was signed by whom
//	R/policy.json   lifetimes, online keys, templates of environments: defaults of the tools, trusted by nobody
//
// Every mutation is a change: unsigned payloads, the versions they were made from, and detached signatures. Publish takes
// complete changes, checks them as a client would, and replaces the timestamp last. Private keys are never in R.
//
// A delegated role has no metadata until something is signed in it: an app that was never released, an environment that never
// had an emergency, are listed in targets and absent from the snapshot.
package repository
