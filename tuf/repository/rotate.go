package repository

import (
	"context"
	"fmt"
	"strings"
)

// OnlineRoles is the name under which snapshot and timestamp rotate together: they share keys, and one that stays behind
// in the other role stays trusted.
const OnlineRoles = "online"

const kindRotate = "rotate"

// RotationStep is one step of a rotation: "done", "now" or "later".
type RotationStep struct {
	Title    string   `json:"title"`
	State    string   `json:"state"`
	Details  []string `json:"details,omitempty"`
	Commands []string `json:"commands,omitempty"`
}

// Rotation is how far the rotation of a role's keys has come. Its only memory is the open change: it can be left at any step
// and taken up on any machine that has the repository.
type Rotation struct {
	Role   string         `json:"role"`
	Change *Change        `json:"change,omitempty"`
	Steps  []RotationStep `json:"steps"`
	// Complete says that all signatures are there.
	Complete bool `json:"complete"`
}

// Rotate opens the change of a rotation: SetRole, for OnlineRoles in both roles. One rotation of a role is open at a time.
func (r *Repository) Rotate(ctx context.Context, role string, o RoleOptions) (*Change, error) {
	if err := checkReason(o.Reason); err != nil {
		return nil, err
	}
	return r.change(ctx, kindRotate, o.Origin, func(d *draft) (string, error) {
		d.useOnline(o.UseOnline)
		var all []string
		for _, name := range rotating(role) {
			words, err := d.setRole(name, o)
			if err != nil {
				return "", err
			}
			all = append(all, name+": "+strings.Join(words, ", "))
		}
		return summary(kindRotate+" "+role+": "+strings.Join(all, "; "), o.NoSpare, o.Reason), nil
	})
}

func rotating(role string) []string {
	if role == OnlineRoles {
		return []string{classSnapshot, classTimestamp}
	}
	return []string{role}
}

// Rotation finds the open rotation of a role and says what is done and what comes next.
func (r *Repository) Rotation(role string) (*Rotation, error) {
	views, err := r.Roles(rotating(role)...)
	if err != nil {
		return nil, err
	}
	open, err := r.Changes()
	if err != nil {
		return nil, err
	}
	out := &Rotation{Role: role}
	for _, c := range open {
		mark := kindRotate + " " + role + ": "
		if c.Kind == kindRotate && strings.HasPrefix(c.Summary, mark) || strings.Contains(c.Summary, "; "+mark) {
			out.Change = c
		}
	}
	var progress []Progress
	if out.Change != nil {
		s, err := load(r.metadataDir())
		if err != nil {
			return nil, err
		}
		if err := r.fresh(s, out.Change); err != nil {
			return nil, err
		}
		if progress, err = r.Progress(out.Change); err != nil {
			return nil, err
		}
		out.Complete = true
		for _, p := range progress {
			out.Complete = out.Complete && p.Done()
		}
	}
	out.Steps = out.steps(views, progress)
	return out, nil
}

func (w *Rotation) steps(views []RoleView, progress []Progress) []RotationStep {
	state := func(done, now bool) string {
		switch {
		case done:
			return "done"
		case now:
			return "now"
		}
		return "later"
	}
	started, id := w.Change != nil, "ID"
	keyStep := RotationStep{Title: "every new holder makes a key on their own machine and sends FILE.pub", State: state(started, true), Commands: []string{"slipway-repo key gen FILE"}}
	change := RotationStep{Title: "write the change", State: state(started, true), Commands: []string{"slipway-repo rotate " + w.Role + " --remove-key KEY --add-key FILE.pub --reason WHY"}}
	for _, v := range views {
		change.Details = append(change.Details, fmt.Sprintf("%s is signed by %d of %s", v.Role, v.Threshold, joinKeys(v.Keys)))
	}
	sign := RotationStep{Title: "have it signed, each holder on their own machine; the folder travels", State: state(w.Complete, started)}
	if started {
		id = w.Change.ID
		change.Details, change.Commands = []string{id, w.Change.Summary}, nil
		keyStep.Commands = nil
		for _, p := range progress {
			sign.Details = append(sign.Details, fmt.Sprintf("%s (keys of %s)", p, p.By))
		}
	}
	if !w.Complete {
		sign.Commands = []string{"slipway-repo change sign " + id + " --key FILE", "slipway-repo rotate " + w.Role + " --sign FILE"}
	}
	publish := RotationStep{Title: "check as hosts do, and publish", State: state(false, w.Complete), Commands: []string{"slipway-repo publish " + id}}
	if w.Role == OnlineRoles || w.Role == classTimestamp || w.Role == classSnapshot {
		publish.Commands = []string{"slipway-repo publish " + id + " --online-key NEW"}
	}
	return []RotationStep{keyStep, change, sign, publish, {Title: "afterwards", State: "later", Details: AfterRotation(w.Role)}}
}

// AfterRotation is what remains to be done once a rotation is published, and what hosts do.
func AfterRotation(role string) []string {
	switch role {
	case classRoot:
		return []string{"hosts follow from the root they have pinned, through every root since: keep all N.root.json, change nothing on hosts",
			"pin the newest root on hosts that are installed from now on", "destroy the old key once slipway-repo verify is content"}
	case OnlineRoles, classSnapshot, classTimestamp:
		return []string{"give the new key to the timer that runs refresh, and see that it works: slipway-repo refresh --force",
			"hosts forget the versions of timestamp and snapshot they know, and take what is published", "destroy the old key"}
	}
	return []string{"hosts take the new keys with their next look at the repository",
		"a sequence or epoch that the old key signed no longer binds them", "destroy the old key"}
}
