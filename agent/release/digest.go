package release

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// shortDigest is how many hex digits name a release directory.
const shortDigest = 12

// Digest is a SHA-256. The zero value means "none".
type Digest struct{ sum [sha256.Size]byte }

// Sum is the digest of data held in memory.
func Sum(data []byte) Digest { return Digest{sha256.Sum256(data)} }

// DigestOf takes over the result of a running SHA-256.
func DigestOf(sum [sha256.Size]byte) Digest { return Digest{sum} }

// ParseDigest accepts exactly 64 lower-case hex digits that are not all zero.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	return d, d.UnmarshalText([]byte(s))
}

// UnmarshalText is ParseDigest.
func (d *Digest) UnmarshalText(text []byte) error {
	if len(text) != 2*sha256.Size {
		return badName("a SHA-256", string(text), fmt.Sprintf("it has %d characters, not 64", len(text)))
	}
	var sum [sha256.Size]byte
	for i := range sum {
		hi, lo := hexDigit(text[2*i]), hexDigit(text[2*i+1])
		if hi > 15 || lo > 15 {
			return badName("a SHA-256", string(text), "only lower-case hex digits are allowed")
		}
		sum[i] = hi<<4 | lo
	}
	if sum == [sha256.Size]byte{} {
		return badName("a SHA-256", string(text), "it is all zero")
	}
	d.sum = sum
	return nil
}

func hexDigit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}

// String is 64 lower-case hex digits.
func (d Digest) String() string { return hex.EncodeToString(d.sum[:]) }

// Short is the first 12 hex digits: for people and directory names, never for trust.
func (d Digest) Short() string { return d.String()[:shortDigest] }

// IsZero reports the absence of a digest.
func (d Digest) IsZero() bool { return d == Digest{} }

// Bytes is the raw sum, to compare with a running hash.
func (d Digest) Bytes() [sha256.Size]byte { return d.sum }

// MarshalText refuses the zero value: fields that may be absent need `omitzero` or a pointer.
func (d Digest) MarshalText() ([]byte, error) {
	if d.IsZero() {
		return nil, fmt.Errorf("cannot write an empty digest")
	}
	return []byte(d.String()), nil
}

// ID names a release directory on a host: "<version>-<digest12>". It tells two releases of one version apart, and is
// comparable; it does not carry the whole digest, so trust is never decided on it.
type ID struct {
	version Version
	short   string
}

// NewID is the ID of the release whose release.json has this digest.
func NewID(v Version, d Digest) ID { return ID{v, d.Short()} }

// ParseID reads a directory name. It is how the store recognises its own directories among others.
func ParseID(s string) (ID, error) {
	dash := strings.LastIndexByte(s, '-')
	if dash < 0 {
		return ID{}, badName("a release id", s, "it is not <version>-<12 hex digits>")
	}
	v, err := ParseVersion(s[:dash])
	if err != nil {
		return ID{}, badName("a release id", s, "the part before the last hyphen is not a version")
	}
	short := s[dash+1:]
	if len(short) != shortDigest || strings.Trim(short, "0123456789abcdef") != "" {
		return ID{}, badName("a release id", s, "it does not end with 12 lower-case hex digits")
	}
	return ID{v, short}, nil
}

// UnmarshalText is ParseID.
func (i *ID) UnmarshalText(text []byte) (err error) {
	*i, err = ParseID(string(text))
	return err
}

// Version is the part that people chose.
func (i ID) Version() Version { return i.version }

// Short is the digest's first 12 hex digits.
func (i ID) Short() string { return i.short }

// String is the directory name, or nothing for the zero ID.
func (i ID) String() string {
	if i.IsZero() {
		return ""
	}
	return i.version.s + "-" + i.short
}

// IsZero reports the absence of a release.
func (i ID) IsZero() bool { return i == ID{} }

// MarshalText refuses the zero value: fields that may be absent need `omitzero`.
func (i ID) MarshalText() ([]byte, error) {
	if i.IsZero() {
		return nil, fmt.Errorf("cannot write an empty release id")
	}
	return []byte(i.String()), nil
}
