package repository

import (
	"context"
	"fmt"
	"strings"

	"github.com/slipway-deploy/slipway/tuf/keys"
)

// keys judges what is lost and what is stolen, role by role.
func (g *diagnosis) keys(context.Context) error {
	var all []keys.Public
	for _, by := range g.roles {
		all = append(all, by.keys...)
	}
	for _, t := range g.d.policy.Environments {
		all = append(all, t.Keys...)
	}
	all = distinct(all)
	find := func(names []string) (out []keys.Public, err error) {
		for _, name := range names {
			k, err := pick("the repository", all, name)
			if err != nil {
				return nil, err
			}
			out = append(out, k)
		}
		return distinct(out), nil
	}
	lost, err := find(g.o.Lost)
	if err != nil {
		return err
	}
	stolen, err := find(g.o.Stolen)
	if err != nil {
		return err
	}
	if len(lost) > 0 {
		g.lost(lost)
	}
	if len(stolen) > 0 {
		g.stolen(stolen)
	}
	return nil
}

func (by signers) among(list []keys.Public) (n int) {
	for _, k := range list {
		if _, ok := by.find(k); ok {
			n++
		}
	}
	return n
}

func (g *diagnosis) lost(list []keys.Public) {
	dead := g.rootIsGone(list, "lost")
	remedy := append(revokeEach(list), "the answer says who must sign; then slipway-repo publish")
	for _, by := range g.roles {
		n := by.among(list)
		if n == 0 || by.role == classRoot && dead {
			continue
		}
		left := len(by.keys) - n
		f := Finding{Kind: "lost", Role: by.role, Urgent: left < by.threshold, Remedy: remedy,
			What: fmt.Sprintf("%s has %d of its %d keys left and needs %d", by.role, left, len(by.keys), by.threshold)}
		switch {
		case left >= by.threshold:
			f.Hosts = "notice nothing"
		case by.role == classSnapshot || by.role == classTimestamp:
			f.Hosts = "go on until it expires, then " + withoutRole(by.role)
			f.Remedy = append(revokeOnline(list[0]), "the root holders sign; nothing is published before that")
		default:
			f.Hosts = "go on until it expires, then " + withoutRole(by.role)
		}
		if dead && topLevel(by.role) {
			f.Remedy = []string{"only root could name other keys, and root is lost"}
		}
		g.found(f)
	}
}

// rootIsGone tells the one loss that nothing inside the repository mends.
func (g *diagnosis) rootIsGone(list []keys.Public, how string) bool {
	root := g.roles[0]
	n := root.among(list)
	gone := how == "lost" && len(root.keys)-n < root.threshold || how == "stolen" && n >= root.threshold
	if !gone {
		return false
	}
	f := Finding{Kind: "root-" + how, Role: classRoot, Urgent: true,
		Remedy: []string{"make a new repository with new keys (slipway-repo init) and publish the releases and deployments there",
			"bring its metadata/1.root.json to every host by hand, over a way you trust (docs/recovery-runbook.md)"}}
	if how == "lost" {
		f.What = fmt.Sprintf("root needs %d signatures and %d of its keys are left: no new root can be signed", root.threshold, len(root.keys)-n)
		f.Hosts = "follow this repository until its root expires, then change nothing for good"
	} else {
		f.What = fmt.Sprintf("%d of root's keys are stolen and %d suffice: the thief can replace every key of the repository", n, root.threshold)
		f.Hosts = "follow whoever reaches them first"
	}
	g.found(f)
	return true
}

// power is what a thief with enough keys of a role can do, and what is to be done beside revoking them.
func power(role string) (what string, after []string) {
	switch roleClass(role) {
	case classTargets:
		return "give every role below root to themselves", []string{"slipway-repo role show --all, and undo what they changed"}
	case classSnapshot, classTimestamp:
		return "hold news back, and show hosts versions that yours will not reach", []string{"slipway-repo publish --online-key NEW; give NEW to the timer that runs refresh"}
	case classApp:
		return "sign releases, which run nowhere unless the approvers deploy them", []string{"slipway-repo emergency revoke APP VERSION, for every release you did not make"}
	case classDeploy:
		return "deploy any signed release of the app, take the app away, and leap ahead with the sequence",
			[]string{"slipway-repo recover sequence " + words(role) + " --change ID --reason WHY, if recover diagnose tells of a leap; else deploy new --change ID"}
	case classEmergency:
		return "stop the environment, and leap ahead with the epoch",
			[]string{"slipway-repo recover epoch " + words(role) + " --change ID --reason WHY, if recover diagnose tells of a leap; else emergency lift"}
	case classInventory:
		return "list other hosts, for deployments that pin such a list", nil
	}
	return "replace every key", nil
}

func (g *diagnosis) stolen(list []keys.Public) {
	dead := g.rootIsGone(list, "stolen")
	for _, by := range g.roles {
		n := by.among(list)
		if n == 0 || by.role == classRoot && dead {
			continue
		}
		what, after := power(by.role)
		f := Finding{Kind: "stolen", Role: by.role, Urgent: n >= by.threshold, Hosts: "believe these keys until a published change takes them out",
			What: fmt.Sprintf("%d stolen keys sign %s, %d are needed: the thief can %s", n, by.role, by.threshold, what)}
		f.Remedy = append(revokeEach(list), after...)
		if n < by.threshold {
			f.What = fmt.Sprintf("%d stolen keys sign %s, %d are needed: alone the thief can do nothing there", n, by.role, by.threshold)
			f.Remedy = revokeEach(list)
		} else if by.role == classSnapshot || by.role == classTimestamp {
			f.Remedy = append(revokeOnline(list[0]), after...)
		}
		g.found(f)
	}
}

func revokeOnline(k keys.Public) []string {
	return []string{"slipway-repo key gen NEW --unencrypted, on a machine that nobody else has had",
		fmt.Sprintf("slipway-repo revoke %s --replace-with NEW.pub --use-online NEW --reason WHY", nameOf(k))}
}

// nameOf is for command lines that people paste: a name that a shell would read otherwise is not in them.
func nameOf(k keys.Public) string {
	odd := func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-')
	}
	if k.Name == "" || k.Name[0] == '-' || strings.ContainsFunc(k.Name, odd) {
		return k.ID
	}
	return k.Name
}

// sightings compares what hosts or mirrors were shown with what is published.
func (g *diagnosis) sightings(context.Context) error {
	for _, s := range g.o.Seen {
		f := Finding{Kind: "fast-forward", Role: s.Role, Urgent: true}
		have := g.d.state.version(s.Role)
		if c, ok := counterOf(s.Role); ok && s.Of != "version" {
			list, err := g.d.history(c)
			if err != nil {
				return err
			}
			if have = 0; len(list) > 0 {
				have = list[0].number
			}
		}
		f.What = fmt.Sprintf("hosts have seen %s %d of %s, published is %d", s.Of, s.Number, s.Role, have)
		f.Hosts = "that have seen it refuse what is published as a step back; the others do not"
		switch {
		case s.Number <= have:
			f.Kind, f.Urgent, f.Hosts, f.Remedy = "fine", false, "accept what is published", []string{}
		case s.Of != "version":
			f.Remedy = g.overtaking(s, have)
		case s.Role == classRoot:
			f.Remedy = []string{fmt.Sprintf("%d roots are missing here: copy them from a host's cache (/var/lib/slipway/tuf) or a mirror into metadata/, and check who signed them", s.Number-have),
				"if nobody here signed them, root is stolen: recover diagnose --stolen KEY for each of its signers"}
		default:
			f.Remedy = g.forgetVersions()
		}
		g.found(f)
	}
	return nil
}

func (g *diagnosis) overtaking(s Sighting, have int64) []string {
	what := "sequence"
	if s.Of == "epoch" {
		what = "epoch"
	}
	if s.Number-have >= maxLeap || have == 0 {
		return []string{"find out which keys signed it: the metadata that a host keeps in /var/lib/slipway/tuf has their ids", "slipway-repo revoke KEY --replace-with NEW.pub --reason WHY, for each: hosts then forget the number, and the published one counts"}
	}
	return []string{fmt.Sprintf("slipway-repo recover %s %s --above %d --reason WHY", what, words(s.Role), s.Number),
		"if nobody here signed it, revoke the keys that did: recover diagnose --stolen KEY"}
}

// forgetVersions is the recovery of the specification, 5.3.11: with other online keys in root, hosts forget every version of
// timestamp, snapshot and what the snapshot lists.
func (g *diagnosis) forgetVersions() []string {
	var online []keys.Public
	for _, by := range g.roles {
		if by.role == classSnapshot || by.role == classTimestamp {
			online = append(online, by.keys...)
		}
	}
	out := revokeOnline(distinct(online)[0])
	return append(out, "the root holders sign; then slipway-repo publish --online-key NEW: hosts forget the versions they have seen")
}
