package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/repository"
	"github.com/spf13/cobra"
)

func (t *tool) inventoryCommand() *cobra.Command {
	return t.group("inventory", "List the hosts of an environment, for waves with exact counts", "", t.inventorySet(), t.inventoryShow())
}

func (t *tool) inventorySet() *cobra.Command {
	var m changing
	c := &cobra.Command{
		Use: "set ENVIRONMENT FILE", Short: "Replace the list of hosts", Args: cobra.ExactArgs(2),
		Long: `Opens a change with the environment's next inventory; the inventory keys sign it. FILE has one host per line: its id, and
labels as name=value; lines that start with # are comments. A deployment that counts by the inventory pins its digest, which the
answer shows: deployments that pin the one before must be signed anew, or their hosts wait.`,
		Example: "  slipway-repo inventory set production hosts.txt --sign fleet",
	}
	m.flags(c)
	c.RunE = t.do(func(ctx context.Context, args []string) error {
		env, err := release.ParseEnvironment(args[0])
		if err != nil {
			return usage("%v", err)
		}
		hosts, err := readHosts(args[1])
		if err != nil {
			return err
		}
		return t.make(ctx, &m, func(r *repository.Repository) (*repository.Change, error) {
			c, err := r.SetInventory(ctx, env, hosts, m.origin())
			if err != nil {
				return nil, err
			}
			apps, err := r.PinnedInventories(env, release.Digest{})
			if len(apps) > 0 {
				t.warn("once it is published, hosts change nothing of %s until a deployment pins the new inventory", strings.Join(apps, ", "))
			}
			return c, err
		})
	})
	return c
}

// readHosts reads one host per line.
func readHosts(path string) ([]release.InventoryHost, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read hosts: %w", err)
	}
	defer func() { _ = f.Close() }()
	hosts := []release.InventoryHost{}
	lines := bufio.NewScanner(io.LimitReader(f, 64<<20))
	for n := 1; lines.Scan(); n++ {
		words := strings.Fields(lines.Text())
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		h := release.InventoryHost{ID: words[0]}
		for _, w := range words[1:] {
			name, value, ok := strings.Cut(w, "=")
			if _, twice := h.Labels[name]; !ok || twice {
				return nil, fmt.Errorf("%s:%d: %q is not one label, written name=value", path, n, w)
			}
			if h.Labels == nil {
				h.Labels = map[string]string{}
			}
			h.Labels[name] = value
		}
		hosts = append(hosts, h)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("cannot read hosts: %s: %w", path, err)
	}
	return hosts, nil
}

type inventoryAnswer struct {
	Digest    string             `json:"sha256,omitempty"`
	Inventory *release.Inventory `json:"inventory"`
}

func (t *tool) inventoryShow() *cobra.Command {
	return &cobra.Command{
		Use: "show ENVIRONMENT", Short: "Print the published list of hosts", Args: cobra.ExactArgs(1),
		Long:    "Prints it in the form that inventory set reads, with the digest that deployments pin.",
		Example: "  slipway-repo inventory show production > hosts.txt",
		RunE: t.do(func(_ context.Context, args []string) error {
			env, err := release.ParseEnvironment(args[0])
			if err != nil {
				return usage("%v", err)
			}
			r, err := t.open()
			if err != nil {
				return err
			}
			doc, digest, err := r.Inventory(env)
			if err != nil {
				return err
			}
			a := inventoryAnswer{Inventory: doc}
			if doc != nil {
				a.Digest = digest.String()
			}
			return t.answer(a, func(w io.Writer) { showInventory(w, env, a) })
		}),
	}
}

func showInventory(w io.Writer, env release.Environment, a inventoryAnswer) {
	if a.Inventory == nil {
		fmt.Fprintf(w, "# %s has no inventory\n", env)
		return
	}
	fmt.Fprintf(w, "# inventory of %s, sha256 %s, %d hosts\n", env, a.Digest, len(a.Inventory.Hosts))
	for _, h := range a.Inventory.Hosts {
		fmt.Fprint(w, h.ID)
		for _, name := range slices.Sorted(maps.Keys(h.Labels)) {
			fmt.Fprintf(w, " %s=%s", name, h.Labels[name])
		}
		fmt.Fprintln(w)
	}
}
