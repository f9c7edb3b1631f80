// Package etcd keeps a hub's data in etcd v3: the [Store] over a cluster, and a member in this very process for a small fleet.
//
// Both are the same store: a fleet that outgrows its one hub takes a snapshot, restores it into a cluster and changes the
// hub's configuration, and nothing else. Only the hub links this package: hosts never speak to etcd and hold no credentials for
// it.
package etcd
