package client

import (
	"context"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

func TestIndefiniteFreezeEndsWhenTheTimestampLapses(t *testing.T) {
	repo, _ := billing(t)
	clock := time.Now()
	c := newClient(t, repo, mirrors(repo.Frozen()), at(func() time.Time { return clock }))
	first := refresh(t, c)
	repo.PublishTimestamp()
	clock = clock.Add(29 * 24 * time.Hour)
	if got := refresh(t, c); got.Changed || !got.Issued.Equal(first.Issued) {
		t.Fatalf("an old timestamp looks younger: %+v", got)
	}
	clock = clock.Add(2 * 24 * time.Hour)
	refuseRefresh[*ErrExpired](t, c)
	_, err := c.Lookup(context.Background(), release1)
	refused[*ErrExpired](t, err)
	if _, err := c.Trusted(); err != nil {
		t.Fatal("expiry must not take away what is known", err)
	}
}

func TestIndefiniteFreezeOfOneRoleNamesIt(t *testing.T) {
	past := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	for _, role := range []string{metadata.ROOT, metadata.TIMESTAMP, metadata.SNAPSHOT, metadata.TARGETS, "app.billing"} {
		t.Run(role, func(t *testing.T) {
			repo, _ := billing(t)
			switch role {
			case metadata.ROOT:
				repo.EditRoot(func(m *metadata.RootType) { m.Expires = past })
			case metadata.TIMESTAMP, metadata.SNAPSHOT:
				repo.EditOnline(func(sn *metadata.SnapshotType, ts *metadata.TimestampType) {
					if ts.Expires = past; role == metadata.SNAPSHOT {
						ts.Expires, sn.Expires = past.Add(48*time.Hour), past
					}
				})
			default:
				repo.Edit(role, func(m *metadata.TargetsType) { m.Expires = past })
			}
			repo.Publish()
			c := newClient(t, repo)
			_, err := c.Refresh(context.Background())
			if err == nil {
				_, err = c.Lookup(context.Background(), release1)
			}
			if e := refused[*ErrExpired](t, err); e.Role != role || !e.At.Equal(past) {
				t.Fatal(e)
			}
		})
	}
}
