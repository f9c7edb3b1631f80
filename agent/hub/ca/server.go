package ca

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net"
	"sync"
	"time"
)

// Server makes a hub's TLS certificate and renews it before it ends. Key and certificate live in memory: a hub that starts makes
// new ones, so there is nothing to copy, to protect or to forget to renew.
type Server struct {
	authority *Authority
	names     []string
	now       func() time.Time

	mu      sync.Mutex
	current *tls.Certificate
	renew   time.Time
}

// NewServer is for a hub that hosts and operators reach by the given names and addresses.
func NewServer(a *Authority, names []string, now func() time.Time) (*Server, error) {
	if len(names) == 0 {
		return nil, errors.New("cannot make the hub's certificate: it has no name")
	}
	s := &Server{authority: a, names: names, now: now}
	_, err := s.Certificate(nil)
	return s, err
}

// Certificate is for tls.Config.GetCertificate. The chain ends with the root, for hosts that know it by its digest only.
func (s *Server) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if s.current != nil && now.Before(s.renew) {
		return s.current, nil
	}
	c, err := s.make(now)
	if err != nil {
		if s.current != nil && now.Before(s.current.Leaf.NotAfter) {
			return s.current, nil // it is still good; the issuer's end is what is warned about
		}
		return nil, err
	}
	s.current, s.renew = c, now.Add(c.Leaf.NotAfter.Sub(now)/2)
	return c, nil
}

func (s *Server) make(now time.Time) (*tls.Certificate, error) {
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		Subject:   pkix.Name{Organization: []string{organizationTag + s.authority.Fleet}, CommonName: "Slipway hub"},
		NotBefore: now.Add(-backdateServer), NotAfter: now.Add(ServerValidity),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	for _, name := range s.names {
		if ip := net.ParseIP(name); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
			continue
		}
		t.DNSNames = append(t.DNSNames, name)
	}
	leaf, err := s.authority.issue(t, key.Public())
	if err != nil {
		return nil, err
	}
	out := &tls.Certificate{PrivateKey: key, Leaf: leaf, Certificate: [][]byte{leaf.Raw}}
	for _, c := range s.authority.Chain {
		out.Certificate = append(out.Certificate, c.Raw)
	}
	return out, nil
}
