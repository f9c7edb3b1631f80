package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// manCommand writes the manual from the same words as --help; packages are built with it.
func (t *tool) manCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "man DIR", Short: "Write manual pages into a directory", Args: cobra.ExactArgs(1), Hidden: true,
		Example: "  slipway-repo man /usr/share/man/man1",
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		t.started = true
		if err := os.MkdirAll(args[0], 0o755); err != nil {
			return fmt.Errorf("cannot write manual pages: %w", err)
		}
		return writePages(c.Context(), c.Root(), args[0])
	}
	return c
}

func writePages(ctx context.Context, c *cobra.Command, dir string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	name := strings.ReplaceAll(c.CommandPath(), " ", "-")
	if err := os.WriteFile(filepath.Join(dir, name+".1"), manPage(c, name), 0o644); err != nil {
		return fmt.Errorf("cannot write manual page: %w", err)
	}
	for _, child := range c.Commands() {
		if child.Hidden || !child.IsAvailableCommand() || child.Name() == "help" || child.Name() == "completion" {
			continue
		}
		if err := writePages(ctx, child, dir); err != nil {
			return err
		}
	}
	return nil
}

func manPage(c *cobra.Command, name string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, ".TH %s 1 \"%s\" \"Slipway\" \"Slipway manual\"\n", roff(strings.ToUpper(name)), created().Format("2006-01-02"))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n.SH SYNOPSIS\n\\fB%s\\fR\n", roff(name), roff(c.Short), roff(c.UseLine()))
	if c.Long != "" {
		fmt.Fprintf(&b, ".SH DESCRIPTION\n%s\n", roff(c.Long))
	}
	flags := func(title string, set *pflag.FlagSet) {
		if !set.HasAvailableFlags() {
			return
		}
		fmt.Fprintf(&b, ".SH %s\n", title)
		set.VisitAll(func(f *pflag.Flag) {
			kind, words := pflag.UnquoteUsage(f)
			fmt.Fprintf(&b, ".TP\n\\fB\\-\\-%s\\fR \\fI%s\\fR\n%s\n", roff(f.Name), roff(kind), roff(words))
		})
	}
	flags("OPTIONS", c.NonInheritedFlags())
	flags("COMMON OPTIONS", c.InheritedFlags())
	if c.Example != "" {
		fmt.Fprintf(&b, ".SH EXAMPLES\n.nf\n%s\n.fi\n", roff(c.Example))
	}
	b.WriteString(".SH EXIT STATUS\n0 done, 1 failed, 2 wrong usage, 3 refused by a rule of the repository.\n")
	var also []string
	for _, child := range c.Commands() {
		if child.IsAvailableCommand() && !child.Hidden && child.Name() != "help" && child.Name() != "completion" {
			also = append(also, "\\fB"+roff(name+"-"+child.Name())+"\\fR(1)")
		}
	}
	if c.HasParent() {
		also = append(also, "\\fB"+roff(strings.ReplaceAll(c.Parent().CommandPath(), " ", "-"))+"\\fR(1)")
	}
	if len(also) > 0 {
		fmt.Fprintf(&b, ".SH SEE ALSO\n%s\n", strings.Join(also, ", "))
	}
	return b.Bytes()
}

// roff escapes what the typesetter would take for itself.
func roff(s string) string {
	lines := strings.Split(strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s), "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
