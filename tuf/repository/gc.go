package repository

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/release"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

var (
	fpCollectMeta   = durable.NewFailpoint("repository.gc.before-metadata")
	fpCollectTarget = durable.NewFailpoint("repository.gc.before-target")
)

// GarbageOptions say what is old enough to go.
type GarbageOptions struct {
	// Grace is how long a version stays after the next one came: clients that have read an older timestamp finish reading.
	// Zero means 7 days.
	Grace time.Duration
	// Targets also takes files that no metadata that stays lists, and no release that stays pins.
	Targets bool
	// Delete removes what was found. Without it nothing changes.
	Delete bool
}

// Garbage is what nobody can need any more.
type Garbage struct {
	Metadata []Superseded `json:"metadata"`
	Targets  []Superseded `json:"targets"`
	Bytes    int64        `json:"bytes"`
	Deleted  bool         `json:"deleted"`
}

// Superseded is one file, by its name in metadata/ or targets/, and since when it has been superseded or unused.
type Superseded struct {
	Name  string    `json:"name"`
	Bytes int64     `json:"bytes"`
	Since time.Time `json:"since"`
}

// CollectGarbage finds metadata that no client can need, whatever root it has pinned, and deletes it if asked to. A client comes
// from its root to the published timestamp, and from there to exactly the versions that stay:
//
//   - every root, for ever: a host that was off for years follows them one by one;
//   - of every other role the published version, any newer one (an interrupted publish), and those within the grace;
//   - of deployments and emergencies every version: their numbers and signers say what hosts remember, and recovery asks them.
//
// What is to go is known before the first file goes, and no file that stays depends on one that goes: it can be interrupted
// anywhere and run again.
func (r *Repository) CollectGarbage(ctx context.Context, o GarbageOptions) (*Garbage, error) {
	lock, err := r.exclusive()
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	if o.Grace == 0 {
		o.Grace = 7 * day
	}
	g := &sweep{r: r, o: o, limit: r.now().Add(-o.Grace), out: &Garbage{Metadata: []Superseded{}, Targets: []Superseded{}}}
	if g.s, err = load(r.metadataDir()); err != nil {
		return nil, err
	}
	if !g.s.published() {
		return nil, refuse("the first change comes first", "cannot collect garbage: nothing is published yet", "sign and publish the repository's first change")
	}
	begun, err := r.pending()
	if err != nil {
		return nil, err
	}
	if begun != nil {
		return nil, refuse("what is begun is finished", "cannot collect garbage: a publish was interrupted and may have got through", "run publish again")
	}
	if err := g.metadata(); err != nil {
		return nil, err
	}
	if o.Targets {
		if err := g.targets(ctx); err != nil {
			return nil, err
		}
	}
	for _, one := range slices.Concat(g.out.Metadata, g.out.Targets) {
		g.out.Bytes += one.Bytes
	}
	if o.Delete {
		err = g.delete(ctx)
	}
	return g.out, err
}

// sweep is one collection.
type sweep struct {
	r     *Repository
	s     *state
	o     GarbageOptions
	limit time.Time
	stays []string // names in metadata/ of delegated roles and targets that stay
	out   *Garbage
}

// metadata sorts the versions of each role.
func (g *sweep) metadata() error {
	entries, err := os.ReadDir(g.r.metadataDir())
	if err != nil {
		return fmt.Errorf("cannot collect garbage: %w", err)
	}
	versions := map[string]map[int64]fs.DirEntry{}
	for _, e := range entries {
		number, rest, ok := strings.Cut(e.Name(), ".")
		role, isJSON := strings.CutSuffix(rest, ".json")
		v, err := strconv.ParseInt(number, 10, 64)
		if !ok || !isJSON || err != nil || !e.Type().IsRegular() || metaName(role, v) != e.Name() {
			continue // the timestamp, and what is not ours
		}
		if versions[role] == nil {
			versions[role] = map[int64]fs.DirEntry{}
		}
		versions[role][v] = e
	}
	for _, role := range sortedKeys(versions) {
		if err := g.role(role, versions[role]); err != nil {
			return err
		}
	}
	return nil
}

// role lists the versions of a role that go. A version is superseded when the next one that is there was written.
func (g *sweep) role(role string, versions map[int64]fs.DirEntry) error {
	order := slices.Sorted(maps.Keys(versions))
	for i, v := range order {
		goes := v < g.s.version(role) && g.mayGo(role)
		var since time.Time
		if goes {
			next, err := versions[order[i+1]].Info()
			if err != nil {
				return fmt.Errorf("cannot collect garbage: %w", err)
			}
			since = next.ModTime()
			goes = since.Before(g.limit)
		}
		if !goes {
			g.stays = append(g.stays, versions[v].Name())
			continue
		}
		info, err := versions[v].Info()
		if err != nil {
			return fmt.Errorf("cannot collect garbage: %w", err)
		}
		g.out.Metadata = append(g.out.Metadata, Superseded{Name: versions[v].Name(), Bytes: info.Size(), Since: since.UTC()})
	}
	return nil
}

// mayGo is false for roles whose history is needed, and for names that are no role of ours.
func (g *sweep) mayGo(role string) bool {
	switch class := roleClass(role); class {
	case classRoot, classDeploy, classEmergency:
		return false
	default:
		if topLevel(role) {
			return true
		}
		_, err := rolePattern(role)
		return err == nil
	}
}

// targets finds files that nothing that stays leads to. A file that was written lately may belong to a publish that was
// interrupted.
func (g *sweep) targets(ctx context.Context) error {
	used, err := g.used(ctx)
	if err != nil {
		return err
	}
	dir := g.r.targetsDir()
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("cannot collect garbage: %w", err)
		}
		if !e.Type().IsRegular() {
			return ctx.Err()
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return fmt.Errorf("cannot collect garbage: %w", err)
		}
		info, err := e.Info()
		if err != nil {
			return fmt.Errorf("cannot collect garbage: %w", err)
		}
		if name := filepath.ToSlash(rel); !used[name] && info.ModTime().Before(g.limit) {
			g.out.Targets = append(g.out.Targets, Superseded{Name: name, Bytes: info.Size(), Since: info.ModTime().UTC()})
		}
		return nil
	})
}

// used are the stored names of everything that metadata that stays lists, and that listed releases pin. A release whose document
// cannot be read stops the collection: what it pins is not known.
func (g *sweep) used(ctx context.Context) (map[string]bool, error) {
	used := map[string]bool{}
	for _, name := range g.stays {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		_, role, _ := strings.Cut(strings.TrimSuffix(name, ".json"), ".")
		if role == classRoot || role == classSnapshot {
			continue
		}
		t, err := readMeta[metadata.TargetsType](filepath.Join(g.r.metadataDir(), name), role)
		if err != nil {
			return nil, err
		}
		for path, f := range t.Targets {
			sum, err := release.ParseDigest(f.Hashes["sha256"].String())
			if err != nil {
				return nil, fmt.Errorf("cannot read the digest of %s: %w", path, err)
			}
			stored := storedName(path, sum)
			if used[stored] {
				continue
			}
			used[stored] = true
			if roleClass(role) == classApp {
				if err := g.pins(path, sum, used); err != nil {
					return nil, err
				}
			}
		}
	}
	return used, nil
}

func (g *sweep) pins(path string, sum release.Digest, used map[string]bool) error {
	raw, err := readBounded(g.r.targetPath(path, sum), maxDocument)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot collect garbage among the targets: %s is listed and not there; run verify --payloads", path)
	}
	if err != nil {
		return fmt.Errorf("cannot collect garbage: %w", err)
	}
	doc, err := release.ParseRelease(raw)
	if err != nil {
		return err
	}
	for _, f := range pinned(doc) {
		used[storedName(f.Path, f.SHA256)] = true
	}
	return nil
}

func (g *sweep) delete(ctx context.Context) error {
	for _, list := range []struct {
		dir   string
		files []Superseded
		point *durable.Failpoint
	}{{g.r.metadataDir(), g.out.Metadata, fpCollectMeta}, {g.r.targetsDir(), g.out.Targets, fpCollectTarget}} {
		for _, one := range list.files {
			if err := errors.Join(ctx.Err(), list.point.Hit()); err != nil {
				return err
			}
			path := filepath.Join(list.dir, filepath.FromSlash(one.Name))
			if err := durable.Remove(path); err != nil {
				return err
			}
			if list.dir != g.r.metadataDir() {
				pruneEmpty(list.dir, filepath.Dir(path))
			}
		}
	}
	g.out.Deleted = true
	return nil
}

// pruneEmpty removes directories that nothing is left in, up to but not including top.
func pruneEmpty(top, dir string) {
	for dir != top && strings.HasPrefix(dir, top) && os.Remove(dir) == nil {
		dir = filepath.Dir(dir)
	}
}
