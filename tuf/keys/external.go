package keys

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/slipway-deploy/slipway/tuf/signer"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// externalSchema names the format of a file that stands for a key held by a program.
const externalSchema = "slipway.external-key/v1"

// execScheme begins a reference that names a program on the spot.
const execScheme = "exec:"

// External is a key whose secret a program has: a token, a card, a key service. It is a Signer.
type External struct {
	public  Public
	program signer.Program
}

var _ Signer = (*External)(nil)

type externalFile struct {
	Schema  string        `json:"schema"`
	Name    string        `json:"name,omitempty"`
	KeyID   string        `json:"keyid"`
	Key     *metadata.Key `json:"key"`
	Command []string      `json:"command"`
}

// NewExternal asks the program for its public key. A command without a slash is looked up in PATH, once. Words for the
// person go to stderr.
func NewExternal(ctx context.Context, command []string, name string, stderr io.Writer) (*External, error) {
	if len(command) == 0 || command[0] == "" {
		return nil, fmt.Errorf("cannot use an external signer: no program is named")
	}
	path, err := exec.LookPath(command[0])
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot use external signer %s: %w", command[0], err)
	}
	e := &External{program: signer.Program{Command: append([]string{path}, command[1:]...), Stderr: stderr}}
	a, err := e.program.Ask(ctx, signer.Request{Operation: signer.PublicKey})
	if err != nil {
		return nil, err
	}
	key, err := signer.DecodeKey(a.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("cannot use external signer %s: %w", path, err)
	}
	if _, err := signer.AlgorithmOf(key); err != nil {
		return nil, fmt.Errorf("cannot use external signer %s: %w", path, err)
	}
	e.public, err = NewPublic(key, name)
	return e, err
}

// Public is the key's public part.
func (e *External) Public() Public { return e.public }

// Command is the program and its arguments.
func (e *External) Command() []string { return append([]string(nil), e.program.Command...) }

// Sign has the program sign payload. Use the package's Sign, which verifies what the program answers.
func (e *External) Sign(ctx context.Context, payload []byte) ([]byte, error) {
	q, err := signer.NewSign(e.public.key, e.public.ID, e.public.Name, payload)
	if err != nil {
		return nil, err
	}
	a, err := e.program.Ask(ctx, q)
	return a.Signature, err
}

// Save writes the key file to path, and never replaces an existing file. It holds no secret; it is for its owner only
// because whoever changes it chooses what program its user runs.
func (e *External) Save(path string) error {
	k := e.public.tuf
	data, err := json.MarshalIndent(externalFile{Schema: externalSchema, Name: e.public.Name, KeyID: e.public.ID, Key: &k,
		Command: e.program.Command}, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot encode key file: %w", err)
	}
	return create(path, append(data, '\n'), 0o600)
}

func parseExternal(data []byte) (*External, error) {
	var f externalFile
	if err := strict(data, &f); err != nil {
		return nil, fmt.Errorf("cannot read external key: %w", err)
	}
	public, err := FromTUF(f.KeyID, f.Key)
	if err != nil {
		return nil, err
	}
	if _, err := signer.AlgorithmOf(public.key); err != nil {
		return nil, fmt.Errorf("cannot read external key: %w", err)
	}
	if !printable(f.Name) || len(f.Name) > 100 {
		return nil, fmt.Errorf("cannot read external key: name %q: at most 100 printable characters", f.Name)
	}
	public.Name = f.Name
	if len(f.Command) == 0 || !filepath.IsAbs(f.Command[0]) {
		return nil, fmt.Errorf("cannot read external key: command must begin with the absolute path of a program, it is %q", f.Command)
	}
	return &External{public: public, program: signer.Program{Command: f.Command}}, nil
}

// ownersOnly refuses a file that somebody else could have written: it names a program that will run with this user's rights.
func ownersOnly(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("cannot use external key: %w", err)
	}
	owner := uint32(os.Geteuid())
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		owner = st.Uid
	}
	if owner != 0 && owner != uint32(os.Geteuid()) {
		return fmt.Errorf("cannot use external key %s: it belongs to user %d, who would choose what program you run; make your own with key external", path, owner)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("cannot use external key %s: its mode %#o lets others write it, and they would choose what program you run; run chmod go-w %s",
			path, info.Mode().Perm(), path)
	}
	return nil
}

// schemaOf tells key files apart.
func schemaOf(data []byte) string {
	var head struct {
		Schema string `json:"schema"`
	}
	if json.NewDecoder(bytes.NewReader(data)).Decode(&head) != nil {
		return ""
	}
	return head.Schema
}

// execCommand is the command of an exec: reference; ok is false for other references.
func execCommand(ref string) (command []string, ok bool) {
	rest, ok := strings.CutPrefix(ref, execScheme)
	return strings.Fields(rest), ok
}
