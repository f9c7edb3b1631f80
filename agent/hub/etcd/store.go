package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/slipway-deploy/slipway/agent/hub"
)

// Config says how to reach a cluster. Endpoints are host:port or URLs; with TLS set they must be https.
type Config struct {
	Endpoints          []string
	TLS                *tls.Config
	Username, Password string
	// Timeout bounds each request; zero is 5 s. A request that takes longer has an unknown end, which the hub can deal with.
	Timeout time.Duration
}

const (
	defaultTimeout = 5 * time.Second
	// lifetime is how long keys marked as temporary outlive their process.
	lifetime = 15 * time.Second
	// page is how many keys one read asks for: an answer of a fleet's whole state in one message would stall the member.
	page = 5000
)

// Store is a hub.Store on etcd. It is safe for concurrent use.
type Store struct {
	c       *clientv3.Client
	timeout time.Duration

	mu    sync.Mutex
	lease clientv3.LeaseID // of temporary keys; 0 before the first
	end   context.CancelFunc
}

// Open makes a store on a cluster. It does not wait for the cluster to answer: a hub that starts before its etcd has to wait
// for it anyway, as it has to after an outage. Ping tells.
func Open(cfg Config) (*Store, error) {
	c, err := clientv3.New(clientv3.Config{
		Endpoints: cfg.Endpoints, TLS: cfg.TLS, Username: cfg.Username, Password: cfg.Password,
		DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 5 * time.Second, PermitWithoutStream: true,
		Logger: zap.NewNop(),
	})
	if err != nil {
		return nil, fmt.Errorf("cannot use etcd at %v: %w", cfg.Endpoints, unavailable(err))
	}
	return over(c, cfg.Timeout), nil
}

func over(c *clientv3.Client, timeout time.Duration) *Store {
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	return &Store{c: c, timeout: timeout, end: func() {}}
}

// Close ends the connection. Temporary keys are given back at once.
func (s *Store) Close() error {
	s.mu.Lock()
	lease := s.lease
	s.lease = 0
	s.end()
	s.mu.Unlock()
	if lease != 0 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, _ = s.c.Revoke(ctx, lease) // else they end by themselves
	}
	return s.c.Close()
}

// Ping asks for one linearizable read: it succeeds only while the cluster has a quorum.
func (s *Store) Ping(ctx context.Context) error {
	_, _, err := s.Get(ctx, "ping")
	return err
}

// Get implements hub.Store.
func (s *Store) Get(ctx context.Context, keys ...string) ([]hub.Item, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	items := make([]hub.Item, 0, len(keys))
	revision := int64(0)
	for len(keys) > 0 {
		n := min(len(keys), hub.MaxOps)
		ops := make([]clientv3.Op, n)
		for i, key := range keys[:n] {
			ops[i] = clientv3.OpGet(key, clientv3.WithRev(revision))
		}
		answer, err := s.c.Txn(ctx).Then(ops...).Commit()
		if err != nil {
			return nil, 0, fmt.Errorf("cannot read %s: %w", keys[0], unavailable(err))
		}
		if revision == 0 {
			revision = answer.Header.Revision
		}
		for i, r := range answer.Responses {
			item := hub.Item{Key: keys[i]}
			if kvs := r.GetResponseRange().Kvs; len(kvs) == 1 {
				item.Value, item.Created, item.Mod = kvs[0].Value, kvs[0].CreateRevision, kvs[0].ModRevision
			}
			items = append(items, item)
		}
		keys = keys[n:]
	}
	return items, revision, nil
}

// Range implements hub.Store. It reads page by page at the revision of the first.
func (s *Store) Range(ctx context.Context, prefix string) ([]hub.Item, int64, error) {
	var items []hub.Item
	from, revision := prefix, int64(0)
	for {
		answer, err := s.page(ctx, from, prefix, revision)
		if errors.Is(err, hub.ErrCompacted) && revision != 0 {
			items, from, revision = nil, prefix, 0 // the cluster tidied up behind us: begin again with what is there now
			continue
		}
		if err != nil {
			return nil, 0, fmt.Errorf("cannot read what begins with %s: %w", prefix, err)
		}
		if revision == 0 {
			revision = answer.Header.Revision
		}
		for _, kv := range answer.Kvs {
			items = append(items, hub.Item{Key: string(kv.Key), Value: kv.Value, Created: kv.CreateRevision, Mod: kv.ModRevision})
		}
		if !answer.More {
			return items, revision, nil
		}
		from = items[len(items)-1].Key + "\x00"
	}
}

func (s *Store) page(ctx context.Context, from, prefix string, revision int64) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	answer, err := s.c.Get(ctx, from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)), clientv3.WithLimit(page), clientv3.WithRev(revision))
	return answer, unavailable(err)
}

// Commit implements hub.Store.
func (s *Store) Commit(ctx context.Context, t hub.Txn) (hub.Result, error) {
	if len(t.If) > hub.MaxOps || len(t.Then) > hub.MaxOps {
		return hub.Result{}, fmt.Errorf("cannot commit %d conditions and %d operations at once: %d of each is the limit", len(t.If), len(t.Then), hub.MaxOps)
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	conditions := make([]clientv3.Cmp, len(t.If))
	for i, c := range t.If {
		conditions[i] = clientv3.Compare(clientv3.ModRevision(c.Key), "=", c.Mod)
	}
	ops, err := s.ops(ctx, t.Then)
	if err != nil {
		return hub.Result{}, err
	}
	answer, err := s.c.Txn(ctx).If(conditions...).Then(ops...).Commit()
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		s.forget()
	}
	if err != nil {
		return hub.Result{}, fmt.Errorf("cannot commit: %w", unavailable(err))
	}
	return hub.Result{Held: answer.Succeeded, Revision: answer.Header.Revision}, nil
}

func (s *Store) ops(ctx context.Context, then []hub.Op) ([]clientv3.Op, error) {
	ops := make([]clientv3.Op, len(then))
	for i, op := range then {
		switch {
		case op.Value == nil:
			ops[i] = clientv3.OpDelete(op.Key)
		case op.Temporary:
			lease, err := s.leased(ctx)
			if err != nil {
				return nil, err
			}
			ops[i] = clientv3.OpPut(op.Key, string(op.Value), clientv3.WithLease(lease))
		default:
			ops[i] = clientv3.OpPut(op.Key, string(op.Value))
		}
	}
	return ops, nil
}

// leased returns the one lease of this process's temporary keys, and keeps it alive until the store is closed.
func (s *Store) leased(ctx context.Context) (clientv3.LeaseID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lease != 0 {
		return s.lease, nil
	}
	granted, err := s.c.Grant(ctx, int64(lifetime/time.Second))
	if err != nil {
		return 0, fmt.Errorf("cannot get a lease: %w", unavailable(err))
	}
	alive, end := context.WithCancel(context.Background())
	beats, err := s.c.KeepAlive(alive, granted.ID)
	if err != nil {
		end()
		return 0, fmt.Errorf("cannot keep a lease: %w", unavailable(err))
	}
	s.lease, s.end = granted.ID, end
	go func() {
		for range beats {
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.lease == granted.ID {
			s.lease = 0 // it lapsed: the next temporary key asks for another
		}
	}()
	return s.lease, nil
}

// forget drops a lease that the cluster no longer knows.
func (s *Store) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end()
	s.lease = 0
}

// unavailable makes every error that says "not now, or nobody knows" an ErrUnavailable, and a past that is gone ErrCompacted.
func unavailable(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("%w: %v", hub.ErrCompacted, err)
	}
	code := status.Code(err)
	var of rpctypes.EtcdError
	if errors.As(err, &of) {
		code = of.Code()
	}
	switch code {
	case codes.InvalidArgument, codes.PermissionDenied, codes.Unauthenticated, codes.Unimplemented, codes.OutOfRange:
		return err
	case codes.FailedPrecondition:
		if !errors.Is(err, rpctypes.ErrNoLeader) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", hub.ErrUnavailable, err)
}
