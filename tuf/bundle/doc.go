// Package bundle is the file that carries a repository where no network goes: one uncompressed tar, metadata first, payloads
// after, in one fixed order. The same content gives the same bytes.
//
//	bundle.json            what is in it, for people and for telling a whole file from half of one
//	metadata/…             every root, then timestamp, snapshot, targets and the delegated roles
//	targets/…              documents and payloads under their hash-prefixed names
//
// Nothing here is trusted. The names are those of a repository directory, so that the TUF client reads a bundle as one more
// mirror and believes what the keys signed; unpacked with tar, a bundle is a repository directory.
//
// Read looks at headers only and costs no memory for content. It accepts the one form that Write makes: regular files, clean
// names, none twice, in order, as many as announced, and not a byte after the end. A file that is cut short or still being
// copied is an IncompleteError, which waiting may cure; anything else is a MalformedError, which it cannot.
package bundle
