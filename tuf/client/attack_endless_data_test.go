package client

import (
	"context"
	"io"
	"testing"

	"github.com/slipway-deploy/slipway/tuf/tuftest"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

func TestEndlessDataEndsAtTheLimitOfEachRole(t *testing.T) {
	for file, limit := range map[string]int64{"2.root.json": 512 << 10, "timestamp.json": 16 << 10} {
		t.Run(file, func(t *testing.T) {
			repo, _ := billing(t)
			c := newClient(t, repo, mirrors(repo.Serve(tuftest.Endless(file))))
			if e := refuseRefresh[*ErrTooLarge](t, c); e.Limit != limit {
				t.Fatal(e)
			}
		})
	}
	repo, _ := billing(t)
	signed := int64(len(repo.Get("metadata/2.snapshot.json")))
	if e := refuseRefresh[*ErrTooLarge](t, newClient(t, repo, mirrors(repo.Serve(tuftest.Endless("snapshot.json"))))); e.Limit != signed {
		t.Fatal("a signed length must lower the limit", e)
	}
}

func TestEndlessDataAnnouncedByASignatureDoesNotRaiseTheLimit(t *testing.T) {
	repo, _ := billing(t)
	repo.EditOnline(func(_ *metadata.SnapshotType, ts *metadata.TimestampType) {
		ts.Meta["snapshot.json"].Length = 64 << 20
	})
	repo.SignTimestampAsIs()
	c := newClient(t, repo, mirrors(repo.Serve(tuftest.Endless("snapshot.json"))))
	if e := refuseRefresh[*ErrTooLarge](t, c); e.Limit != 8<<20 {
		t.Fatal(e)
	}
}

func TestEndlessDataInPlaceOfATargetEndsAtTheSignedLength(t *testing.T) {
	repo, _ := billing(t)
	c := newClient(t, repo, mirrors(repo.Serve(tuftest.Endless("release.json"))))
	refresh(t, c)
	sink := &counter{}
	refused[*ErrCorrupt](t, c.Fetch(context.Background(), lookup(t, c, release1).File(), sink, nil))
	if sink.n != 3 {
		t.Fatalf("%d bytes were passed on, 3 were signed", sink.n)
	}
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) { c.n += int64(len(p)); return len(p), nil }

func TestEndlessDataThatIsOnlyClaimedIsRefusedUnread(t *testing.T) {
	repo, _ := billing(t)
	c := newClient(t, repo, mirrors(repo.Serve(tuftest.Claim("timestamp.json", 1<<40))))
	refuseRefresh[*ErrTooLarge](t, c)
	c = newClient(t, repo, mirrors(repo.Serve(tuftest.Claim("release.json", 1<<40))))
	refresh(t, c)
	refused[*ErrCorrupt](t, c.Fetch(context.Background(), lookup(t, c, release1).File(), io.Discard, nil))
}

func TestEndlessDataHiddenInACompressedBodyIsRefused(t *testing.T) {
	repo, _ := billing(t)
	e := refuseRefresh[*ErrNetwork](t, newClient(t, repo, mirrors(repo.Serve(tuftest.Gzip("timestamp.json")))))
	if e.Err == nil {
		t.Fatal(e)
	}
}
