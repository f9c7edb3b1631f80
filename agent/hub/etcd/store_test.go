package etcd

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/slipway-deploy/slipway/agent/hub"
	"github.com/slipway-deploy/slipway/agent/hub/etcd/etcdtest"
	"github.com/slipway-deploy/slipway/agent/hub/storetest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	etcdtest.Clean()
	os.Exit(code)
}

func embedded(t testing.TB, dir string) *Member {
	t.Helper()
	m, err := StartMember(t.Context(), dir, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func open(t testing.TB, cfg Config) *Store {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func put(t testing.TB, s hub.Store, key, value string, was int64) hub.Result {
	t.Helper()
	r, err := s.Commit(t.Context(), hub.Txn{If: []hub.Cond{{Key: key, Mod: was}}, Then: []hub.Op{{Key: key, Value: []byte(value)}}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func value(t testing.TB, s hub.Store, key string) hub.Item {
	t.Helper()
	items, _, err := s.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return items[0]
}

// The contract that the engine and its simulator stand on. A client that is closed gives its temporary keys back at once; that
// they also go without that is another test's.
func TestEtcdKeepsTheContractOfTheStore(t *testing.T) {
	for name, binary := range map[string]func(testing.TB) string{"built from the library": etcdtest.Built, "of Debian": etcdtest.Debian} {
		t.Run(name, func(t *testing.T) {
			cluster := etcdtest.Start(t, binary(t), 1)
			storetest.Run(t, func(t *testing.T) (hub.Store, func()) {
				s := open(t, Config{Endpoints: cluster.Endpoints})
				return s, func() { s.Close() }
			})
		})
	}
}

func TestARangeOfManyPagesIsOneSnapshot(t *testing.T) {
	s := embedded(t, t.TempDir())
	const n = 2*page + 7
	for at := 0; at < n; at += hub.MaxOps {
		var txn hub.Txn
		for i := at; i < min(n, at+hub.MaxOps); i++ {
			txn.Then = append(txn.Then, hub.Op{Key: fmt.Sprintf("h/%06d", i), Value: []byte("v")})
		}
		if _, err := s.Commit(t.Context(), txn); err != nil {
			t.Fatal(err)
		}
	}
	put(t, s, "i", "not under the prefix", 0)
	items, revision, err := s.Range(t.Context(), "h/")
	if err != nil || len(items) != n || revision != value(t, s, "i").Mod {
		t.Fatalf("%d items at %d, %v", len(items), revision, err)
	}
	if !slices.IsSortedFunc(items, func(a, b hub.Item) int { return cmp.Compare(a.Key, b.Key) }) {
		t.Error("the keys are out of order")
	}
}

func TestASecondProcessOnTheSameDataIsRefusedAtOnce(t *testing.T) {
	dir := t.TempDir()
	embedded(t, dir)
	if _, err := StartMember(t.Context(), dir, hclog.NewNullLogger()); err == nil {
		t.Fatal("two members opened one directory")
	}
}

func TestTemporaryKeysGoWithTheirStoreAndOthersStay(t *testing.T) {
	s := embedded(t, t.TempDir())
	other := over(s.c, 0) // a second hub on the same member
	for _, op := range []hub.Op{{Key: "here", Value: []byte("1"), Temporary: true}, {Key: "kept", Value: []byte("1")}} {
		if _, err := other.Commit(t.Context(), hub.Txn{Then: []hub.Op{op}}); err != nil {
			t.Fatal(err)
		}
	}
	gone := make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	from := value(t, s, "here").Mod
	go s.Watch(ctx, "here", from, func(c hub.Change) {
		if c.Items[0].Created == 0 {
			close(gone)
		}
	})
	other.mu.Lock()
	lease := other.lease
	other.mu.Unlock()
	if _, err := s.c.Revoke(ctx, lease); err != nil {
		t.Fatal(err)
	}
	select {
	case <-gone:
	case <-ctx.Done():
		t.Fatal("the temporary key is still there")
	}
	if value(t, s, "kept").Mod == 0 {
		t.Error("a key that was not temporary went too")
	}
	// The store finds out that its lease is gone and gets another.
	for {
		_, err := other.Commit(ctx, hub.Txn{Then: []hub.Op{{Key: "here", Value: []byte("2"), Temporary: true}}})
		if err == nil {
			return
		}
		if !errors.Is(err, hub.ErrUnavailable) {
			t.Fatal(err)
		}
	}
}

func TestAWatchFromThePastThatIsGoneSaysSo(t *testing.T) {
	s := embedded(t, t.TempDir())
	first := put(t, s, "a", "1", 0)
	second := put(t, s, "a", "2", first.Revision)
	if _, err := s.c.Compact(t.Context(), second.Revision); err != nil {
		t.Fatal(err)
	}
	err := s.Watch(t.Context(), "a", first.Revision-1, func(hub.Change) { t.Error("a change that is gone was delivered") })
	if !errors.Is(err, hub.ErrCompacted) {
		t.Fatal(err)
	}
}

// Debian's etcd 3.4 and the version in go.mod, three members each.
func TestADeadMemberChangesNothingALostQuorumStopsEverythingAndWhatWasAcknowledgedStays(t *testing.T) {
	for name, binary := range map[string]func(testing.TB) string{"Debian's 3.4": etcdtest.Debian, "3.7": etcdtest.Built} {
		t.Run(name, func(t *testing.T) {
			cluster := etcdtest.Start(t, binary(t), 3)
			s := open(t, Config{Endpoints: cluster.Endpoints, Timeout: 2 * time.Second})
			r := put(t, s, "k", "1", 0)
			cluster.Kill(0)
			r = eventually(t, s, hub.Txn{If: []hub.Cond{{Key: "k", Mod: r.Revision}}, Then: []hub.Op{{Key: "k", Value: []byte("2")}}})
			cluster.Kill(1)
			if _, err := s.Commit(t.Context(), hub.Txn{Then: []hub.Op{{Key: "never", Value: []byte("x")}}}); !errors.Is(err, hub.ErrUnavailable) {
				t.Fatalf("a commit without a quorum answered %v", err)
			}
			if err := s.Ping(t.Context()); !errors.Is(err, hub.ErrUnavailable) {
				t.Fatalf("a read without a quorum answered %v", err)
			}
			cluster.Start(0)
			cluster.Start(1)
			eventually(t, s, hub.Txn{If: []hub.Cond{{Key: "k", Mod: r.Revision}}, Then: []hub.Op{{Key: "k", Value: []byte("3")}}})
		})
	}
}

// eventually repeats a transaction until the cluster answers; one whose end was unknown shows as not held with our own value.
func eventually(t *testing.T, s *Store, txn hub.Txn) hub.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		r, err := s.Commit(ctx, txn)
		switch {
		case err == nil && r.Held:
			return r
		case err == nil:
			now := value(t, s, txn.Then[0].Key)
			if string(now.Value) != string(txn.Then[0].Value) {
				t.Fatalf("what was acknowledged is gone: %s", now.Value)
			}
			return hub.Result{Held: true, Revision: now.Mod}
		case !errors.Is(err, hub.ErrUnavailable) || ctx.Err() != nil:
			t.Fatal(err)
		}
	}
}

func TestOfManyWritersOfOneRevisionOneWins(t *testing.T) {
	cluster := etcdtest.Start(t, etcdtest.Built(t), 3)
	const writers = 16
	var wg sync.WaitGroup
	won := make(chan int, writers)
	for i := range writers {
		s := open(t, Config{Endpoints: cluster.Endpoints[i%3 : i%3+1]})
		wg.Go(func() {
			r, err := s.Commit(t.Context(), hub.Txn{If: []hub.Cond{{Key: "slot"}}, Then: []hub.Op{{Key: "slot", Value: []byte{byte(i)}}}})
			if err != nil {
				t.Error(err)
			} else if r.Held {
				won <- i
			}
		})
	}
	wg.Wait()
	if len(won) != 1 || value(t, open(t, Config{Endpoints: cluster.Endpoints}), "slot").Value[0] != byte(<-won) {
		t.Errorf("%d writers won", len(won)+1)
	}
}

func TestASnapshotOfTheEmbeddedStoreBecomesAClusterAndAnEmbeddedStoreAgain(t *testing.T) {
	dir := t.TempDir()
	m := embedded(t, filepath.Join(dir, "data"))
	put(t, m, "k", "1", 0)
	before := value(t, m, "k")
	file := filepath.Join(dir, "snapshot")
	if _, err := m.Snapshot(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Snapshot(t.Context(), file); !errors.Is(err, os.ErrExist) {
		t.Errorf("a second snapshot over the first: %v", err)
	}
	put(t, m, "late", "1", 0)

	again := filepath.Join(dir, "again")
	if err := Restore(file, again, Restored{}); err != nil {
		t.Fatal(err)
	}
	cluster := etcdtest.Restored(t, etcdtest.Built(t), 3, func(dir, name, peer string, all []string) {
		if err := Restore(file, dir, Restored{Name: name, PeerURL: peer, Cluster: all}); err != nil {
			t.Fatal(err)
		}
	})
	for name, s := range map[string]hub.Store{"embedded": embedded(t, again), "cluster": open(t, Config{Endpoints: cluster.Endpoints})} {
		if got := value(t, s, "k"); string(got.Value) != "1" || got.Mod != before.Mod {
			t.Errorf("%s: k is %q of revision %d, was %d", name, got.Value, got.Mod, before.Mod)
		}
		if got := value(t, s, "late"); got.Mod != 0 {
			t.Errorf("%s: what came after the snapshot is there", name)
		}
		if r := put(t, s, "new", "1", 0); r.Revision < revisionBump {
			t.Errorf("%s: revision %d may have been a grant before", name, r.Revision)
		}
	}
}

func TestADamagedSnapshotIsRefused(t *testing.T) {
	dir := t.TempDir()
	m := embedded(t, filepath.Join(dir, "data"))
	put(t, m, "k", "1", 0)
	file := filepath.Join(dir, "snapshot")
	if _, err := m.Snapshot(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Restore(file, filepath.Join(dir, "restored"), Restored{}); err == nil {
		t.Fatal("a damaged snapshot was restored")
	}
}

func TestCertificatesAndPasswordsKeepOthersOut(t *testing.T) {
	for name, binary := range map[string]func(testing.TB) string{"Debian's 3.4": etcdtest.Debian, "3.7": etcdtest.Built} {
		t.Run(name, func(t *testing.T) {
			pki := newPKI(t)
			cluster := etcdtest.Start(t, binary(t), 1, "--cert-file", pki.path("server.pem"), "--key-file", pki.path("server.key"),
				"--trusted-ca-file", pki.path("ca.pem"), "--client-cert-auth")
			with := Config{Endpoints: []string{"https://" + cluster.Endpoints[0]}, TLS: pki.client, Timeout: 20 * time.Second}
			admin := open(t, with)
			if err := admin.Ping(t.Context()); err != nil {
				t.Fatal(err)
			}
			addUser(t, admin.c)
			with.Username, with.Password = "hub", "secret"
			s := open(t, with)
			put(t, s, "/slipway/x", "1", 0)
			if _, err := s.Commit(t.Context(), hub.Txn{Then: []hub.Op{{Key: "/elsewhere", Value: []byte("1")}}}); err == nil || errors.Is(err, hub.ErrUnavailable) {
				t.Errorf("a key that the user has no right to: %v", err)
			}
			with.Password = "wrong"
			if _, err := Open(with); err == nil || errors.Is(err, hub.ErrUnavailable) {
				t.Errorf("a wrong password: %v", err)
			}
			stranger := open(t, Config{Endpoints: with.Endpoints, TLS: &tls.Config{RootCAs: pki.client.RootCAs}, Timeout: 2 * time.Second})
			if err := stranger.Ping(t.Context()); err == nil {
				t.Error("a client without a certificate was let in")
			}
		})
	}
}

func addUser(t *testing.T, c *clientv3.Client) {
	t.Helper()
	ctx := t.Context()
	for _, err := range []error{
		err2(c.RoleAdd(ctx, "root")), err2(c.UserAdd(ctx, "root", "root")), err2(c.UserGrantRole(ctx, "root", "root")),
		err2(c.RoleAdd(ctx, "hub")), err2(c.UserAdd(ctx, "hub", "secret")), err2(c.UserGrantRole(ctx, "hub", "hub")),
		err2(c.RoleGrantPermission(ctx, "hub", "/slipway/", clientv3.GetPrefixRangeEnd("/slipway/"), clientv3.PermissionType(clientv3.PermReadWrite))),
		err2(c.AuthEnable(ctx)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func err2[T any](_ T, err error) error { return err }

// pki is a throwaway CA with one server and one client certificate.
type pki struct {
	dir    string
	client *tls.Config
}

func (p pki) path(name string) string { return filepath.Join(p.dir, name) }

func newPKI(t *testing.T) pki {
	t.Helper()
	p := pki{dir: t.TempDir()}
	caKey, ca, _ := certificate(t, nil, nil)
	p.write(t, "ca.pem", "CERTIFICATE", ca.Raw)
	key, cert, der := certificate(t, ca, caKey)
	p.write(t, "server.pem", "CERTIFICATE", cert.Raw)
	p.write(t, "server.key", "EC PRIVATE KEY", der)
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	p.client = &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}}
	return p
}

func (p pki) write(t *testing.T, name, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(p.path(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func certificate(t *testing.T, ca *x509.Certificate, signer *ecdsa.PrivateKey) (*ecdsa.PrivateKey, *x509.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
	if ca == nil {
		c.IsCA, c.KeyUsage, c.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
		ca, signer = c, key
	}
	raw, err := x509.CreateCertificate(rand.Reader, c, ca, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert, der
}
