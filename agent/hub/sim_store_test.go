package hub_test

import (
	"context"
	"fmt"
	"time"

	"github.com/slipway-deploy/slipway/agent/hub"
)

// simStore is a hub's connection to the one store of a world. Every call takes time on the way there and on the way back,
// and may fail on either: before anything happened, or after it did.
type simStore struct {
	w   *world
	hub *simHub
}

var errCut = fmt.Errorf("%w: no answer", hub.ErrUnavailable)

// there is the way to the store.
func (s *simStore) there() error {
	s.w.sleep(s.w.between(0, 3*time.Millisecond))
	if s.w.storeDown || s.hub.noStore || s.w.chance(s.w.storeLoss) {
		s.w.sleep(s.w.between(time.Second, 5*time.Second))
		return errCut
	}
	return nil
}

// back is the way from it.
func (s *simStore) back() error {
	if s.w.check != nil {
		s.w.check.advance()
	}
	s.w.sleep(s.w.between(0, 3*time.Millisecond))
	if s.w.chance(s.w.storeLoss) {
		s.w.sleep(s.w.between(time.Second, 5*time.Second))
		return errCut
	}
	return nil
}

// Get implements hub.Store.
func (s *simStore) Get(ctx context.Context, keys ...string) ([]hub.Item, int64, error) {
	if err := s.there(); err != nil {
		return nil, 0, err
	}
	items, rev, err := s.hub.direct.Get(ctx, keys...)
	if err != nil {
		return nil, 0, err
	}
	return items, rev, s.back()
}

// Range implements hub.Store.
func (s *simStore) Range(ctx context.Context, prefix string) ([]hub.Item, int64, error) {
	if err := s.there(); err != nil {
		return nil, 0, err
	}
	items, rev, err := s.hub.direct.Range(ctx, prefix)
	if err != nil {
		return nil, 0, err
	}
	return items, rev, s.back()
}

// Commit implements hub.Store.
func (s *simStore) Commit(ctx context.Context, t hub.Txn) (hub.Result, error) {
	if err := s.there(); err != nil {
		return hub.Result{}, err
	}
	res, err := s.hub.direct.Commit(ctx, s.w.sabotage.committed(t))
	if err != nil {
		s.w.fail("the store refuses a transaction: %v", err)
		return res, err
	}
	return res, s.back()
}

// Watch is not used: the world feeds its hubs itself, as late as it likes.
func (s *simStore) Watch(context.Context, string, int64, func(hub.Change)) error { return errCut }
