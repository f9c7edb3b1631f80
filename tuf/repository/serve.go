package repository

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-deploy/slipway/tuf/client"
)

// served is a destination behind a loopback server, so that the client of the hosts reads it as it reads any other, however
// it is reached.
type served struct {
	server *http.Server
	base   string
}

func serve(d Destination) (*served, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("cannot read %s as a host does: %w", d, err)
	}
	s := &served{base: "http://" + l.Addr().String() + "/"}
	s.server = &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, size, err := d.Open(r.Context(), strings.TrimPrefix(r.URL.Path, "/"))
		if errors.Is(err, fs.ErrNotExist) {
			http.NotFound(w, r)
			return
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer func() { _ = body.Close() }()
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		_, _ = io.Copy(w, body)
	})}
	go func() { _ = s.server.Serve(l) }()
	return s, nil
}

func (s *served) mirror() client.Mirror {
	return client.Mirror{Metadata: s.base + "metadata", Targets: s.base + "targets"}
}

func (s *served) close() { _ = s.server.Close() }
