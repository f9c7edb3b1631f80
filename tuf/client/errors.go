package client

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// ErrExpired says that a role's signature lapsed and no mirror had a newer one. It stops changes; what runs keeps running.
type ErrExpired struct {
	Role string
	At   time.Time
}

func (e *ErrExpired) Error() string {
	return fmt.Sprintf("cannot trust %s: expired on %s; have it signed anew and published", e.Role, e.At.UTC().Format(time.RFC3339))
}

// Kind is "metadata-expired".
func (e *ErrExpired) Kind() string { return "metadata-expired" }

// ErrNotFound says that verified metadata names no such target. It is never the answer to a network or verification fault.
type ErrNotFound struct{ Path string }

func (e *ErrNotFound) Error() string {
	return fmt.Sprintf("cannot find %s: no trusted role signs it", e.Path)
}

// Kind is "target-not-found".
func (e *ErrNotFound) Kind() string { return "target-not-found" }

// ErrUnpublished says that a delegation leads to a role that has published nothing: it is in no snapshot yet. A role that was
// published once and vanished is ErrRollback instead.
type ErrUnpublished struct{ Role string }

func (e *ErrUnpublished) Error() string {
	return fmt.Sprintf("cannot ask %s: that role has published nothing yet", e.Role)
}

// Kind is "unpublished".
func (e *ErrUnpublished) Kind() string { return "unpublished" }

// ErrThreshold says that too few of a role's keys signed it. Have counts distinct public keys whose signature is good.
type ErrThreshold struct {
	Role       string
	Have, Need int
}

func (e *ErrThreshold) Error() string {
	return fmt.Sprintf("cannot trust %s: %d of %d required signatures are good", e.Role, e.Have, e.Need)
}

// Kind is "threshold".
func (e *ErrThreshold) Kind() string { return "threshold" }

// ErrRollback says that a version went back, or that a role vanished (Got 0). Have is what this host trusted before.
type ErrRollback struct {
	Role      string
	Have, Got int64
}

func (e *ErrRollback) Error() string {
	if e.Got == 0 {
		return fmt.Sprintf("cannot trust the repository: %s vanished, version %d was trusted here", e.Role, e.Have)
	}
	return fmt.Sprintf("cannot trust %s version %d: version %d was trusted here already", e.Role, e.Got, e.Have)
}

// Kind is "rollback".
func (e *ErrRollback) Kind() string { return "rollback" }

// ErrNetwork says that a file could not be had from a mirror. Status is the HTTP answer, 0 if there was none.
type ErrNetwork struct {
	URL    string
	Status int
	Err    error
}

func (e *ErrNetwork) Error() string {
	if e.Status == http.StatusNotFound && e.Err == nil && !strings.HasPrefix(e.URL, "http") {
		return "cannot read " + e.URL + ": there is no such file"
	}
	if e.Status != 0 && e.Err == nil {
		return fmt.Sprintf("cannot fetch %s: the server answered %d", e.URL, e.Status)
	}
	return fmt.Sprintf("cannot fetch %s: %v", e.URL, e.Err)
}

// Unwrap gives the transport's own error.
func (e *ErrNetwork) Unwrap() error { return e.Err }

// Kind is "network".
func (e *ErrNetwork) Kind() string { return "network" }

// ErrStalled says that a server sent less than the minimum rate for a whole window.
type ErrStalled struct {
	URL    string
	Got    int64
	Window time.Duration
}

func (e *ErrStalled) Error() string {
	return fmt.Sprintf("cannot fetch %s: only %d bytes arrived in %s", e.URL, e.Got, e.Window)
}

// Kind is "stalled".
func (e *ErrStalled) Kind() string { return "stalled" }

// ErrTooLarge says that a file is, or is announced to be, larger than what configuration and signatures allow.
type ErrTooLarge struct {
	Name       string
	Limit, Got int64
}

func (e *ErrTooLarge) Error() string {
	return fmt.Sprintf("cannot accept %s: %d bytes are above the limit of %d", e.Name, e.Got, e.Limit)
}

// Kind is "too-large".
func (e *ErrTooLarge) Kind() string { return "too-large" }

// ErrCorrupt says that bytes are not what was signed: wrong digest, wrong length, or not metadata at all.
type ErrCorrupt struct {
	Name, Reason string
}

func (e *ErrCorrupt) Error() string { return fmt.Sprintf("cannot accept %s: %s", e.Name, e.Reason) }

// Kind is "corrupt".
func (e *ErrCorrupt) Kind() string { return "corrupt" }

// ErrClock says that the host's clock cannot be used to judge expiry. Latest is the newest time this host has reason to
// believe in; File holds it between runs, "" when it came from signed metadata.
type ErrClock struct {
	Now, Latest  time.Time
	Unsynced     bool
	File, Reason string
}

func (e *ErrClock) Error() string {
	if e.Unsynced {
		return "cannot judge expiry: the clock is not synchronised yet; wait for time synchronisation or start it"
	}
	text := fmt.Sprintf("cannot judge expiry: the clock says %s, but %s %s; set the clock",
		e.Now.UTC().Format(time.RFC3339), e.Reason, e.Latest.UTC().Format(time.RFC3339))
	if e.File != "" {
		text += " (if it is right now and was wrong before, remove " + e.File + ")"
	}
	return text
}

// Kind is "clock".
func (e *ErrClock) Kind() string { return "clock" }

// ErrTooManyRoots says that more new root versions exist than one refresh follows. Those verified so far are kept, so the
// next refresh goes on from At.
type ErrTooManyRoots struct {
	Limit int
	At    int64
}

func (e *ErrTooManyRoots) Error() string {
	return fmt.Sprintf("cannot reach the newest root: %d new versions were followed, now at %d; refresh again to go on", e.Limit, e.At)
}

// Kind is "too-many-roots".
func (e *ErrTooManyRoots) Kind() string { return "too-many-roots" }

// ErrTooManyDelegations says that the search for a target was cut off, which is not the same as not found.
type ErrTooManyDelegations struct {
	Path  string
	Limit int
}

func (e *ErrTooManyDelegations) Error() string {
	return fmt.Sprintf("cannot find %s: more than %d roles would have to be searched", e.Path, e.Limit)
}

// Kind is "too-many-delegations".
func (e *ErrTooManyDelegations) Kind() string { return "too-many-delegations" }

// ErrNoTrust says that the cache proves nothing yet: the first refresh has not succeeded, or its results were damaged.
type ErrNoTrust struct{ Dir string }

func (e *ErrNoTrust) Error() string {
	return fmt.Sprintf("cannot answer without a refresh: %s holds no complete set of trusted metadata", e.Dir)
}

// Kind is "no-trust".
func (e *ErrNoTrust) Kind() string { return "no-trust" }

// ErrMirrors gathers what each mirror did wrong when none could serve. The first is the configured first mirror's; errors.As
// finds any of them.
type ErrMirrors struct{ Errs []error }

func (e *ErrMirrors) Error() string {
	parts := make([]string, len(e.Errs))
	for i, err := range e.Errs {
		parts[i] = err.Error()
	}
	return fmt.Sprintf("cannot use any of %d mirrors: %s", len(parts), strings.Join(parts, "; "))
}

// Unwrap gives all of them.
func (e *ErrMirrors) Unwrap() []error { return e.Errs }

// Kind is the gravest kind among the mirrors' errors: a proof of tampering outranks a network fault.
func (e *ErrMirrors) Kind() string {
	for _, kind := range []string{"clock", "rollback", "threshold", "corrupt", "metadata-expired", "too-old"} {
		for _, err := range e.Errs {
			if kindOf(err) == kind {
				return kind
			}
		}
	}
	return kindOf(e.Errs[0])
}

func kindOf(err error) string {
	var k interface{ Kind() string }
	if errors.As(err, &k) {
		return k.Kind()
	}
	return "failed"
}

// join keeps a single error as it is: most hosts have one mirror, and its error should read plainly.
func join(errs []error) error {
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	}
	return &ErrMirrors{Errs: errs}
}
