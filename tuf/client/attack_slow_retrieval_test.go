package client

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/slipway-deploy/slipway/tuf/tuftest"
)

func TestSlowRetrievalOfAnyFileIsGivenUp(t *testing.T) {
	for _, file := range []string{"2.root.json", "timestamp.json", "snapshot.json", "targets.json"} {
		for name, how := range map[string]tuftest.Misbehaviour{"drip": tuftest.Drip(file, 5*time.Millisecond), "hang": tuftest.Hang(file)} {
			t.Run(file+" "+name, func(t *testing.T) {
				t.Parallel()
				repo, _ := billing(t)
				c := newClient(t, repo, mirrors(repo.Serve(how)), impatient, func(c *Config) { c.HTTP.Attempts = 1 })
				refuseRefresh[*ErrStalled](t, c)
			})
		}
	}
}

func TestSlowRetrievalOfATargetIsGivenUpAndTheOtherMirrorGoesOn(t *testing.T) {
	repo, _ := billing(t)
	c := newClient(t, repo, mirrors(repo.Serve(tuftest.Drip("release.json", 5*time.Millisecond)), repo.Server()), impatient, func(c *Config) { c.HTTP.Attempts = 1 })
	refresh(t, c)
	err := c.Fetch(context.Background(), lookup(t, c, release1).File(), io.Discard, nil)
	if err != nil {
		refused[*ErrCorrupt](t, err) // the drip's bytes cannot be taken back from a stream
	}
	if read(t, c, release1) != "one" {
		t.Fatal("wrong bytes")
	}
}

func TestSlowRetrievalEndsWithTheCallersContext(t *testing.T) {
	repo, _ := billing(t)
	c := newClient(t, repo, mirrors(repo.Serve(tuftest.Hang(""))), func(c *Config) { c.Stall.Window = time.Hour })
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Refresh(ctx); err == nil || ctx.Err() == nil {
		t.Fatal(err)
	}
}

// slowBody delivers n bytes per read after a pause on the fake clock.
type slowBody struct {
	n     int
	pause time.Duration
	ctx   context.Context
}

func (s *slowBody) Read(p []byte) (int, error) {
	select {
	case <-time.After(s.pause):
		return min(s.n, len(p)), nil
	case <-s.ctx.Done():
		return 0, s.ctx.Err()
	}
}

func (s *slowBody) Close() error { return nil }

func TestTheStallGuardJudgesTheServersRateAndNotOurs(t *testing.T) {
	for _, c := range []struct {
		name         string
		n            int
		server, ours time.Duration
		stalled      bool
	}{
		{"fast enough", 2048, time.Second, 0, false},
		{"too slow", 500, time.Second, 0, true},
		{"one long silence", 1 << 20, 31 * time.Second, 0, true},
		{"fast server, slow disk", 2048, time.Second, time.Minute, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, ctx := newStallGuard(context.Background(), "u", Stall{Rate: 1024, Window: 30 * time.Second}, 0)
				body := g.body(&slowBody{c.n, c.server, ctx})
				defer body.Close()
				buf := make([]byte, 1<<20)
				var err error
				for range 200 {
					if _, err = body.Read(buf); err != nil {
						break
					}
					<-time.After(c.ours)
				}
				if c.stalled != (err != nil) {
					t.Fatal(err)
				}
				if c.stalled {
					refused[*ErrStalled](t, err)
				}
			})
		})
	}
}

func TestAMetadataFileHasAnOverallDeadlineWhateverItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, ctx := newStallGuard(context.Background(), "u", Stall{Rate: 1, Window: time.Hour}, 30*time.Second)
		body := g.body(&slowBody{4096, time.Second, ctx})
		defer body.Close()
		began := time.Now()
		for {
			if _, err := body.Read(make([]byte, 4096)); err != nil {
				refused[*ErrStalled](t, err)
				break
			}
		}
		if took := time.Since(began); took != 30*time.Second {
			t.Fatal(took)
		}
	})
}
