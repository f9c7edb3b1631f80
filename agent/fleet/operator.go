package fleet

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/slipway-deploy/slipway/agent/release"
)

// maxOperatorAnswer bounds an answer to an operator, in bytes: a list of a hundred thousand hosts has some 50 MB.
const maxOperatorAnswer = 256 << 20

// Operator speaks to hubs for a person, with an operator's certificate. Its errors are those of Transport.
type Operator struct{ link *link }

// NewOperator makes a client. It opens no file and no connection.
func NewOperator(o Options) (*Operator, error) {
	c, err := NewClient(o)
	if err != nil {
		return nil, err
	}
	return &Operator{c.link}, nil
}

// Status is the whole fleet.
func (o *Operator) Status(ctx context.Context) (s Status, err error) {
	return s, o.get(ctx, PathStatus, nil, &s)
}

// Hosts lists what hosts last told about an app.
func (o *Operator) Hosts(ctx context.Context, env release.Environment, app release.App) (list []HostStatus, err error) {
	return list, o.get(ctx, PathHosts, url.Values{"environment": {env.String()}, "app": {app.String()}}, &list)
}

// Audit is one page of the operators' log after entry n. VerifyAudit checks it.
func (o *Operator) Audit(ctx context.Context, n int64) (list []AuditEntry, err error) {
	return list, o.get(ctx, PathAudit, url.Values{"since": {strconv.FormatInt(n, 10)}}, &list)
}

// Act carries out one of the acts.
func (o *Operator) Act(ctx context.Context, name string, a Act) (done ActAnswer, err error) {
	err = o.link.send(ctx, http.MethodPost, PathActs+name, nil, a, MaxBody, func(r reply) error { return r.decode(&done) })
	return done, err
}

func (o *Operator) get(ctx context.Context, path string, q url.Values, out any) error {
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	return o.link.send(ctx, http.MethodGet, path, nil, nil, maxOperatorAnswer, func(r reply) error { return r.decode(out) })
}
