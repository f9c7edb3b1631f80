package repository

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Period is how long a signature lasts: whole days ("365d"), or what time.ParseDuration accepts. It is at least a minute.
type Period time.Duration

const day = 24 * time.Hour

// maxPeriod keeps an expiry within what every client can represent and any person can mean.
const maxPeriod = 20 * 366 * day

// ParsePeriod reads "365d" or "12h30m".
func ParsePeriod(s string) (Period, error) {
	var d time.Duration
	var err error
	if n, ok := strings.CutSuffix(s, "d"); ok {
		var days int
		if days, err = strconv.Atoi(n); err == nil && days <= int(maxPeriod/day) {
			d = time.Duration(days) * day
		}
	} else {
		d, err = time.ParseDuration(s)
	}
	if err != nil || d < time.Minute || d > maxPeriod {
		return 0, fmt.Errorf("cannot use %q as a period: write days such as 90d, or hours such as 12h, from 1m to %dd", s, maxPeriod/day)
	}
	return Period(d), nil
}

// Std is the period for the time package.
func (p Period) Std() time.Duration { return time.Duration(p) }

// String writes whole days as days.
func (p Period) String() string {
	if d := time.Duration(p); d%day == 0 {
		return strconv.Itoa(int(d/day)) + "d"
	}
	s := time.Duration(p).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText is String.
func (p Period) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText is ParsePeriod.
func (p *Period) UnmarshalText(text []byte) (err error) {
	*p, err = ParsePeriod(string(text))
	return err
}
