// Package agent is the machine that takes an app from one release to the next and back.
//
// # Life of a release
//
//  1. refresh   The source brings signed metadata up to date. Nothing else in this package trusts the network.
//  2. resolve   The deployment signed for (environment, app) names a release; the release document is read by its digest.
//  3. stage     The archive is fetched, verified against the manifest, unpacked, synced and stamped. It is inert.
//  4. gate      Every gate looks at the staged tree.
//  5. wait      rollout.Decide says whether this host may go now, and if not, why not and until when.
//  6. activate  Rehearse the fallback, save the attempt, arm the guard, swap `current`, install units, restart.
//  7. trial     Health is watched until the release was healthy long enough or a deadline passes.
//  8. commit    The release is known good. Or:
//  9. revert    Swap back, reinstall the fallback's units, restart, watch, quarantine the release with its cause.
//
// One Machine runs one app in one goroutine; apps share nothing but the source. The phases and their legal steps are in
// agent/state; every step is saved before its effect, so that whoever comes next (this daemon restarted, the guard, the
// boot guardian) can finish or undo it from the links and the state file alone. There is exactly one way back: revert.go.
//
// Words: release, stage, gate, activate, trial, commit, revert, hold, quarantine. "Rollback" is an attack on metadata and
// never used for an action of ours.
package agent
