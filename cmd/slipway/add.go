package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

const appTemplate = `# What this host adds to the releases of %s. An empty file is enough; slipwayd takes edits up by itself.
#enabled = true
#allow_root = false

[env]
#LOG_LEVEL = "info"

[credentials]
#name = "/etc/%s/name"

#[checks.NAME]
#port = 8080
`

func (c *cli) add() *cobra.Command {
	return &cobra.Command{
		Use:   "add APP",
		Short: "Let this host run an app",
		Long:  "Add creates apps.d/APP.toml. The daemon sees it at once and deploys what the environment's signed deployment of that app says.",
		Args:  oneApp,
		RunE: func(_ *cobra.Command, args []string) error {
			path := c.appFile(args[0])
			if _, err := os.Lstat(path); err == nil {
				c.say("%s is there already", path)
				return nil
			} else if !errors.Is(err, fs.ErrNotExist) {
				return writeFailed(path, err)
			}
			if err := writeNew([]newFile{{path, fmt.Appendf(nil, appTemplate, args[0], args[0])}}, false); err != nil {
				return err
			}
			if c.json {
				return c.printJSON(map[string]string{"app": args[0], "file": path})
			}
			fmt.Fprintf(c.out, "added %s: %s\n", args[0], path)
			c.hint("slipway why %s says what happens next", args[0])
			return nil
		},
	}
}

func (c *cli) appFile(app string) string {
	return filepath.Join(c.configDir, "apps.d", app+".toml")
}
