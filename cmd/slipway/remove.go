package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slipway-deploy/slipway/agent/api"
)

func (c *cli) remove() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "remove APP",
		Short: "Stop an app and take it off this host",
		Long: `Remove lets the daemon stop the app's units and take them away with current and fallback, then deletes apps.d/APP.toml. An attempt
under way is not broken off: wait for its end, or revert it first. The app's own data stays, and so do its releases.`,
		Args:              oneApp,
		ValidArgsFunction: c.completeApps,
		RunE: func(cmd *cobra.Command, args []string) error {
			path := c.appFile(args[0])
			a, err := c.api().App(cmd.Context(), args[0])
			var e *api.Error
			if errors.As(err, &e) && e.Kind() == api.KindNotFound {
				return c.removeFile(args[0], path, e)
			}
			if err != nil {
				return err
			}
			if err := c.confirm(yes, fmt.Sprintf("stop %s %s and take it off this host", a.App, a.Version)); err != nil {
				return err
			}
			r, err := c.api().Remove(cmd.Context(), args[0], api.RemoveRequest{ExpectRevision: a.Revision})
			if err != nil {
				return err
			}
			c.say("%s", r.Message)
			return c.removeFile(args[0], path, nil)
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

// removeFile deletes the app's file. unknown is the daemon's word that it does not have the app: then there must be a file at least.
func (c *cli) removeFile(app, path string, unknown error) error {
	err := os.Remove(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && unknown != nil:
		return unknown
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return failure{"cannot delete " + path + ": " + err.Error(), "delete it as root, or the app comes back when slipwayd restarts"}
	case err == nil:
		if err := syncDir(filepath.Dir(path)); err != nil {
			return writeFailed(path, err)
		}
	}
	if c.json {
		return c.printJSON(map[string]string{"app": app, "removed": path})
	}
	fmt.Fprintf(c.out, "removed %s\n", app)
	return nil
}

// confirm asks on a terminal. Scripts must say --yes: silence is no consent to stop a service.
func (c *cli) confirm(yes bool, what string) error {
	if yes {
		return nil
	}
	if !c.inTTY {
		return usageError{"this would " + what + ", and nobody can be asked here", "add --yes if that is meant"}
	}
	fmt.Fprintf(c.err, "This will %s. Go on? [y/N] ", clean(what))
	answer, _ := bufio.NewReader(c.in).ReadString('\n') // no answer is no
	if strings.ToLower(strings.TrimSpace(answer)) != "y" {
		return failure{"nothing was done", ""}
	}
	return nil
}
