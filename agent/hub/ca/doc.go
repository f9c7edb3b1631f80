// Package ca is the authority that the operators of a fleet own: it says which key speaks for which host, operator and hub.
//
// Two levels of keys make it up. The root signs nothing but issuers; its key is encrypted and kept away from the hubs. An issuer is
// a hub's own: it signs hosts, operators and the hub's TLS certificate. A stolen hub therefore costs its issuer, not the
// fleet's root. A site that wants no signing key on a machine with a network signs requests by hand, with the issuer at home.
//
//	root (10 years, offline) → issuer (3 years, on a hub) → host | operator | hub (days to months)
//
// An identity certifies who is asking. What a host runs is never decided by it: that takes the keys of the TUF repository.
package ca
