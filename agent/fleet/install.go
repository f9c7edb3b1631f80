package fleet

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/agent/durable"
	"github.com/slipway-deploy/slipway/agent/release"
)

// Machine is what tells one machine from a copy of its disk, as digests: the machine-id is not meant to be seen. An empty
// member could not be read and says nothing.
type Machine struct {
	MachineID string `json:"machine_id,omitempty"`
	Product   string `json:"product,omitempty"` // the firmware's UUID of the machine (DMI)
}

// ThisMachine looks below root, which is "/" but in tests.
func ThisMachine(root string) Machine {
	read := func(path, salt string) string {
		data, err := os.ReadFile(filepath.Join(root, path))
		text := strings.ToLower(strings.TrimSpace(string(data)))
		if err != nil || text == "" || text == "uninitialized" || strings.Trim(text, "0-") == "" || strings.Trim(text, "f-") == "" {
			return ""
		}
		return release.Sum([]byte("slipway/" + salt + "/v1\x00" + text)).String()
	}
	return Machine{MachineID: read("etc/machine-id", "machine-id"), Product: read("sys/class/dmi/id/product_uuid", "product-uuid")}
}

// Install is one installation: a name that is made once and never copied on purpose, and the machine it was made on.
type Install struct {
	ID   string    `json:"id"`
	Made time.Time `json:"made"`
	Machine
}

// Elsewhere says in one sentence why this installation was made on another machine than m, "" if it was not. A copied disk
// brings the whole identity along; two machines must not use it.
func (i Install) Elsewhere(m Machine) string {
	differs := func(a, b string) bool { return a != "" && b != "" && a != b }
	var what []string
	if differs(i.MachineID, m.MachineID) {
		what = append(what, "/etc/machine-id")
	}
	if differs(i.Product, m.Product) {
		what = append(what, "the firmware's product UUID")
	}
	if len(what) == 0 {
		return ""
	}
	return fmt.Sprintf("this host's identity was made on another machine on %s (%s differs): this is a copy, and two machines must not use one identity; "+
		"slipway enroll --new-identity makes one for this machine", i.Made.UTC().Format(time.DateOnly), strings.Join(what, " and "))
}

// Install returns the installation's name, which is made on the first call. A file that cannot be understood is an error: a new
// name would make this host a stranger to its hub.
func (h Home) Install(m Machine, now time.Time) (Install, error) {
	data, err := os.ReadFile(h.file("install.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return h.NewInstall(m, now)
	}
	var i Install
	if err == nil {
		err = json.Unmarshal(data, &i)
	}
	if err == nil && i.ID == "" {
		err = errors.New("it names no installation")
	}
	if err != nil {
		return i, fmt.Errorf("cannot read this host's identity %s: %w; slipway enroll --new-identity makes another", h.file("install.json"), err)
	}
	return i, nil
}

// NewInstall makes this another installation than whatever it was. A certificate that it had was somebody else's then: it is
// removed, and so are the keys.
func (h Home) NewInstall(m Machine, now time.Time) (Install, error) {
	if err := h.make(); err != nil {
		return Install{}, err
	}
	for _, name := range []string{"host.pem", "next.key"} {
		if err := durable.Remove(h.file(name)); err != nil {
			return Install{}, err
		}
	}
	var b [16]byte
	rand.Read(b[:]) // never fails
	i := Install{ID: hex.EncodeToString(b[:]), Made: now.UTC().Truncate(time.Second), Machine: m}
	data, err := json.Marshal(i)
	if err != nil {
		return i, fmt.Errorf("cannot write this host's identity: %w", err)
	}
	return i, durable.WriteFile(h.file("install.json"), append(data, '\n'), 0o600)
}
