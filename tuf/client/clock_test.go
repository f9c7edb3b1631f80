package client

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/tuf/tuftest"
)

func TestAClockThatStepsBackBeyondToleranceIsRefusedAlsoAfterARestart(t *testing.T) {
	repo, _ := billing(t)
	clock := time.Now()
	now := at(func() time.Time { return clock })
	c := newClient(t, repo, now)
	refresh(t, c)
	lookup(t, c, release1)
	clock = clock.Add(-4 * time.Minute)
	refresh(t, c)
	clock = clock.Add(-2 * time.Minute)
	for _, c := range []*Client{c, newClient(t, repo, inDir(c.cfg.Dir), now)} {
		if e := refuseRefresh[*ErrClock](t, c); e.Unsynced || e.File == "" {
			t.Fatal(e)
		}
		_, err := c.Lookup(context.Background(), release1)
		refused[*ErrClock](t, err)
	}
	clock = clock.Add(2 * time.Minute)
	refresh(t, c)
}

func TestTheErrorOfAWrongClockSaysHowToGoOn(t *testing.T) {
	repo, _ := billing(t)
	c := newClient(t, repo, later(10*24*time.Hour))
	refresh(t, c)
	back := newClient(t, repo, inDir(c.cfg.Dir))
	e := refuseRefresh[*ErrClock](t, back)
	if err := os.Remove(e.File); err != nil {
		t.Fatal(err)
	}
	refresh(t, newClient(t, repo, inDir(c.cfg.Dir)))
}

func TestATimestampFromTheFutureShowsThatTheClockIsBehindButIsNotRemembered(t *testing.T) {
	ahead := time.Now().Add(time.Hour)
	repo := tuftest.NewAt(t, func() time.Time { return ahead })
	c := newClient(t, repo)
	if e := refuseRefresh[*ErrClock](t, c); e.File != "" {
		t.Fatal(e)
	}
	ahead = time.Now()
	repo.PublishTimestamp()
	refresh(t, c)
}

func TestAnUnsynchronisedClockIsWaitedForOrRefused(t *testing.T) {
	repo, _ := billing(t)
	synced := false
	clock := func(c *Config) { c.Clock.Synced = func() bool { return synced } }
	if e := refuseRefresh[*ErrClock](t, newClient(t, repo, clock)); !e.Unsynced {
		t.Fatal(e)
	}
	refresh(t, newClient(t, repo, clock, func(c *Config) {
		c.Clock.Wait = func(context.Context) error { synced = true; return nil }
	}))
	synced = false
	given := errors.New("gave up")
	_, err := newClient(t, repo, clock, func(c *Config) { c.Clock.Wait = func(context.Context) error { return given } }).Refresh(context.Background())
	if !errors.Is(err, given) {
		t.Fatal(err)
	}
}

func TestTheLatestTimeIsPersistedOnlyNowAndThen(t *testing.T) {
	repo, _ := billing(t)
	clock := time.Now()
	c := newClient(t, repo, at(func() time.Time { return clock }))
	refresh(t, c)
	first := c.latestDisk
	clock = clock.Add(59 * time.Minute)
	refresh(t, c)
	if !c.latestDisk.Equal(first) {
		t.Fatal("written too often")
	}
	clock = clock.Add(2 * time.Minute)
	refresh(t, c)
	if !c.latestDisk.Equal(clock.UTC()) {
		t.Fatal("not written")
	}
}
