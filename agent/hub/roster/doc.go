// Package roster owns who belongs to a fleet: the tokens that let a machine in once, the identities that were given out, and
// those that were taken back.
//
// Its truth is in the hub's store. A token is kept by its hash; using it and writing down whose identity it became is one
// transaction, so it works once, on whichever hub. A certificate says by itself whom it speaks for; the roster only knows since
// when certificates of a host count. Enrolling a replacement moves that moment, which ends all earlier ones; revoking moves it
// to never. So nothing has to be known about a certificate to accept it, and one that a hub issued just before its store was
// restored from an old copy still works.
//
//	roster/token/<sha-256 of the secret>    whom it is for, until when, whether it was used and by which key
//	roster/host/<environment>/<host>        install id, labels, since when certificates count, revoked by whom and why
//	roster/operator/<name>                  the same for operators
package roster
