package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// Fleet says how an operator reaches the hubs of a fleet, and as whom.
type Fleet struct {
	Hubs []string
	// Certificate is one file with the operator's private key and certificates.
	Certificate string
	// CA is what hubs are known by; empty means that it is the last certificate in Certificate.
	CA string
}

// LoadFleet reads an operator's fleet.toml. A file that does not exist is an empty one. Paths in it are relative to it, and ~/ is
// the operator's home.
func LoadFleet(file string) (Fleet, error) {
	f := Fleet{}
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	data, err := readFile(file)
	if err != nil {
		return f, Problems{{File: file, Message: err.Error()}}
	}
	tree, p := parse(file, data)
	if p != nil {
		return f, Problems{*p}
	}
	problems := Problems{}
	tree.line, tree.col = 0, 0
	r := root(tree, &problems)
	r.texts("hubs", &f.Hubs, CheckHubURL)
	r.text("certificate", &f.Certificate, checkPlain)
	r.text("ca", &f.CA, checkPlain)
	r.unknown()
	if len(problems) > 0 {
		return Fleet{}, problems.sorted()
	}
	f.Certificate, f.CA = beside(file, f.Certificate), beside(file, f.CA)
	return f, nil
}

func beside(file, path string) string {
	switch home, err := os.UserHomeDir(); {
	case path == "" || filepath.IsAbs(path):
		return path
	case strings.HasPrefix(path, "~/") && err == nil:
		return filepath.Join(home, path[2:])
	}
	return filepath.Join(filepath.Dir(file), path)
}

// CheckHubURL judges the address of a hub.
func CheckHubURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("%q must be https://host:port", s)
	}
	return nil
}
