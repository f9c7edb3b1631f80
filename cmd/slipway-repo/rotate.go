package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/slipway-deploy/slipway/tuf/keys"
	"github.com/slipway-deploy/slipway/tuf/repository"
	"github.com/spf13/cobra"
)

// rotateFlags are the flags of rotate, as typed.
type rotateFlags struct {
	roleFlags
	onlineKeys []string
	yes        bool
}

func (t *tool) rotateCommand() *cobra.Command {
	var k rotateFlags
	c := &cobra.Command{
		Use: "rotate ROLE", Short: "Be led through a change of keys, step by step", Args: cobra.ExactArgs(1),
		Long: `Leads through the rotation of the keys of root, targets, "online" (snapshot and timestamp together) or any other role: which keys leave and come, the
change, who must sign, publishing, and what to do afterwards. Without flags it asks. It can be left at any step: run it again, on
any machine that has the repository, and it goes on where the open change stands. It asks before it publishes, and with --yes it
publishes as soon as all signatures are there.`,
		Example: `  slipway-repo rotate root
  slipway-repo rotate root --remove-key bob --add-key dora.pub --reason "bob's card is worn out" --sign alice
  slipway-repo rotate root --sign carol --yes
  slipway-repo rotate online --remove-key online --add-key online2.pub --use-online online2 --reason "once a year"`,
	}
	k.m.flags(c)
	f := c.Flags()
	f.StringArrayVar(&k.add, "add-key", nil, "public key `file` that comes (repeatable)")
	f.StringArrayVar(&k.remove, "remove-key", nil, "`key` that leaves, by id or name (repeatable)")
	f.IntVar(&k.threshold, "threshold", 0, "how many of the keys must sign")
	f.StringVar(&k.noSpare, "allow-no-spare", "", "`reason` why no key may be lost (threshold = number of keys)")
	f.StringVar(&k.reason, "reason", "", "`why`, for the signers to see")
	f.StringArrayVar(&k.online, "use-online", nil, "online key `file` for policy.json to remember instead of those it has (repeatable)")
	f.StringArrayVar(&k.onlineKeys, "online-key", nil, "key `file`, or exec:PROGRAM, for snapshot and timestamp when it publishes (default: policy.json)")
	f.BoolVar(&k.yes, "yes", false, "publish without asking")
	c.RunE = func(c *cobra.Command, args []string) error {
		t.started = true
		return t.rotate(c.Context(), args[0], &k, c.Flags().Changed("threshold"))
	}
	return c
}

func (t *tool) rotate(ctx context.Context, role string, k *rotateFlags, threshold bool) error {
	r, err := t.open()
	if err != nil {
		return err
	}
	w, err := r.Rotation(role)
	if err != nil {
		return err
	}
	d := &dialog{t: t, in: bufio.NewReader(t.in)}
	asked := len(k.add)+len(k.remove) > 0 || threshold
	switch {
	case w.Change != nil && asked && k.m.into == "":
		return &repository.ConflictError{Role: role, Change: w.Change.ID}
	case w.Change == nil && !asked:
		if threshold, err = d.wishes(w, k); err != nil {
			return err
		}
		asked = true
	}
	if asked {
		if err := t.beginRotation(ctx, r, role, k, threshold); err != nil {
			return err
		}
	}
	if err := t.signRotation(ctx, r, role, k.m.sign); err != nil {
		return err
	}
	if w, err = r.Rotation(role); err != nil {
		return err
	}
	if !w.Complete {
		return t.showRotation(w)
	}
	return t.finishRotation(ctx, r, w, k, d)
}

func (t *tool) beginRotation(ctx context.Context, r *repository.Repository, role string, k *rotateFlags, threshold bool) error {
	o := repository.RoleOptions{Remove: k.remove, NoSpare: k.noSpare, Reason: k.reason, Origin: k.m.origin()}
	if threshold {
		o.Threshold = &k.threshold
	}
	var err error
	if o.Add, err = publicKeys(k.add); err != nil {
		return err
	}
	if o.UseOnline, err = absolute(k.online); err != nil {
		return err
	}
	_, err = t.warned(func(r *repository.Repository) (*repository.Change, error) { return r.Rotate(ctx, role, o) })(r)
	return err
}

func (t *tool) signRotation(ctx context.Context, r *repository.Repository, role string, refs []string) error {
	if len(refs) == 0 {
		return nil
	}
	w, err := r.Rotation(role)
	if err != nil {
		return err
	}
	signers, err := t.signers(ctx, refs)
	if err != nil {
		return err
	}
	if err := t.signHere(ctx, r, w.Change, signers); err != nil {
		return fmt.Errorf("%w (change %s stays open)", err, w.Change.ID)
	}
	return nil
}

func (t *tool) showRotation(w *repository.Rotation) error {
	return t.answer(w, func(out io.Writer) {
		fmt.Fprintf(out, "rotation of %s\n", w.Role)
		for i, s := range w.Steps {
			fmt.Fprintf(out, "  %d. [%s] %s\n", i+1, s.State, s.Title)
			if s.State == "later" {
				continue
			}
			for _, line := range s.Details {
				fmt.Fprintf(out, "       %s\n", line)
			}
			for _, line := range s.Commands {
				fmt.Fprintf(out, "       $ %s\n", line)
			}
		}
	})
}

// finishRotation publishes, if a person or --yes says so; otherwise it shows that this is the next step.
func (t *tool) finishRotation(ctx context.Context, r *repository.Repository, w *repository.Rotation, k *rotateFlags, d *dialog) error {
	if !k.yes {
		if t.json {
			return t.showRotation(w)
		}
		if err := t.showRotation(w); err != nil {
			return err
		}
		if !d.yes("All signatures are there. Publish now?") {
			t.say("not published: run slipway-repo rotate %s again, or publish %s", w.Role, w.Change.ID)
			return nil
		}
	}
	online, err := t.rotationOnline(ctx, r, w.Change, k.onlineKeys)
	if err != nil {
		return err
	}
	to, err := t.destinations(r, nil)
	if err != nil {
		return err
	}
	out, err := r.Publish(ctx, repository.PublishOptions{Changes: []string{w.Change.ID}, Online: online, To: to})
	if err = t.lags(err); err != nil {
		return err
	}
	after := repository.AfterRotation(w.Role)
	return t.answer(map[string]any{"published": out, "afterwards": after}, func(to io.Writer) {
		fmt.Fprintf(to, "published %s, timestamp is now version %d\n", w.Change.ID, out.Timestamp)
		for _, line := range after {
			fmt.Fprintf(to, "  %s\n", line)
		}
	})
}

// rotationOnline opens the online keys named by flag, else those that the change brings, else the policy's.
func (t *tool) rotationOnline(ctx context.Context, r *repository.Repository, c *repository.Change, refs []string) ([]keys.Signer, error) {
	if len(refs) == 0 && c.Policy != nil && len(c.Policy.OnlineKeys) > 0 {
		return t.remembered(r, c.Policy.OnlineKeys)
	}
	return t.online(ctx, r, refs)
}

// dialog asks one person, line by line. The end of the input is an answer too: the empty one.
type dialog struct {
	t  *tool
	in *bufio.Reader
}

var errNobody = errors.New("nobody answers")

func (d *dialog) ask(question string) (string, error) {
	fmt.Fprintf(d.t.err, "%s ", question)
	line, err := d.in.ReadString('\n')
	if err != nil && line == "" {
		fmt.Fprintln(d.t.err)
		return "", errNobody
	}
	return strings.TrimSpace(line), nil
}

func (d *dialog) yes(question string) bool {
	answer, err := d.ask(question + " [y/N]")
	return err == nil && (strings.EqualFold(answer, "y") || strings.EqualFold(answer, "yes"))
}

// wishes asks what shall change; nothing is written before the last answer.
func (d *dialog) wishes(w *repository.Rotation, k *rotateFlags) (threshold bool, err error) {
	if d.t.json {
		return false, usage("say what changes: --remove-key KEY, --add-key FILE.pub, --threshold N and --reason WHY")
	}
	for _, line := range w.Steps[1].Details {
		d.t.say("%s", line)
	}
	leave, err1 := d.ask("Which keys leave? (names or ids; empty: none)")
	come, err2 := d.ask("Which public key files come? (empty: none)")
	number, err3 := d.ask("How many must sign? (empty: as many as now)")
	reason, err4 := d.ask("Why?")
	if errors.Join(err1, err2, err3, err4) != nil {
		return false, usage("say what changes: --remove-key KEY, --add-key FILE.pub, --threshold N and --reason WHY")
	}
	k.remove, k.add, k.reason = strings.Fields(leave), strings.Fields(come), reason
	if number != "" {
		if k.threshold, err = strconv.Atoi(number); err != nil {
			return false, usage("%q is not a number of signatures", number)
		}
		threshold = true
	}
	if len(k.m.sign) > 0 {
		return threshold, nil
	}
	files, err := d.ask("Private key files at hand, to sign with now? (empty: none)")
	if err == nil {
		k.m.sign = strings.Fields(files)
	}
	return threshold, nil
}
