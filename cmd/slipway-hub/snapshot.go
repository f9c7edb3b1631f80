package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/slipway-deploy/slipway/agent/hub/etcd"
	"github.com/slipway-deploy/slipway/agent/hub/serve"
)

func (t *tool) snapshotCommand() *cobra.Command {
	return &cobra.Command{
		Use: "snapshot FILE", Short: "Save the store of the hub on this machine into a file", Args: cobra.ExactArgs(1),
		Long: `Takes a snapshot of the hub's etcd while it runs, embedded or a cluster. The file is in etcd's own format: slipway-hub restore
and etcdutl read it. It holds who may be unavailable and how rollouts stand; no private key, and no token that could be used.`,
		Example: "  slipway-hub snapshot /var/backups/slipway-hub.snap",
		RunE: t.do(func(ctx context.Context, args []string) error {
			resp, err := t.localRequest(ctx, http.MethodGet, serve.PathSnapshot, nil)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			n, err := receive(resp.Body, args[0], resp.ContentLength)
			if err != nil {
				return err
			}
			return t.answer(map[string]any{"file": args[0], "bytes": n}, func(w io.Writer) { fmt.Fprintf(w, "%s: %d bytes\n", args[0], n) })
		}),
	}
}

// receive writes a file that appears only when it is whole, and replaces none.
func receive(r io.Reader, path string, length int64) (int64, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return 0, fmt.Errorf("cannot write the snapshot: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	n, err := io.Copy(f, r)
	if err == nil && n != length {
		err = fmt.Errorf("%d of %d bytes came", n, length)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Link(f.Name(), path)
	}
	if err != nil {
		return 0, fmt.Errorf("cannot write the snapshot: %w", err)
	}
	return n, nil
}

func (t *tool) restoreCommand() *cobra.Command {
	var dir string
	var r etcd.Restored
	c := &cobra.Command{
		Use: "restore FILE", Short: "Make an etcd data directory from a snapshot", Args: cobra.ExactArgs(1),
		Long: `Without flags, for the embedded etcd of the hub on this machine, which must be stopped; data that is there already must be moved
away first. With --name, --peer-url and --cluster, the data directory of one member of a new cluster: run it once for each member.

What was granted after the snapshot is not in it. The hubs notice, grant nothing, and wait for slipway fleet reconcile.`,
		Example: `  slipway-hub restore /var/backups/slipway-hub.snap
  slipway-hub restore hub.snap --data-dir /var/lib/etcd/m1 --name m1 --peer-url https://10.0.0.1:2380 \
    --cluster m1=https://10.0.0.1:2380,m2=https://10.0.0.2:2380,m3=https://10.0.0.3:2380`,
	}
	f := c.Flags()
	f.StringVar(&dir, "data-dir", "", "`directory` to make (default: that of the hub on this machine)")
	f.StringVar(&r.Name, "name", "", "the member's `name` in the new cluster")
	f.StringVar(&r.PeerURL, "peer-url", "", "the member's peer `URL`")
	f.StringSliceVar(&r.Cluster, "cluster", nil, "all members as `name=URL`, separated by commas")
	f.StringVar(&r.Token, "cluster-token", "", "etcd's initial cluster `token`")
	c.RunE = t.do(func(_ context.Context, args []string) error {
		member := r.Name != ""
		if member != (r.PeerURL != "") || member != (len(r.Cluster) > 0) || member && dir == "" {
			return usage("--name, --peer-url, --cluster and --data-dir belong together")
		}
		own := dir == ""
		if own {
			cfg, err := t.config()
			if err != nil {
				return err
			}
			dir = cfg.Paths.Data()
		}
		if _, err := os.Lstat(dir); err == nil {
			return fmt.Errorf("cannot restore into %s: there is data; stop the hub and move it away first", dir)
		}
		if err := etcd.Restore(args[0], dir, r); err != nil {
			return err
		}
		if own {
			if err := giveTreeToHub(dir); err != nil {
				return err
			}
		}
		return t.answer(map[string]string{"data_dir": dir}, func(w io.Writer) {
			fmt.Fprintf(w, "%s holds the snapshot. Hubs on it wait for slipway fleet reconcile.\n", dir)
		})
	})
	return c
}
