package client

import (
	"context"
	"time"
)

// clockInterval is how far the persisted latest time may lag behind; a crash forgets at most that much.
const clockInterval = time.Hour

// awaitClock lets a host that just booted wait for its time source, outside every lock.
func (c *Client) awaitClock(ctx context.Context) error {
	clock := c.cfg.Clock
	if clock.Synced == nil || clock.Synced() {
		return nil
	}
	if clock.Wait == nil {
		return &ErrClock{Now: clock.Now(), Unsynced: true}
	}
	c.log.Info("waiting for the clock to be synchronised")
	return clock.Wait(ctx)
}

// now is the time that expiry is judged by. A clock that stepped back could make lapsed metadata look valid.
func (c *Client) now() (time.Time, error) {
	now := c.cfg.Clock.Now().UTC()
	if now.Before(c.latest.Add(-c.cfg.MaxClockStep)) {
		return now, &ErrClock{Now: now, Latest: c.latest, File: c.cache.path("clock"), Reason: "metadata was verified here at"}
	}
	return now, nil
}

// plausible compares the clock with the signed time of issue. That time is never remembered: a stolen online key must not be
// able to stop a host's clock for good.
func (c *Client) plausible(issued, now time.Time) error {
	if issued.After(now.Add(c.cfg.MaxClockStep)) {
		return &ErrClock{Now: now, Latest: issued, Reason: "the timestamp was issued at"}
	}
	return nil
}

// keepTime remembers a time at which everything verified.
func (c *Client) keepTime(now time.Time, changed bool) {
	if now.After(c.latest) {
		c.latest = now
	}
	if !c.latest.After(c.latestDisk) || !changed && c.latest.Sub(c.latestDisk) < clockInterval {
		return
	}
	at := c.latest
	c.latestDisk = at
	c.inBackground(func() error {
		_, err := c.cache.save(fpClock, "clock", at)
		return err
	})
}
