// Command lab gives a person one real systemd host to play with: it boots it, installs the built package, serves it a throwaway
// repository with a small web service in it, says what to try, and takes everything away on Ctrl-C. It needs root.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/slipway-deploy/slipway/integration/lab"
)

const module = "github.com/slipway-deploy/slipway"

func main() {
	dist := flag.String("dist", "dist", "directory with the built packages")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *dist); err != nil {
		fmt.Fprintln(os.Stderr, "lab: error:", err)
		os.Exit(1)
	}
}

// playground is the running lab and what its commands act on.
type playground struct {
	host      *lab.Host
	server    *lab.Server
	publisher *lab.Publisher
	harbor    string
	scratch   string
}

func run(ctx context.Context, dist string) (err error) {
	set, err := lab.FindPackages(dist)
	if err != nil {
		return err
	}
	l, err := lab.Open(ctx, lab.Options{Logf: func(format string, args ...any) { fmt.Printf("   "+format+"\n", args...) }})
	if err != nil {
		return err
	}
	defer func() {
		fmt.Println("\n== Taking the lab away")
		err = errors.Join(err, l.Close())
	}()
	p, err := build(ctx, l, set)
	if err != nil {
		return err
	}
	if err := p.tell(); err != nil {
		return err
	}
	p.listen(ctx, os.Stdin)
	return nil
}

func build(ctx context.Context, l *lab.Lab, set lab.PackageSet) (*playground, error) {
	scratch, err := l.Scratch()
	if err != nil {
		return nil, err
	}
	p := &playground{scratch: scratch, harbor: filepath.Join(scratch, "harbor")}
	fmt.Println("== A throwaway repository: keys, environment staging, app harbor")
	tool := filepath.Join(scratch, "slipway-repo")
	if err := lab.GoBuild(ctx, module+"/cmd/slipway-repo", tool); err != nil {
		return nil, err
	}
	if err := lab.GoBuild(ctx, module+"/integration/apps/harbor", p.harbor); err != nil {
		return nil, err
	}
	if p.publisher, err = lab.NewPublisher(ctx, tool, scratch, "staging"); err != nil {
		return nil, err
	}
	if err := p.publisher.AddApp(ctx, "harbor"); err != nil {
		return nil, err
	}
	if err := p.deploy(ctx, "1.0.0", "ok"); err != nil {
		return nil, err
	}
	if p.server, err = l.ServeDir(p.publisher.Repo); err != nil {
		return nil, err
	}
	fmt.Printf("== A host with slipway %s\n", set.Version)
	if p.host, err = l.NewHost(ctx, "web1", lab.HostOptions{Loop: true}); err != nil {
		return nil, err
	}
	if _, err := p.host.Boot(ctx); err != nil {
		return nil, err
	}
	if _, err := p.host.InstallDeb(ctx, set.Deb); err != nil {
		return nil, err
	}
	more := "[poll]\ninterval = \"5s\"\n\n[clock]\nunsafe_unsynchronised = true\n"
	return p, p.host.Configure(ctx, p.publisher, p.server.URL, "staging", more, "harbor")
}

// deploy publishes a release of harbor and the deployment that selects it.
func (p *playground) deploy(ctx context.Context, version, behaviour string) error {
	toml, err := lab.HarborTree(p.harbor, filepath.Join(p.scratch, "build", version), version, behaviour)
	if err != nil {
		return err
	}
	if err := p.publisher.Release(ctx, "harbor", version, strings.TrimSuffix(toml, ".toml"), toml); err != nil {
		return err
	}
	return p.publisher.Deploy(ctx, "staging", "harbor", version, "--min-healthy", "10s", "--deadline", "60s")
}

func (p *playground) tell() error {
	enter, err := p.host.EnterCommand()
	if err != nil {
		return err
	}
	fmt.Printf(`
== web1 runs; harbor 1.0.0 is on its way. In another terminal, as root:

   %s

   slipway status --watch      slipway why harbor      slipway verify harbor
   slipway history harbor      slipway revert harbor   slipway doctor
   journalctl -fu slipwayd     curl localhost:8080/version

== Here:
%s
`, enter, help)
	return nil
}

const help = `
   deploy 1.1.0                        a good release
   deploy 1.2.0 unhealthy-after=5s     one that is hauled back (also: exit-at-start, hang, deaf)
   tamper | honest                     change every archive on its way | stop that
   cut | restore                       pull the network cable | put it back
   reboot | crash | power-cut          then the host boots again
   enter                               print the line above again
   Ctrl-C                              take everything away
`

// listen carries out what is typed until the context ends; without a terminal it only waits.
func (p *playground) listen(ctx context.Context, in io.Reader) {
	lines := make(chan string)
	go func() {
		scanner := bufio.NewScanner(in)
		for scanner.Scan() {
			lines <- scanner.Text()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case line := <-lines:
			words := strings.Fields(line)
			if len(words) == 0 {
				continue
			}
			started := time.Now()
			if err := p.do(ctx, words); err != nil {
				fmt.Println("   error:", err)
				continue
			}
			fmt.Printf("   done in %s\n", time.Since(started).Round(time.Millisecond))
		}
	}
}

func (p *playground) do(ctx context.Context, words []string) error {
	switch words[0] {
	case "deploy":
		if len(words) < 2 || len(words) > 3 {
			return errors.New("want: deploy VERSION [BEHAVIOUR]")
		}
		return p.deploy(ctx, words[1], append(words, "ok")[2])
	case "tamper":
		p.server.Tamper("*.tar.zst", func(b []byte) []byte {
			b[len(b)/2] ^= 1
			return b
		})
	case "honest":
		p.server.Honest()
	case "cut":
		return p.host.CutNetwork(ctx)
	case "restore":
		return p.host.RestoreNetwork(ctx)
	case "reboot":
		_, err := p.host.Reboot(ctx)
		return errors.Join(err, p.enter())
	case "crash":
		return p.again(ctx, p.host.KillLeader(ctx))
	case "power-cut":
		return p.again(ctx, p.host.PowerCut(ctx))
	case "enter":
		return p.enter()
	default:
		fmt.Print(help)
	}
	return nil
}

// again boots the host after it went off.
func (p *playground) again(ctx context.Context, err error) error {
	if err != nil {
		return err
	}
	if _, err := p.host.Boot(ctx); err != nil {
		return err
	}
	return p.enter()
}

func (p *playground) enter() error {
	enter, err := p.host.EnterCommand()
	if err == nil {
		fmt.Println("   " + enter)
	}
	return err
}
