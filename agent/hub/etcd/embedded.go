package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"
)

// The one member of an embedded store. It listens nowhere: the address only gives it its identity.
const (
	memberName = "slipway-hub"
	memberURL  = "http://localhost:2380"
	// startPatience bounds how long a member reads its own log before it must be ready.
	startPatience = time.Minute
	quota         = 4 << 30
)

// Member is an etcd member in this process, with data in a directory of its own. It listens on no port and no socket.
type Member struct {
	*Store
	e *embed.Etcd
}

// StartMember opens the data in dir, which is made if it is missing, and is ready when it returns. A directory serves one process
// at a time; a second is refused.
func StartMember(ctx context.Context, dir string, log hclog.Logger) (*Member, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot start the embedded etcd: %w", err)
	}
	if err := free(dir); err != nil {
		return nil, err
	}
	cfg := memberConfig(dir, log)
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, fmt.Errorf("cannot start the embedded etcd in %s: %w", dir, err)
	}
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	select {
	case <-e.Server.ReadyNotify():
		return &Member{Store: over(v3client.New(e.Server), 0), e: e}, nil
	case err = <-e.Err():
	case <-ctx.Done():
		err = ctx.Err()
	}
	e.Close()
	return nil, fmt.Errorf("cannot start the embedded etcd in %s: %w", dir, err)
}

// free refuses a directory that another process has open. etcd itself would wait for it without a word. It asks for the lock that
// bbolt takes.
func free(dir string) error {
	f, err := os.Open(filepath.Join(dir, "member", "snap", "db"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot start the embedded etcd: %w", err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("cannot start the embedded etcd: another process has %s open", dir)
	}
	return nil
}

func memberConfig(dir string, log hclog.Logger) *embed.Config {
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = memberName, dir
	cfg.ListenPeerUrls, cfg.ListenClientUrls, cfg.AdvertiseClientUrls = nil, nil, nil
	cfg.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "localhost:2380"}}
	cfg.InitialCluster = memberName + "=" + memberURL
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = embed.CompactorModePeriodic, "10m"
	cfg.QuotaBackendBytes = quota
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(logger(log))
	return cfg
}

// logger lets etcd's warnings through into ours, without etcd's own time stamps.
func logger(log hclog.Logger) *zap.Logger {
	shape := zapcore.EncoderConfig{MessageKey: "msg", NameKey: "logger", EncodeName: zapcore.FullNameEncoder, EncodeDuration: zapcore.StringDurationEncoder}
	out := log.StandardWriter(&hclog.StandardLoggerOptions{ForceLevel: hclog.Warn})
	return zap.New(zapcore.NewCore(zapcore.NewConsoleEncoder(shape), zapcore.AddSync(out), zap.WarnLevel))
}

// Failed delivers the error that ended the member by itself, such as a full disk.
func (m *Member) Failed() <-chan error { return m.e.Err() }

// Close stops the member in good order.
func (m *Member) Close() error {
	err := m.Store.Close()
	m.e.Close()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return err
}
