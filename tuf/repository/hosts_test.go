package repository_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/integration/s3"
	"github.com/slipway-deploy/slipway/tuf/client"
	"github.com/slipway-deploy/slipway/tuf/repository"
)

// serveDestination is the web server in front of a destination.
func serveDestination(t *testing.T, d repository.Destination) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, size, err := d.Open(r.Context(), strings.TrimPrefix(r.URL.Path, "/"))
		if errors.Is(err, fs.ErrNotExist) {
			http.NotFound(w, r)
			return
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer body.Close()
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		_, _ = io.Copy(w, body)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// watcher is one of many hosts that refresh while a publisher publishes. It remembers all it saw.
type watcher struct {
	c    *client.Client
	seen []sight
}

// sight is what one refresh led to: the versions, and the deployment and release under them.
type sight struct {
	root, timestamp, snapshot, sequence int64
	release                             string
}

func (h *watcher) look(ctx context.Context) error {
	t, err := h.c.Refresh(ctx)
	if err != nil {
		return err
	}
	s := sight{root: t.Root, timestamp: t.Timestamp, snapshot: t.Snapshot}
	raw, err := h.read(ctx, "deployments/production/billing.json")
	if err != nil {
		return err
	}
	doc, err := release.ParseDeployment(raw)
	if err != nil {
		return err
	}
	raw, err = h.read(ctx, doc.Release.Path)
	if err != nil {
		return err
	}
	if release.Sum(raw) != doc.Release.SHA256 {
		return fmt.Errorf("sequence %d names %s with another digest", doc.Sequence, doc.Release.Path)
	}
	rel, err := release.ParseRelease(raw)
	if err != nil {
		return err
	}
	for _, a := range rel.Platforms {
		f := client.File{Path: a.Archive.Path, SHA256: a.Archive.SHA256.String(), Length: a.Archive.Length}
		if err := h.c.Fetch(ctx, f, io.Discard, nil); err != nil {
			return err
		}
	}
	s.sequence, s.release = doc.Sequence, rel.Version.String()
	h.seen = append(h.seen, s)
	return nil
}

func (h *watcher) read(ctx context.Context, path string) ([]byte, error) {
	t, err := h.c.Lookup(ctx, path)
	if err != nil {
		return nil, err
	}
	return h.c.Read(ctx, t)
}

// TestHostsThatRefreshDuringPublishesSeeNoMix has a publisher of its own process publish and refresh, while every host asks
// again and again. Each publish is sequence n with release 1.n.0, timestamp 2n+2; the refresh after it changes neither.
func TestHostsThatRefreshDuringPublishesSeeNoMix(t *testing.T) {
	store := s3.Start(t)
	ref, _ := store.Bucket(t)
	for name, c := range map[string]struct {
		ref   string
		hosts int
	}{
		"a directory, 200 hosts": {filepath.Join(t.TempDir(), "www"), 200},
		"a bucket, 40 hosts":     {ref, 40},
	} {
		t.Run(name, func(t *testing.T) { publishUnder(t, c.ref, c.hosts) })
	}
}

func publishUnder(t *testing.T, ref string, hosts int) {
	const publishes = 2
	f := standard(t).shipped("1.1.0")
	d := openDestination(ref)
	_, err := f.publishTo(d)
	f.ok(err)
	_, err = f.refreshTo(d)
	f.ok(err)
	first := f.verifyFrom(d).Timestamp
	fleet := newFleet(t, f, serveDestination(t, d), hosts)
	for n := 2; n <= publishes+1; n++ {
		f.shipped(fmt.Sprintf("1.%d.0", n))
		if n == publishes {
			c, err := f.r.Renew(context.Background(), []string{"root"}, 0, repository.Origin{})
			f.ok(err)
			f.sign(c, "alice", "bob")
		}
		fleet.during(t, f.otherProcess(ref))
	}
	during := map[int64]bool{}
	for _, h := range fleet {
		var last sight
		for _, s := range h.seen {
			want := int64(1) + (s.timestamp-first+1)/2
			if s.sequence != want || s.release != fmt.Sprintf("1.%d.0", want) || s.snapshot != s.timestamp {
				t.Fatalf("a mix: %+v, want sequence %d", s, want)
			}
			if s.timestamp < last.timestamp || s.root < last.root {
				t.Fatalf("a step back: %+v after %+v", s, last)
			}
			last = s
			during[s.timestamp] = true
		}
		if last.sequence != publishes+1 || last.root != 2 {
			t.Fatalf("a host stays at %+v", last)
		}
	}
	t.Logf("%d hosts saw timestamps %v", hosts, during)
}

type fleet []*watcher

func newFleet(t *testing.T, f *fixture, url string, n int) fleet {
	t.Helper()
	root := must(f.r.PinnedRoot(1))
	dir := t.TempDir()
	var out fleet
	for i := range n {
		c, err := client.Open(client.Config{Dir: filepath.Join(dir, strconv.Itoa(i)), Root: root, RootProbe: -1,
			Mirrors: []client.Mirror{{Metadata: url + "/metadata", Targets: url + "/targets"}}})
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, &watcher{c: c})
	}
	return out
}

// during has all hosts look until work is over, and then once more.
func (hosts fleet) during(t *testing.T, work *exec.Cmd) {
	t.Helper()
	var over atomic.Bool
	var wg sync.WaitGroup
	for _, h := range hosts {
		wg.Go(func() {
			for done := false; !done; {
				done = over.Load()
				if err := h.look(t.Context()); err != nil {
					t.Errorf("a host: %v", err)
					return
				}
			}
		})
	}
	out, err := work.CombinedOutput()
	over.Store(true)
	wg.Wait()
	if err != nil {
		t.Fatalf("the publisher: %v\n%s", err, out)
	}
}

// otherProcess publishes what is signed, and refreshes.
func (f *fixture) otherProcess(ref string) *exec.Cmd {
	f.t.Helper()
	key := filepath.Join(f.t.TempDir(), "online")
	f.ok(f.key("online").Save(key, nil))
	cmd := exec.Command(must(os.Executable()), "-test.run=^TestTheProcessThatIsKilled$")
	cmd.Env = append(os.Environ(), crashDir+"="+f.dir, crashKey+"="+key, crashTo+"="+ref)
	return cmd
}
