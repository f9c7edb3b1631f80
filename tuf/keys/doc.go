// Package keys owns the publisher's keys: making them, keeping them encrypted, and signing with them.
//
// A private key file is JSON: the public part in the open, the secret as PKCS #8 sealed with XChaCha20-Poly1305 under a key
// that scrypt derives from a passphrase. The public key file is the same without the secret; it is what travels to the
// maintainer of a repository. Neither file is ever overwritten.
//
// An external key file is the same with the command of a program that signs in place of a secret: for tokens, cards and key
// services. The protocol is that of package signer.
//
// A key has an id and a fingerprint. The id is a label that metadata gives it: it is read, never computed again, because
// other tools compute it otherwise. The fingerprint (SHA-256 of the PKIX form) says whether two labels are one key; thresholds
// count fingerprints.
package keys
