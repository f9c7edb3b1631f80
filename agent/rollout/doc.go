// Package rollout answers one question: may this host go now, and if not, until when and why not. It is pure: values in, a
// decision out. It reads no clock, no network and no file of ours (zone rules come from the system or from the embedded copy).
//
// [Decide] looks at a deployment in this order. The first four settle what there is to do:
//
//  1. deployment, environment: without a verified deployment of the host's own environment nothing is done at all.
//  2. revoked: a running release whose digest is revoked follows the signed on_revoked (keep, revert, stop), at once.
//  3. revert: state "revert" takes hosts that run the release to the fallback. Waves, windows, freezes, expiry, freshness,
//     emergency stops and holds never delay it; a healthy host is paced by the signed revert policy, an unhealthy one is not.
//     A hub's order to go back counts like that, with a slot of its own, if the signers let a hub order it: once in a rollout, from
//     the deployment's release to its signed fallback, and never where the coordinator is tighten_only.
//  4. up-to-date: the host runs what is wanted, or has nothing to remove.
//
// A start (activation of the release, or removal if the deployment says absent) passes only if none of these says wait:
//
//  5. state: paused and halted start nothing.
//  6. metadata: some role's metadata has expired.
//  7. emergency: the emergency document has expired.
//  8. clock: the clock is not trusted, or is behind the repository's.
//  9. not-before and expires: the deployment's own span.
//  10. freshness: the timestamp was issued too long ago for a start.
//  11. emergency (halt, freeze), revoked, minimum: what on-call signed, until it ends.
//  12. quarantine: this host tried this digest and hauled it back.
//  13. hold: an operator of this host said so.
//  14. inventory: the pinned inventory is missing, another one, or does not list the host.
//  15. wave, advance: no wave selects the host, its wave needs a signed max_wave, or the host's place in it is still to come.
//  16. freeze and window: the signed calendar; a freeze beats a window.
//  17. coordinator: asked last, so that a host never sits on a slot it cannot use.
//
// All of them are asked and the most conservative wins: one without a known end before any with one, then the latest. No
// rule can make up for another, so adding a restriction never makes a host act earlier. What a signed document demands as
// proof (a fresh timestamp, the pinned inventory, a slot) is missing until it is shown. A local "apply" is deliberately not
// an input.
//
// # Order of hosts
//
// [Position] is the published place of a host: docs/schemas/fleet-order.vectors.json holds test vectors for other implementations. Without an
// inventory a percent wave takes the hosts below its cumulative share, exact only on average. With the pinned inventory
// hosts are ranked: sorted by position, sites (combinations of the budget's group_by labels) interleaved in proportion, and
// waves take exact counts. A host starts at the wave's floor plus its share of the spread, counted from the wave's own first
// host, so starts are even within a wave and none lies past its end.
package rollout
