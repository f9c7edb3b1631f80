package server

import "time"

func init() { bodyTimeout = time.Second }

// Routes lists the table for the tests outside: method and path.
func Routes() (out [][2]string) {
	for _, r := range routes {
		out = append(out, [2]string{r.method, r.path})
	}
	return out
}
