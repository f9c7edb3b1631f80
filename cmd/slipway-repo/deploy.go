package main

import (
	"context"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/repository"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// deployFlags are the words of deploy new; what a flag says wins over the file.
type deployFlags struct {
	env, app, version, fallback, file     string
	absent                                bool
	state, reason, ticket                 string
	notBefore, expires, freshness         string
	minHealthy, deadline, onFirst, revoke string
}

func (t *tool) deployCommand() *cobra.Command {
	var d deployFlags
	var m changing
	var bypass string
	c := &cobra.Command{
		Use: "new", Short: "Say what an environment shall run", Args: cobra.NoArgs,
		Long: `Opens a change with the next deployment of APP in ENVIRONMENT. Sequence, rollout id, creation time and fallback are filled in.
The file is TOML with the names of the deployment document (docs/publishing.md); flags win over the file. The approvers of
the environment sign it.`,
		Example: `  slipway-repo deploy new --env production --app billing --release 2.4.1 --ticket OPS-1234 --sign ann --sign ben
  slipway-repo deploy new --env production --app billing --file deployment.toml --requested-by dora
  slipway-repo deploy new --env staging --app billing --absent --sign ci`,
	}
	f := c.Flags()
	f.StringVar(&d.env, "env", "", "`environment`")
	f.StringVar(&d.app, "app", "", "`app`")
	f.StringVar(&d.version, "release", "", "`version` of the release to run")
	f.BoolVar(&d.absent, "absent", false, "the app shall not be there")
	f.StringVar(&d.state, "state", "", "active, paused, halted or revert")
	f.StringVar(&bypass, "without-promotion", "", "`reason` to deploy a release that policy.json wants promoted")
	d.flags(f)
	m.flags(c)
	c.RunE = t.do(func(ctx context.Context, _ []string) error {
		w, file, err := d.wish(time.Now())
		if err != nil {
			return err
		}
		w.Origin, w.Bypass, w.Judge = m.origin(), bypass, t.judge(file)
		return t.make(ctx, &m, func(r *repository.Repository) (*repository.Change, error) {
			c, err := r.NewDeployment(ctx, *w)
			return c, file.locate(err)
		})
	})
	return t.group("deploy", "Make and plan deployments", "", c, t.promoteCommand(), t.amendCommand(), t.planCommand())
}

// flags are those that every way to a deployment has.
func (d *deployFlags) flags(f *pflag.FlagSet) {
	f.StringVar(&d.fallback, "fallback", "", "`version` a fleet revert goes back to (default: what was deployed before)")
	f.StringVar(&d.file, "file", "", "TOML `file` with waves, budget, windows, health and the like")
	f.StringVar(&d.reason, "reason", "", "why, for people")
	f.StringVar(&d.ticket, "ticket", "", "ticket, for people")
	f.StringVar(&d.notBefore, "not-before", "", "start no earlier than this `time` (RFC 3339, or 2h from now)")
	f.StringVar(&d.expires, "expires", "", "start nothing after this `time` (RFC 3339, or 72h from now)")
	f.StringVar(&d.freshness, "freshness", "", "how recent news must be for a host to start, such as 24h")
	f.StringVar(&d.minHealthy, "min-healthy", "", "how long a trial must be healthy to commit, such as 5m")
	f.StringVar(&d.deadline, "deadline", "", "when a trial that is not healthy reverts, such as 10m")
	f.StringVar(&d.onFirst, "on-first-failure", "", "what a failed first installation leaves: remove or keep")
	f.StringVar(&d.revoke, "on-revoked", "", "what happens to a running release that is revoked: keep, revert or stop")
}

// wish merges file and flags. The file knows where each problem of the document comes from.
func (d *deployFlags) wish(now time.Time) (*repository.Wish, *written, error) {
	file := &written{path: "the command line", doc: map[string]any{}, lines: map[string]int{}}
	var err error
	if d.file != "" {
		if file, err = readTOML(d.file); err != nil {
			return nil, nil, err
		}
	}
	w := &repository.Wish{}
	if err := d.fromFile(file, w); err != nil {
		return nil, nil, err
	}
	if d.env == "" || d.app == "" {
		return nil, nil, usage("name the environment and the app: --env ENVIRONMENT --app APP")
	}
	if (d.version == "") == !d.absent {
		return nil, nil, usage("say what shall run: exactly one of --release VERSION and --absent")
	}
	w.Absent = d.absent
	if err := d.names(w); err != nil {
		return nil, nil, err
	}
	if err := d.toFile(file, now); err != nil {
		return nil, nil, err
	}
	return w, file, d.document(file, w, now)
}

// fromFile takes the keys that name things by their short names; in the document they are references.
func (d *deployFlags) fromFile(file *written, w *repository.Wish) error {
	if file.doc["inventory"] == "published" {
		delete(file.doc, "inventory")
		w.PinInventory = true
	}
	if err := file.refuse("schema", "sequence", "rollout_id", "created"); err != nil {
		return err
	}
	for key, flag := range map[string]*string{"environment": &d.env, "app": &d.app, "release": &d.version, "fallback": &d.fallback} {
		s, err := file.text(key)
		if err != nil {
			return err
		}
		if *flag == "" && !(key == "release" && d.absent) {
			*flag = s
		}
	}
	if v, ok := file.doc["absent"]; ok {
		delete(file.doc, "absent")
		b, isBool := v.(bool)
		if !isBool {
			return file.problem("absent", "want true or false")
		}
		d.absent = d.absent || b && d.version == ""
	}
	return nil
}

func (d *deployFlags) names(w *repository.Wish) error {
	var err error
	if w.Environment, err = release.ParseEnvironment(d.env); err != nil {
		return usage("%v", err)
	}
	if w.App, err = release.ParseApp(d.app); err != nil {
		return usage("%v", err)
	}
	if d.version != "" {
		if w.Version, err = release.ParseVersion(d.version); err != nil {
			return usage("%v", err)
		}
	}
	if d.fallback != "" {
		if w.Fallback, err = release.ParseVersion(d.fallback); err != nil {
			return usage("%v", err)
		}
	}
	return nil
}

func (d *deployFlags) toFile(file *written, now time.Time) error {
	for key, v := range map[string]string{"state": d.state, "reason": d.reason, "ticket": d.ticket, "freshness": d.freshness,
		"on_first_failure": d.onFirst, "on_revoked": d.revoke} {
		if v != "" {
			file.override(key, v)
		}
	}
	for key, v := range map[string]string{"not_before": d.notBefore, "expires": d.expires} {
		if v == "" {
			continue
		}
		at, err := moment(v, now)
		if err != nil {
			return usage("--%s: %v", strings.ReplaceAll(key, "_", "-"), err)
		}
		file.override(key, at.Format(time.RFC3339))
	}
	if d.minHealthy != "" || d.deadline != "" {
		health, ok := file.doc["health"].(map[string]any)
		if !ok {
			if _, there := file.doc["health"]; there {
				return file.problem("health", "want a table")
			}
			health = map[string]any{}
		}
		for key, v := range map[string]string{"min_healthy_time": d.minHealthy, "healthy_deadline": d.deadline} {
			if v != "" {
				health[key] = v
				file.lines["health."+key] = 0
			}
		}
		file.doc["health"] = health
	}
	return nil
}

// document lets the strict parser judge what the person wrote, with stand-ins for what the repository will fill in.
func (d *deployFlags) document(file *written, w *repository.Wish, now time.Time) error {
	add := map[string]any{"schema": release.DeploymentSchema, "app": w.App, "environment": w.Environment, "sequence": 1,
		"rollout_id": "draft", "created": now.UTC().Truncate(time.Second).Format(time.RFC3339)}
	if _, ok := file.doc["state"]; !ok {
		add["state"] = release.StateActive
	}
	standIn := func(v release.Version) release.Reference {
		return release.Reference{Path: release.ReleasePath(w.App, v), SHA256: release.Sum([]byte(v.String()))}
	}
	if w.Absent {
		add["absent"] = true
	} else {
		add["release"] = standIn(w.Version)
	}
	if fallback := w.Fallback; !fallback.IsZero() || !w.Absent {
		if fallback.IsZero() {
			fallback, _ = release.ParseVersion("0-before-" + w.Version.String())
		}
		if !fallback.IsZero() {
			add["fallback"] = standIn(fallback)
		}
	}
	if w.PinInventory {
		add["inventory"] = release.InventoryRef{SHA256: release.Sum(nil)}
	}
	data, err := file.with(add)
	if err != nil {
		return err
	}
	doc, err := release.ParseDeployment(data)
	if err != nil {
		return file.locate(err)
	}
	if w.PinInventory {
		doc.Inventory = nil
	}
	doc.Release, doc.Fallback, doc.RolloutID, doc.Sequence, doc.Created = nil, nil, "", 0, time.Time{}
	w.Document = *doc
	return nil
}

// moment reads a time, or a duration from now.
func moment(s string, now time.Time) (time.Time, error) {
	if d, err := release.ParseDuration(s); err == nil {
		return now.UTC().Truncate(time.Second).Add(d.Std()), nil
	}
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, usage("%q is neither a time like 2026-01-31T12:00:00Z nor a duration like 72h", s)
	}
	return at.UTC().Truncate(time.Second), nil
}
