package release

import (
	"fmt"
	"strings"
	"time"
)

// Duration is a time span written as text in JSON and TOML, such as "90s" or "5m". It is never negative when parsed.
type Duration time.Duration

// ParseDuration accepts what time.ParseDuration does, but nothing negative.
func ParseDuration(s string) (Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("cannot use %q as a duration: write a number and a unit such as 90s, 5m or 1h30m", s)
	}
	if d < 0 {
		return 0, fmt.Errorf("cannot use %q as a duration: it is negative", s)
	}
	return Duration(d), nil
}

// Std is the span for the time package.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String is the shortest text that parses back to the same span: "5m", not "5m0s".
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText is String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is ParseDuration.
func (d *Duration) UnmarshalText(text []byte) (err error) {
	*d, err = ParseDuration(string(text))
	return err
}
