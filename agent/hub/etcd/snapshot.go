package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"

	"github.com/slipway-deploy/slipway/agent/hub"
)

// revisionBump is added to a restored store's revision. Grants are named by revision: without it a store that comes back from
// an old copy would name new grants by numbers that hosts hold already.
const revisionBump = hub.Bump

// Snapshot writes a consistent copy of the store to path, with etcd's own checksum at its end; etcdutl can read it too. The
// file appears only when it is whole, is readable by its owner alone, and an existing one is not overwritten.
func (s *Store) Snapshot(ctx context.Context, path string) (size int64, err error) {
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("cannot write a snapshot to %s: %w", path, cmp.Or(err, os.ErrExist))
	}
	answer, err := s.c.SnapshotWithVersion(ctx)
	if err != nil {
		return 0, fmt.Errorf("cannot take a snapshot: %w", unavailable(err))
	}
	defer answer.Snapshot.Close()
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return 0, fmt.Errorf("cannot write a snapshot: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if size, err = io.Copy(f, answer.Snapshot); err != nil {
		return 0, fmt.Errorf("cannot take a snapshot: %w", err)
	}
	if err := f.Sync(); err != nil {
		return 0, fmt.Errorf("cannot write a snapshot: %w", err)
	}
	if err := os.Link(f.Name(), path); err != nil { // unlike a rename, it never replaces
		return 0, fmt.Errorf("cannot write a snapshot: %w", err)
	}
	return size, syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Restored says which member of which cluster a snapshot becomes. The zero value is the hub's embedded one.
type Restored struct {
	Name, PeerURL string
	// Cluster lists all members as name=peer-url, as etcd's own --initial-cluster; Token is its --initial-cluster-token.
	Cluster []string
	Token   string
}

// Restore makes the data directory dir, which must not exist, from a snapshot whose checksum holds. Whatever was granted after the
// snapshot is unknown to what comes back: the hub notices and waits until an operator has reconciled.
func Restore(path, dir string, r Restored) error {
	if r.Name == "" {
		r = Restored{Name: memberName, PeerURL: memberURL, Cluster: []string{memberName + "=" + memberURL}}
	}
	err := snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath: path, OutputDataDir: dir, Name: r.Name, PeerURLs: []string{r.PeerURL},
		InitialCluster: strings.Join(r.Cluster, ","), InitialClusterToken: cmp.Or(r.Token, "etcd-cluster"),
		RevisionBump: revisionBump, MarkCompacted: true,
	})
	if err != nil {
		return fmt.Errorf("cannot restore %s into %s: %w", path, dir, err)
	}
	return nil
}
