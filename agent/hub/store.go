package hub

import (
	"context"
	"errors"
)

// Store is a map from text to bytes whose transactions are strictly serialisable. Every change gets a revision that only
// grows; a key remembers the revision that made it and the one that last wrote it. etcd v3 is one, the simulator's model
// another; both must pass the contract in storetest.
//
// An error other than ErrUnavailable is a mistake of ours. After ErrUnavailable nobody knows whether a Commit happened: the
// caller reads again, and every transaction is made so that doing it twice shows.
type Store interface {
	// Get reads keys in one snapshot, missing ones as items with Mod 0, in the order asked.
	Get(ctx context.Context, keys ...string) ([]Item, int64, error)
	// Range reads all keys with a prefix in one snapshot, in the order of the keys.
	Range(ctx context.Context, prefix string) ([]Item, int64, error)
	// Commit applies t's puts and deletes if all its conditions hold, as one revision, durable before it returns. If one does
	// not hold, nothing happens and Result.Held is false. MaxOps bounds the number of conditions, and of operations.
	Commit(ctx context.Context, t Txn) (Result, error)
	// Watch calls f with every change under prefix after revision from, in order and none left out, until ctx ends. A revision
	// that the store no longer keeps is ErrCompacted: read again with Range and watch from there.
	Watch(ctx context.Context, prefix string, from int64, f func(Change)) error
}

// MaxOps is how many conditions and how many operations a transaction may have: etcd's own default limit.
const MaxOps = 128

// Bump is how far a restore from a backup moves the store's revision ahead. Grants are named by revision: without it a store
// that comes back would give the same names to other grants. It also shows the restore to every hub that reads it anew.
const Bump = 1_000_000_000

// ErrUnavailable says that the store did not answer, or not in time: no quorum, no network, a leader being elected.
var ErrUnavailable = errors.New("the store is unavailable")

// ErrCompacted says that a watch asked for a past the store no longer keeps.
var ErrCompacted = errors.New("the store no longer keeps that revision")

// Item is a key with its value. Created and Mod are revisions; a key that does not exist has zero for both.
type Item struct {
	Key          string
	Value        []byte
	Created, Mod int64
}

// Cond holds while Key was last written at revision Mod; zero means that it does not exist.
type Cond struct {
	Key string
	Mod int64
}

// Op puts Value under Key, or deletes Key if Value is nil. A key may be in a transaction once. A key with Temporary set is
// deleted by the store once the process that put it has been silent for some seconds.
type Op struct {
	Key       string
	Value     []byte
	Temporary bool
}

// Txn is one transaction.
type Txn struct {
	If   []Cond
	Then []Op
}

// Result says whether the conditions held, and the store's revision after the transaction.
type Result struct {
	Held     bool
	Revision int64
}

// Change is one revision's changes under a watched prefix; a deleted key is an item without value whose Created is zero.
type Change struct {
	Revision int64
	Items    []Item
}
