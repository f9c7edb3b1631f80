// Package release owns what a release is made of: validated names, the signed documents and their strict decoding, the
// manifest, the archive (pack and safe unpack) and the rules for the unit files a release ships. Publisher and host share
// it, so that what one side writes is by construction what the other side accepts.
//
// It is a leaf: it knows nothing of TUF, systemd, stores or fleets. Everything it reads from outside is hostile until it
// has been checked here: no function panics on outside bytes, and every refusal names the place and the rule.
package release
