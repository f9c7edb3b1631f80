package repository_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/integration/s3"
	"github.com/slipway-deploy/slipway/tuf/destination"
	"github.com/slipway-deploy/slipway/tuf/repository"
)

func (f *fixture) publishTo(to ...repository.Destination) (*repository.Published, error) {
	return f.r.Publish(context.Background(), repository.PublishOptions{Online: f.online(), To: to})
}

func (f *fixture) refreshTo(to ...repository.Destination) (*repository.Refreshed, error) {
	return f.r.Refresh(context.Background(), repository.RefreshOptions{Online: f.online(), Force: true, To: to})
}

// twin is a second publisher with a copy of the same directory and the same keys, as a second clone of a git repository.
func (f *fixture) twin() *fixture {
	f.t.Helper()
	g := *f
	g.dir = filepath.Join(f.t.TempDir(), "repo")
	f.ok(os.CopyFS(g.dir, os.DirFS(f.dir)))
	g.r = must(repository.Open(g.dir))
	return &g
}

func (f *fixture) shipped(v string) *fixture {
	f.t.Helper()
	f.release(v)
	f.sign(f.deploy(v, release.Deployment{}), "ann", "ben")
	return f
}

func bucket(t *testing.T) repository.Destination {
	ref, _ := s3.Start(t).Bucket(t)
	return must(destination.OpenS3(ref))
}

func TestHostsReadFromABucketAndFromADirectoryApart(t *testing.T) {
	t.Parallel()
	f := standard(t).shipped("1.0.0")
	to := []repository.Destination{bucket(t), must(destination.OpenDir(filepath.Join(t.TempDir(), "www")))}
	out, err := f.publishTo(to...)
	f.ok(err)
	if len(out.Pushed) != 2 || out.Pushed[0].Timestamp != 4 || out.Pushed[0].Files < 8 || out.Pushed[1].Files != out.Pushed[0].Files {
		t.Errorf("got %+v", out.Pushed)
	}
	for _, d := range to {
		if v := f.verifyFrom(d); v.Timestamp != 4 || v.Files != 2 || len(v.Deployments) != 1 {
			t.Errorf("%s: %+v", d, v)
		}
	}
	f.shipped("1.1.0")
	out, err = f.publishTo(to...)
	f.ok(err)
	if p := out.Pushed[0]; p.Files != 7 {
		t.Errorf("a second release takes 4 documents and payloads and 3 metadata files; %d went up", p.Files)
	}
	again, err := f.publishTo(to...)
	f.ok(err)
	if len(again.Pushed) != 2 || again.Pushed[0].Files != 0 || len(again.Changes) != 0 {
		t.Errorf("got %+v", again)
	}
}

func TestOfTwoPublishersTheSlowerChangesNothing(t *testing.T) {
	t.Parallel()
	for name, d := range map[string]repository.Destination{"bucket": bucket(t), "directory": must(destination.OpenDir(filepath.Join(t.TempDir(), "www")))} {
		t.Run(name, func(t *testing.T) {
			f := standard(t)
			_, err := f.publishTo(d)
			f.ok(err)
			g := f.twin()
			f.shipped("1.0.0")
			_, err = f.publishTo(d)
			f.ok(err)

			g.shipped("2.0.0")
			before := must(os.ReadFile(filepath.Join(g.dir, "metadata", "timestamp.json")))
			_, err = g.publishTo(d)
			var lost *repository.ConcurrentError
			if !errors.As(err, &lost) || lost.Theirs != 4 || lost.Ours != 3 || !strings.Contains(err.Error(), "timestamp 4 is published there") {
				t.Errorf("got %v", err)
			}
			if _, err := g.refreshTo(d); !errors.As(err, &lost) {
				t.Errorf("a refresh: %v", err)
			}
			if !bytes.Equal(before, must(os.ReadFile(filepath.Join(g.dir, "metadata", "timestamp.json")))) {
				t.Error("the loser's directory changed")
			}
			if v := f.verifyFrom(d); v.Timestamp != 4 || !strings.Contains(v.Deployments[0], "1.0.0") {
				t.Errorf("got %+v", v)
			}
		})
	}
}

// meddler lets somebody else publish at the last moment, just before the swap.
type meddler struct {
	repository.Destination
	once func()
}

func (m *meddler) Swap(ctx context.Context, name string, old, next []byte) (bool, error) {
	if m.once != nil {
		do := m.once
		m.once = nil
		do()
	}
	return m.Destination.Swap(ctx, name, old, next)
}

func TestAPublisherWhoIsOvertakenAtTheLastMomentLosesCleanly(t *testing.T) {
	t.Parallel()
	d := bucket(t)
	f := standard(t)
	_, err := f.publishTo(d)
	f.ok(err)
	g := f.twin()
	f.shipped("1.0.0")
	_, err = f.publishTo(&meddler{d, func() {
		// Only the timestamp: a refresh that signs no snapshot.
		g.now = g.now.AddDate(0, 0, 2)
		r := must(repository.Open(g.dir, repository.WithClock(g.clock)))
		_, err := r.Refresh(context.Background(), repository.RefreshOptions{Online: g.online(), To: []repository.Destination{d}})
		g.ok(err)
	}})
	var lost *repository.ConcurrentError
	if !errors.As(err, &lost) || lost.Theirs != 4 || lost.Ours != 3 {
		t.Fatalf("got %v", err)
	}
	if v := f.verify(); v.Timestamp != 3 || len(v.Deployments) != 0 {
		t.Errorf("the loser's directory has %+v", v)
	}
	if open, err := f.r.Changes(); err != nil || len(open) != 2 {
		t.Errorf("the loser's changes: %v, %v", open, err)
	}
	// Brought up to date, as with git pull, the same changes go through: what is there already has the same bytes.
	f.ok(os.WriteFile(filepath.Join(f.dir, "metadata", "timestamp.json"), must(os.ReadFile(filepath.Join(g.dir, "metadata", "timestamp.json"))), 0o644))
	f.now = g.now
	if _, err := f.publishTo(d); err != nil && !strings.Contains(err.Error(), "other bytes") {
		t.Fatal(err)
	}
}

// broken is a destination whose swap fails for good.
type broken struct{ repository.Destination }

func (b broken) Swap(context.Context, string, []byte, []byte) (bool, error) {
	return false, errors.New("cannot reach it")
}

func TestAPublishThatMayHaveGoneThroughIsFinishedBeforeAnythingElse(t *testing.T) {
	t.Parallel()
	d := must(destination.OpenDir(filepath.Join(t.TempDir(), "www")))
	f := standard(t)
	_, err := f.publishTo(d)
	f.ok(err)
	c := f.release("1.0.0")
	if _, err = f.publishTo(broken{d}); err == nil || !strings.Contains(err.Error(), "run it again to finish it") {
		t.Fatalf("got %v", err)
	}
	found, err := f.r.Diagnose(context.Background(), repository.DiagnoseOptions{})
	f.ok(err)
	if len(found) != 1 || found[0].Kind != "interrupted" || !strings.Contains(found[0].Remedy[0], d.String()) {
		t.Errorf("diagnosed %+v", found)
	}
	if _, err := f.r.Abandon(context.Background(), c.ID); kindOf(err) != "refused" {
		t.Errorf("abandoned: %v", err)
	}
	if _, err := f.tryPublish(); kindOf(err) != "refused" || !strings.Contains(err.Error(), "--to "+d.String()) {
		t.Errorf("published elsewhere: %v", err)
	}
	out, err := f.publishTo(d)
	f.ok(err)
	if v := f.verifyFrom(d); v.Timestamp != out.Timestamp || f.verify().Timestamp != v.Timestamp {
		t.Errorf("got %+v after %+v", v, out)
	}
	if open, err := f.r.Changes(); err != nil || len(open) != 0 {
		t.Errorf("left open: %v, %v", open, err)
	}
}

func TestADestinationThatLagsIsBroughtUpLater(t *testing.T) {
	t.Parallel()
	first, second := must(destination.OpenDir(filepath.Join(t.TempDir(), "a"))), must(destination.OpenDir(filepath.Join(t.TempDir(), "b")))
	f := standard(t).shipped("1.0.0")
	out, err := f.publishTo(first, broken{second})
	var lagging *repository.LaggingError
	if !errors.As(err, &lagging) || len(out.Changes) != 2 {
		t.Fatalf("got %v, %+v", err, out)
	}
	if v := f.verifyFrom(first); len(v.Deployments) != 1 {
		t.Errorf("got %+v", v)
	}
	refreshed, err := f.r.Refresh(context.Background(), repository.RefreshOptions{Online: f.online(), To: []repository.Destination{first, second}})
	f.ok(err)
	if len(refreshed.Signed) != 0 || f.verifyFrom(second).Timestamp != f.verifyFrom(first).Timestamp {
		t.Errorf("got %+v", refreshed)
	}
}

func TestOtherBytesUnderAPublishedNameAreAnError(t *testing.T) {
	t.Parallel()
	d := bucket(t)
	f := standard(t).shipped("1.0.0")
	foreign := []byte("{}")
	f.ok(d.Create(context.Background(), "metadata/4.snapshot.json", bytes.NewReader(foreign), 2, release.Sum(foreign).String()))
	_, err := f.publishTo(d)
	var differs *repository.DiffersError
	if !errors.As(err, &differs) || differs.Name != "metadata/4.snapshot.json" {
		t.Fatalf("got %v", err)
	}
	if v := f.verify(); v.Timestamp != 3 {
		t.Errorf("got %+v", v)
	}
	if _, _, err := d.Open(context.Background(), "metadata/timestamp.json"); err == nil {
		t.Error("the timestamp was written")
	}
}

// older serves an old state that hosts have seen, newer by its roles than what is to be published.
func TestAStateThatHostsCannotFollowIsNotPushed(t *testing.T) {
	t.Parallel()
	d := must(destination.OpenDir(filepath.Join(t.TempDir(), "www")))
	f := standard(t)
	_, err := f.publishTo(d)
	f.ok(err)
	g := f.twin()
	f.shipped("1.0.0")
	_, err = f.publishTo(d)
	f.ok(err)
	for range 3 { // the twin's timestamp overtakes by number, without the deployment
		_, err := g.refreshTo()
		g.ok(err)
	}
	var refused *repository.ClientError
	if _, err := g.refreshTo(d); !errors.As(err, &refused) {
		t.Errorf("got %v", err)
	}
	body, _, err := d.Open(context.Background(), "metadata/timestamp.json")
	f.ok(err)
	defer body.Close()
	if !bytes.Equal(must(io.ReadAll(body)), must(os.ReadFile(filepath.Join(f.dir, "metadata", "timestamp.json")))) {
		t.Error("the destination changed")
	}
}

// unreachable is a destination that nobody can ask.
type unreachable struct{ repository.Destination }

func (unreachable) String() string { return "s3://gone" }

func (unreachable) Open(context.Context, string) (io.ReadCloser, int64, error) {
	return nil, 0, errors.New("cannot reach s3://gone")
}

func TestADestinationThatCannotBeReachedBlocksNobodyUnlessItDecides(t *testing.T) {
	t.Parallel()
	f := standard(t).shipped("1.0.0")
	d := must(destination.OpenDir(filepath.Join(t.TempDir(), "www")))
	if _, err := f.publishTo(unreachable{d}, d); err == nil || !strings.Contains(err.Error(), "cannot reach") {
		t.Errorf("got %v", err)
	}
	if v := f.verify(); v.Timestamp != 3 {
		t.Errorf("published without the one that decides: %+v", v)
	}
	out, err := f.publishTo(d, unreachable{d})
	var lagging *repository.LaggingError
	if !errors.As(err, &lagging) || len(out.Changes) != 2 || f.verifyFrom(d).Timestamp != 4 {
		t.Errorf("got %v, %+v", err, out)
	}
}

// gate holds the upload of a large file until it is opened.
type gate struct {
	repository.Destination
	once          sync.Once
	reached, open chan struct{}
}

func (g *gate) Create(ctx context.Context, name string, from io.Reader, size int64, sum string) error {
	if size > 1<<20 {
		g.once.Do(func() { close(g.reached) })
		<-g.open
	}
	return g.Destination.Create(ctx, name, from, size, sum)
}

func TestAHaltIsPublishedWhileALargePayloadGoesUp(t *testing.T) {
	t.Parallel()
	f := standard(t)
	d := must(destination.OpenDir(filepath.Join(t.TempDir(), "www")))
	_, err := f.publishTo(d)
	f.ok(err)
	large := strings.Repeat("payload ", 1<<18)
	c, err := f.r.PublishRelease(context.Background(), packedWith(t, "1.0.0", large), repository.Origin{})
	f.ok(err)
	f.sign(c, "ci")
	slow := &gate{Destination: d, reached: make(chan struct{}), open: make(chan struct{})}
	done := make(chan error, 1)
	go func() {
		_, err := f.publishTo(slow)
		done <- err
	}()
	<-slow.reached
	halt, err := f.r.EditEmergency(context.Background(), production, repository.EmergencyOptions{
		Add: []release.EmergencyEntry{{Kind: "halt", Until: new(f.now.Add(24 * time.Hour).UTC().Truncate(time.Second)), Reason: "it burns"}}})
	f.ok(err)
	f.sign(halt, "oncall")
	_, err = f.r.Publish(context.Background(), repository.PublishOptions{Changes: []string{halt.ID}, Online: f.online(), To: []repository.Destination{d}})
	f.ok(err)
	close(slow.open)
	f.ok(<-done)
	if v := f.verifyFrom(d); v.Timestamp != 5 || v.Files != 2 {
		t.Errorf("got %+v", v)
	}
}
