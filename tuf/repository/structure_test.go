package repository_test

import (
	"context"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/slipway-deploy/slipway/tuf/repository"
)

// TestNoPathBelongsToTwoRoles takes names that look like each other's parts, every role that they can make, and every path that one
// of those roles may list. Clients match patterns as path.Match does.
func TestNoPathBelongsToTwoRoles(t *testing.T) {
	t.Parallel()
	names := []string{"a", "a-a", "b", "billing", "billing-2", "releases", "deployments", "emergency", "inventory", "production", "json"}
	var roles, paths []string
	for _, n := range names {
		app, env := must(release.ParseApp(n)), must(release.ParseEnvironment(n))
		roles = append(roles, repository.AppRole(app), repository.EmergencyRole(env), repository.InventoryRole(env))
		paths = append(paths, release.EmergencyPath(env), release.InventoryPath(env), release.ReleasePath(app, version("1.0.0")),
			release.ReleasePath(app, version("1.0.0-json")))
		for _, other := range names {
			roles = append(roles, repository.DeployRole(env, must(release.ParseApp(other))))
			paths = append(paths, release.DeploymentPath(env, must(release.ParseApp(other))))
		}
	}
	for _, p := range paths {
		var owners, matching []string
		for _, role := range roles {
			pattern := must(repository.PatternOf(role))
			if must(path.Match(pattern, p)) {
				matching = append(matching, role)
			}
			if repository.Owns(role, p) {
				owners = append(owners, role)
			}
		}
		if len(owners) != 1 || len(matching) != 1 || owners[0] != matching[0] {
			t.Errorf("%s is signed by %v, clients look for it in %v", p, owners, matching)
		}
	}
	for _, name := range []string{"app.a*", "app.a/b", "app.", "app.a.b", "deploy.a", "deploy.a.b.c", "deploy.*.b", "emergency.a?", "inventory.[a]", "mirror.a", "root2"} {
		if pattern, err := repository.PatternOf(name); err == nil {
			t.Errorf("a role %s would get %s", name, pattern)
		}
	}
}

// edited is what a person with an editor makes of a payload, before anybody signs.
func (f *fixture) edited(c *repository.Change, role string, edit func(signed map[string]any)) *repository.Change {
	f.t.Helper()
	file := filepath.Join(c.Dir(), "payloads", role+".json")
	var doc map[string]any
	f.ok(json.Unmarshal(must(os.ReadFile(file)), &doc))
	edit(doc)
	f.ok(os.WriteFile(file, must(json.Marshal(doc)), 0o644))
	return must(f.r.Change(c.ID))
}

func delegations(signed map[string]any) []any {
	return signed["delegations"].(map[string]any)["roles"].([]any)
}

func TestWhatDelegatesMoreThanItShouldIsNotPublishedThoughAllHaveSigned(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		edit       func(signed map[string]any)
		rule, want string
	}{
		"a wider pattern": {func(s map[string]any) {
			delegations(s)[1].(map[string]any)["paths"] = []any{"deployments/production/*"}
		}, "patterns never overlap", "for exactly deployments/production/billing.json"},
		"a second pattern": {func(s map[string]any) {
			delegations(s)[1].(map[string]any)["paths"] = []any{"deployments/production/billing.json", "releases/billing/*/*"}
		}, "patterns never overlap", "deploy.production.billing"},
		"not terminating": {func(s map[string]any) { delegations(s)[1].(map[string]any)["terminating"] = false }, "patterns never overlap", "terminating"},
		"a role two times": {func(s map[string]any) {
			s["delegations"].(map[string]any)["roles"] = append(delegations(s), delegations(s)[1])
		}, "patterns never overlap", "be there once"},
		"a foreign target": {func(s map[string]any) {
			s["targets"] = map[string]any{"emergency/production.json": map[string]any{"length": 2, "hashes": map[string]any{"sha256": strings.Repeat("0", 64)}}}
		}, "a role signs its own paths", "targets: it lists emergency/production.json"},
		"a threshold that its keys cannot reach": {func(s map[string]any) { delegations(s)[1].(map[string]any)["threshold"] = 4 }, "one key, one vote", "needs 4 signatures and has 3"},
	} {
		t.Run(name, func(t *testing.T) {
			f := standard(t)
			change := f.edited(f.set("app.billing", repository.RoleOptions{Add: f.public("ci2")}), "targets", c.edit)
			var refused *repository.RefusedError
			if _, err := f.r.Sign(context.Background(), change, f.key("alice")); !errors.As(err, &refused) || refused.Rule != c.rule {
				t.Errorf("a signer is not kept from it: %v", err)
			}
			f.smuggle(change, "targets", "alice")
			f.smuggle(change, "targets", "bob")
			_, err := f.tryPublish(change.ID)
			if !errors.As(err, &refused) || refused.Rule != c.rule || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "; ") {
				t.Errorf("got %v", err)
			}
			if v := f.verify(); v.Targets != 3 {
				t.Errorf("hosts have %+v", v)
			}
		})
	}
}

func TestAnOnlineKeySignsNothingElseHoweverItIsAdded(t *testing.T) {
	t.Parallel()
	f := standard(t)
	ctx := context.Background()
	staging, shop := must(release.ParseEnvironment("staging")), must(release.ParseApp("shop"))
	ann := repository.Template{Keys: f.public("ann"), Threshold: 1}
	online := f.public("online")
	for name, do := range map[string]func() error{
		"an app's key": func() error {
			_, err := f.r.AddApp(ctx, shop, repository.AppOptions{Keys: online, Threshold: 1})
			return err
		},
		"an approver": func() error {
			_, err := f.r.AddEnvironment(ctx, staging, repository.EnvironmentOptions{Template: repository.Template{Keys: online, Threshold: 1}})
			return err
		},
		"an emergency key": func() error {
			_, err := f.r.AddEnvironment(ctx, staging, repository.EnvironmentOptions{Template: ann, Emergency: online})
			return err
		},
		"an inventory key": func() error {
			_, err := f.r.AddEnvironment(ctx, staging, repository.EnvironmentOptions{Template: ann, Inventory: online})
			return err
		},
		"a later approver": func() error { _, err := f.setEnvironment(repository.EnvironmentSetOptions{Add: online}); return err },
		"a later inventory": func() error {
			_, err := f.setEnvironment(repository.EnvironmentSetOptions{Inventory: online})
			return err
		},
		"an approver online": func() error {
			_, err := f.r.SetRole(ctx, "timestamp", repository.RoleOptions{Add: f.public("ann"), Reason: "a test"})
			return err
		},
		"an app's key online": func() error {
			_, err := f.r.SetRole(ctx, "snapshot", repository.RoleOptions{Add: f.public("ci"), Reason: "a test"})
			return err
		},
	} {
		if err := do(); kindOf(err) != "refused" || !strings.Contains(err.Error(), "make a separate key for snapshot and timestamp") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if all, _ := f.r.Changes(); len(all) != 0 {
		t.Errorf("refusals left changes behind: %v", all)
	}
}

// TestEveryRefusalHasARuleAndARemedy reads the source: a refusal without a way out is a dead end for whoever meets it.
func TestEveryRefusalHasARuleAndARemedy(t *testing.T) {
	t.Parallel()
	seen := 0
	judge := func(file *token.FileSet, pos token.Pos, rule, remedy ast.Expr) {
		seen++
		for _, e := range []ast.Expr{rule, remedy} {
			if lit, ok := e.(*ast.BasicLit); e == nil || ok && len(strings.TrimSpace(lit.Value)) < 8 {
				t.Errorf("%s refuses without a rule or a remedy", file.Position(pos))
			}
		}
	}
	fset := token.NewFileSet()
	visit := func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			if f, ok := n.Fun.(*ast.Ident); ok && f.Name == "refuse" && len(n.Args) == 3 {
				judge(fset, n.Pos(), n.Args[0], n.Args[2])
			}
		case *ast.CompositeLit:
			if isRefusal(n.Type) && n.Elts != nil {
				fields := map[string]ast.Expr{}
				for _, e := range n.Elts {
					if kv, ok := e.(*ast.KeyValueExpr); ok {
						fields[kv.Key.(*ast.Ident).Name] = kv.Value
					}
				}
				judge(fset, n.Pos(), fields["Rule"], fields["Remedy"])
			}
		}
		return true
	}
	for _, file := range slices.Concat(must(filepath.Glob("*.go")), must(filepath.Glob("../../cmd/slipway-repo/*.go"))) {
		if !strings.HasSuffix(file, "_test.go") {
			ast.Inspect(must(parser.ParseFile(fset, file, nil, 0)), visit)
		}
	}
	if seen < 60 {
		t.Errorf("only %d refusals were found", seen)
	}
}

func isRefusal(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name == "RefusedError"
	case *ast.SelectorExpr:
		return e.Sel.Name == "RefusedError"
	}
	return false
}
