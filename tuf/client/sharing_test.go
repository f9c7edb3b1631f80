package client

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

func TestADaemonAndACommandShareOneCacheDirectory(t *testing.T) {
	repo, _ := billing(t)
	daemon := newClient(t, repo)
	command := newClient(t, repo, inDir(daemon.cfg.Dir))
	refresh(t, daemon)
	repo.AddTarget("app.billing", release1, []byte("two"))
	repo.Publish()
	if got := refresh(t, command); got.Timestamp != 3 {
		t.Fatalf("%+v", got)
	}
	if got, err := daemon.Trusted(); err != nil || got.Timestamp != 3 {
		t.Fatalf("the daemon did not see what the command refreshed: %+v %v", got, err)
	}
	if read(t, daemon, release1) != "two" {
		t.Fatal("wrong bytes")
	}
}

func TestManyClientsOnOneDirectoryNeverDisturbEachOther(t *testing.T) {
	repo, _ := billing(t)
	first := newClient(t, repo)
	refresh(t, first)
	var group sync.WaitGroup
	for i := range 4 {
		c := newClient(t, repo, inDir(first.cfg.Dir))
		group.Go(func() {
			for n := range 5 {
				if i == 0 {
					repo.AddTarget("app.billing", fmt.Sprintf("releases/billing/%d/release.json", n), []byte("x"))
					repo.Edit(metadata.TARGETS, func(*metadata.TargetsType) {})
					repo.Publish()
				}
				if _, err := c.Refresh(context.Background()); err != nil {
					t.Error(err)
				}
				if _, err := c.Lookup(context.Background(), release1); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if got := refresh(t, newClient(t, repo, inDir(first.cfg.Dir))); got.Timestamp != 7 {
		t.Fatalf("%+v", got)
	}
}

func TestARefreshWaitsForTheDirectorysLockOnlyAsLongAsItsContext(t *testing.T) {
	repo, _ := billing(t)
	c := newClient(t, repo)
	held, err := durable.AcquireLock(context.Background(), c.cache.path("lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Refresh(ctx); err == nil {
		t.Fatal("refreshed without the lock")
	}
	if _, err := c.Trusted(); err != nil {
		refused[*ErrNoTrust](t, err) // reading needs no lock
	}
}

func TestWhatIsTrustedIsToldWhileARefreshIsUnderWay(t *testing.T) {
	repo, _ := billing(t)
	c := newClient(t, repo)
	before := refresh(t, c)
	unlock, err := c.lock(context.Background()) // as a refresh does
	if err != nil {
		t.Fatal(err)
	}
	c.set = nil // a set that is being replaced
	for range 2 {
		got, err := c.Trusted()
		if err != nil || got.Timestamp != before.Timestamp || !got.Expires[metadata.TIMESTAMP].Equal(before.Expires[metadata.TIMESTAMP]) {
			t.Fatalf("%+v %v", got, err)
		}
		clear(got.Expires) // the caller's own
	}
	unlock()
	repo.AddTarget("app.billing", release1, []byte("two"))
	repo.Publish()
	if refresh(t, c); c.told.Load().trusted.Timestamp <= before.Timestamp {
		t.Fatalf("told is %+v after the refresh", c.told.Load().trusted)
	}
}

func TestWhatIsTrustedIsToldFromTheCacheDuringTheVeryFirstRefresh(t *testing.T) {
	repo, _ := billing(t)
	first := newClient(t, repo)
	want := refresh(t, first)
	c := newClient(t, repo, inDir(first.cfg.Dir))
	release, err := c.lockMemory(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	answer := make(chan Trusted, 1)
	go func() {
		got, err := c.Trusted()
		if err != nil {
			t.Error(err)
		}
		answer <- got
	}()
	select {
	case got := <-answer:
		t.Fatalf("told %+v before the cache was read", got)
	case <-time.After(20 * time.Millisecond):
	}
	c.load()
	c.tell()
	if got := <-answer; got.Timestamp != want.Timestamp {
		t.Fatalf("%+v", got)
	}
	release()
}
