// Package hub decides who in a fleet may be unavailable next, and keeps that decision true through crashes, partitions and
// operators.
//
// All truth is in a [Store]: a strictly serialisable map with revisions. A hub process is stateless; any number of them may
// work on one store. Every decision is one transaction that compares what it was based on, so no leader of ours, no clock
// and no lease stands between the budget and the hosts.
//
// # Keys, under /slipway/v1/<fleet>/
//
//	halt                              there while the whole fleet is halted
//	rollout/<env>/<app>               digest of the plan, state, open wave, limits, failures: who may go depends on nothing else
//	slot/<env>/<app>/<cell>/<n>       one unit of a cell's budget, numbered below the limit: whose it is
//	hold/<env>/<app>/<host>           the host's grant with its slots, made and deleted with them; its first revision is the fence
//	host/<env>/<app>/<host>           what the host last told, how its updates ended, the highest fence that is over
//	tally/<env>/<app>/<rollout>/<hub> how hosts ended, by wave, as far as that hub wrote it down
//	hub/<id>, sweeper                 presence; they go away with the process
//	audit/<n>, audit-head             the operators' log, hash-chained
//
// # Transactions
//
//	grant    if halt is absent, rollout and host are as read, hold and slots are absent   → put hold, slots, tally
//	check    reads halt, rollout and hold in one snapshot; writes nothing
//	finish   if hold and host are as read                                                → delete hold, slots; put host, tally
//	failure  the same, if rollout is as read                                             → and put rollout, halted at the limit
//	sweep    if hold, host and rollout are as read, past the deadline                    → put hold as lost, host, tally, rollout
//	promote  if rollout and all its tallies are as read                                  → put rollout, audit
//	act      if rollout (or halt) and audit-head are as read                             → put it, audit
//
// A slot is never freed by time. A host that is silent past its deadline is lost: it counts as failed and goes on using the
// budget until it reports, an operator forgets it, or the signed inventory no longer lists it.
//
// Many requests of one group share a transaction: shared keys are compared and written once for all of them.
package hub
