// Package signer is the protocol between slipway-repo and a program that holds a key: in a hardware token, a card, or a key
// service. docs/external-signers.md specifies it; both sides of it are here.
//
// The asking side trusts the program with nothing but the key: whoever calls Ask verifies the answer. The program is started
// anew for every request, without a shell, reads one request from its standard input and writes one answer to its standard
// output. What it writes to standard error is for the person at the terminal and is not read.
package signer
