package client

import (
	"strings"
	"testing"
	"time"

	"github.com/slipway-deploy/slipway/tuf/tuftest"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// FuzzVerify hands arbitrary bytes to every place where metadata from outside is parsed. Nothing may panic, and nothing that
// differs from what the keys signed may be accepted.
func FuzzVerify(f *testing.F) {
	repo, _ := billing(f)
	served := map[string][]byte{}
	for _, name := range []string{"1.root", "timestamp", "2.snapshot", "2.targets", "1.app.billing"} {
		served[name] = repo.Get("metadata/" + name + ".json")
		f.Add(served[name])
		for _, swap := range [][2]string{{`"version":`, `"version":-`}, {`{`, `null`}, {`"length":`, `"length":-`}, {`"ed25519"`, `"rsa"`}, {`"hashes":{`, `"hashes":null,"x":{`}} {
			f.Add([]byte(strings.ReplaceAll(string(served[name]), swap[0], swap[1])))
		}
	}
	for _, s := range []string{"", "null", "{}", `{"signed":null}`, `{"signed":{"_type":"timestamp"},"signatures":null}`, `{"signed":{"_type":"timestamp","meta":{"snapshot.json":null}}}`,
		`{"signed":{"_type":"targets","targets":{"a":null}}}`, `{"signed":{"_type":"root","keys":{"a":null},"roles":{"root":null}}}`, strings.Repeat("[", 70), `{"signed":{"_type":"snapshot","meta":{"a":null}}}`} {
		f.Add([]byte(s))
	}
	c := newClient(f, repo)
	refresh(f, c)
	lookup(f, c, release1)
	now := time.Now()
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := firstRoot(data); err == nil && r.version < 1 {
			t.Fatal("a root without a version was accepted")
		}
		if r, err := c.root().next(data); err == nil {
			t.Fatalf("root %d was accepted", r.version)
		}
		if s, err := verifyStamp(c.root(), nil, data, now); err == nil && s.meta.Signed.Version > 2 {
			t.Fatal("a timestamp was accepted that nobody signed")
		}
		if s, err := verifySnap(c.root(), c.stamp, nil, data, now); err == nil && s.file != c.snap.file {
			t.Fatal("a snapshot was accepted that the timestamp does not name")
		}
		for _, by := range []*role{nil, c.set.targets} {
			name := metadata.TARGETS
			if by != nil {
				name = "app.billing"
			}
			if r, err := verifyRole(c.root(), c.stamp, c.snap, by, name, data, now); err == nil && !r.pinned(c.snap.of(name), r.version) {
				t.Fatal("a role was accepted that the snapshot does not name")
			}
		}
	})
}

// FuzzVerifySigned reaches what only a holder of a key can: odd shapes behind a good signature and no hash in the way.
func FuzzVerifySigned(f *testing.F) {
	f.Add(`{"signed":{"_type":"targets","spec_version":"1.0","version":1,"expires":"2099-01-01T00:00:00Z","targets":{},"delegations":{"keys":{"a":null},"roles":[]}},"signatures":[]}`)
	f.Add(`{"signed":{"_type":"root","spec_version":"1.0","version":1,"expires":"2099-01-01T00:00:00Z","keys":{},"roles":{"root":{"keyids":[],"threshold":0}}},"signatures":[]}`)
	f.Fuzz(func(t *testing.T, text string) {
		guardedParse(t, text)
	})
}

// guardedParse runs everything that would follow an accepted signature.
func guardedParse(t *testing.T, text string) {
	data := []byte(text)
	if precheck("x", data) != nil {
		return
	}
	err := guarded("x", func() error {
		if m, err := metadata.Root().FromBytes(data); err == nil && vetRoot(m) == nil {
			rootView(m)
		}
		m, err := metadata.Targets().FromBytes(data)
		if err != nil {
			return err
		}
		if vetTargets("x", m) == nil {
			r := &role{delegations: delegationsView(m.Signed.Delegations)}
			r.children("a/b")
			for _, target := range m.Signed.Targets {
				entryOf(target)
			}
		}
		return nil
	})
	if err != nil && strings.Contains(err.Error(), "malformed metadata") {
		t.Log("the guard was needed")
	}
}

func TestAHolderOfOneOnlineKeyCannotCrashTheClient(t *testing.T) {
	for name, spoil := range map[string]func(*tuftest.Repository){
		"no snapshot entry": func(r *tuftest.Repository) {
			r.EditOnline(func(_ *metadata.SnapshotType, ts *metadata.TimestampType) { delete(ts.Meta, "snapshot.json") })
		},
		"a null entry": func(r *tuftest.Repository) {
			r.EditOnline(func(_ *metadata.SnapshotType, ts *metadata.TimestampType) { ts.Meta["snapshot.json"] = nil })
		},
		"issued is a number": func(r *tuftest.Repository) {
			r.EditOnline(func(_ *metadata.SnapshotType, ts *metadata.TimestampType) { ts.UnrecognizedFields["issued"] = 7 })
		},
		"version zero": func(r *tuftest.Repository) {
			r.EditOnline(func(_ *metadata.SnapshotType, ts *metadata.TimestampType) { ts.Version = 0 })
		},
	} {
		repo, _ := billing(t)
		spoil(repo)
		repo.SignTimestampAsIs()
		if _, err := newClient(t, repo).Refresh(t.Context()); err == nil {
			t.Error(name, "was accepted")
		} else {
			refused[*ErrCorrupt](t, err)
		}
	}
	repo, _ := billing(t)
	repo.Edit(metadata.TARGETS, func(m *metadata.TargetsType) { m.Delegations.Keys["null"] = nil })
	repo.Publish()
	refuseRefresh[*ErrCorrupt](t, newClient(t, repo))
}
