package main

import (
	"bytes"
	"context"
	"crypto"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/slipway-deploy/slipway/tuf/signer"
)

// token is one key in one token, as the command line names it. It is a signer.Backend.
type token struct {
	modulePath, label, keyID, keyLabel string
	pin                                pinSource
}

var _ signer.Backend = (*token)(nil)

// PublicKey reads the key without a PIN.
func (t *token) PublicKey(context.Context) (key crypto.PublicKey, err error) {
	err = t.with(func(m *module, s session, _ *tokenInfo) error {
		key, err = t.public(m, s)
		return err
	})
	return key, err
}

// Sign makes sure that the token's key is the one asked for before it asks for a PIN.
func (t *token) Sign(_ context.Context, q signer.Request) (sig []byte, err error) {
	err = t.with(func(m *module, s session, info *tokenInfo) error {
		if err := t.holds(m, s, q.PublicKey); err != nil {
			return err
		}
		pin, err := t.login(m, s, info, q)
		if err != nil {
			return err
		}
		key, err := t.one(m, s, classPrivateKey, "private key")
		if err != nil {
			return err
		}
		sig, err = signWith(m, s, key, pin, q)
		return err
	})
	return sig, err
}

// with opens a session at the token, and closes all behind it.
func (t *token) with(do func(*module, session, *tokenInfo) error) error {
	m, err := load(t.modulePath)
	if err != nil {
		return err
	}
	defer m.close()
	slot, info, err := t.slot(m)
	if err != nil {
		return err
	}
	var s session
	if err := outcome("C_OpenSession", m.openSession(slot, serialSession, nil, nil, &s)); err != nil {
		return err
	}
	defer m.closeSession(s)
	return do(m, s, info)
}

// slot finds the token by its label.
func (t *token) slot(m *module) (uint, *tokenInfo, error) {
	list, err := m.slots()
	if err != nil {
		return 0, nil, err
	}
	var found []uint
	var names []string
	var info *tokenInfo
	for _, slot := range list {
		i := new(tokenInfo)
		if m.getTokenInfo(slot, i) != 0 {
			continue
		}
		name := i.name()
		if name == "" {
			continue // it is not initialized
		}
		names = append(names, strconv.Quote(name))
		if t.label == "" || t.label == name {
			found, info = append(found, slot), i
		}
	}
	slices.Sort(names)
	switch {
	case len(found) == 1:
		return found[0], info, nil
	case len(found) == 0:
		return 0, nil, fmt.Errorf("%w: no token %q; there are %d: %s", signer.ErrUnavailable, t.label, len(names), strings.Join(names, ", "))
	}
	return 0, nil, fmt.Errorf("cannot choose a token: %d match; name one with --token: %s", len(found), strings.Join(names, ", "))
}

// one finds the one object of a class that the command line names. pkcs11-tool takes any key if none is of the label; this does not.
func (t *token) one(m *module, s session, class uint, what string) (object, error) {
	template := []attribute{number(attrClass, class)}
	if t.keyID != "" {
		id, err := hex.DecodeString(strings.ReplaceAll(t.keyID, ":", ""))
		if err != nil || len(id) == 0 {
			return 0, fmt.Errorf("cannot use id %q: it is not hexadecimal", t.keyID)
		}
		template = append(template, octets(attrID, id))
	}
	if t.keyLabel != "" {
		template = append(template, octets(attrLabel, []byte(t.keyLabel)))
	}
	list, err := m.find(s, template...)
	if err != nil {
		return 0, err
	}
	if len(list) != 1 {
		return 0, &countError{what: what, n: len(list), t: t}
	}
	return list[0], nil
}

type countError struct {
	what string
	n    int
	t    *token
}

func (e *countError) Error() string {
	return fmt.Sprintf("cannot find the %s: %d objects have id %q and label %q; pkcs11-tool --list-objects shows what there is", e.what, e.n, e.t.keyID, e.t.keyLabel)
}

// public reads the public key object, or the key of the certificate that PIV cards have in its place.
func (t *token) public(m *module, s session) (crypto.PublicKey, error) {
	o, err := t.one(m, s, classPublicKey, "public key")
	if err == nil {
		return ecKey(m.attribute(s, o, attrECParams), m.attribute(s, o, attrECPoint))
	}
	cert, noCert := t.one(m, s, classCertificate, "certificate")
	if noCert != nil {
		return nil, err
	}
	return certificateKey(m.attribute(s, cert, attrValue))
}

func (t *token) holds(m *module, s session, want string) error {
	key, err := t.public(m, s)
	if err != nil {
		return err
	}
	have, err := signer.EncodeKey(key)
	if err != nil {
		return err
	}
	if !bytes.Equal([]byte(have), []byte(want)) {
		return fmt.Errorf("cannot sign: the token has another key under id %q and label %q than the one asked for", t.keyID, t.keyLabel)
	}
	return nil
}

// login opens the token with its PIN, or has its own pad ask for it. One wrong PIN is one try: it is never sent again.
func (t *token) login(m *module, s session, info *tokenInfo, q signer.Request) (pin []byte, err error) {
	switch {
	case info.flags&flagLogin == 0:
		return nil, nil
	case info.flags&flagPINLocked != 0:
		return nil, fmt.Errorf("%w: too many wrong PINs were tried; unblock the token", signer.ErrRefused)
	case info.flags&flagPINPad != 0:
		fmt.Fprintf(os.Stderr, "Enter the PIN at the token's own pad, to sign for %s.\n", q.Name)
		return nil, outcome("C_Login", m.login(s, userNormal, nil, 0))
	case info.flags&flagPINFinalTry != 0 && !t.pin.asks():
		return nil, fmt.Errorf("%w: one more wrong PIN locks the token; sign once with the PIN typed at the terminal", signer.ErrRefused)
	}
	if pin, err = t.pin.read(info.name()); err != nil {
		return nil, err
	}
	return pin, outcome("C_Login", m.login(s, userNormal, &pin[0], uint(len(pin))))
}

func signWith(m *module, s session, key object, pin []byte, q signer.Request) ([]byte, error) {
	mech, data := mechanism{kind: mechanismEdDSA}, q.Payload
	if q.Algorithm == signer.ECDSAP256 {
		mech.kind, data = mechanismECDSA, q.SHA256
	}
	if len(data) == 0 {
		return nil, fmt.Errorf("cannot sign nothing")
	}
	if err := outcome("C_SignInit", m.signInit(s, &mech, key)); err != nil {
		return nil, err
	}
	// Keys like that of PIV's slot 9c want the PIN for each signature.
	if always := m.attribute(s, key, attrAlwaysAuth); len(always) == 1 && always[0] != 0 {
		var first *byte
		if len(pin) > 0 {
			first = &pin[0]
		}
		if err := outcome("C_Login for this signature", m.login(s, userContext, first, uint(len(pin)))); err != nil {
			return nil, err
		}
	}
	sig := make([]byte, 1024)
	size := uint(len(sig))
	if err := outcome("C_Sign", m.sign(s, &data[0], uint(len(data)), &sig[0], &size)); err != nil {
		return nil, err
	}
	sig = sig[:min(size, uint(len(sig)))]
	if q.Algorithm == signer.ECDSAP256 {
		return asn1Signature(sig)
	}
	return sig, nil
}
