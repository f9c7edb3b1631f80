// Package fleet is the wire between hosts, operators and a coordinator, and the host's side of it.
//
// A coordinator hands out slots: the right to be unavailable for the length of one update, as one of the few that a signed
// budget allows. It can make a host wait, and stop a rollout. It cannot make a host run anything: the host reads the
// deployment itself, through TUF, and a slot only answers the last of the questions that agent/rollout asks.
//
// Two protocols are spoken. Kind "hub" is ours: JSON over HTTPS with a certificate on both sides; the hub takes who is asking
// from the certificate, never from the body. Kind "fleetlock" is FleetLock v1, a semaphore with two requests, for sites that
// have a server of it already.
//
// # One update in requests
//
//	turn    "may I go forward?"            → wait, because … | granted, fence 4711
//	check   just before the swap           → ok, for 30 s    | no: halted, paused, not your slot
//	finish  "committed" / "reverted" / …   → accepted | stale: that fence is not yours any more
//
// A host asks for a slot last, when nothing else is in its way, makes the fence durable before it acts on it, and repeats
// finish until it is answered. The same question gets the same answer: a host that crashed asks again and is given the fence
// it already has. Between updates the host keeps asking turn without wanting anything; that is how the hub learns what runs
// and the host learns that a rollout is being taken back, or that there is news to fetch.
package fleet
