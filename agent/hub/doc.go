// Package hub decides who in a fleet may be unavailable next, and keeps that decision true through crashes, partitions and
// operators.
//
// All truth is in a [Store]: a strictly serialisable map with revisions. A hub process is stateless; any number of them may
// work on one store. Every decision is one transaction that compares what it was based on, so no leader of ours, no clock
// and no lease stands between the budget and the hosts.
package hub
