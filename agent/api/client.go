package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

// maxAnswer bounds what the client reads of one answer, and maxEventLine one line of the event stream.
const (
	maxAnswer    = 16 << 20
	maxEventLine = 1 << 20
)

// Client talks to slipwayd. Reading falls back to the read-only socket when this user may not open the control socket. It is
// safe for concurrent use.
type Client struct {
	version string
	control *endpoint
	reading *endpoint
	server  atomic.Pointer[string]
}

type endpoint struct {
	path string
	http *http.Client
}

// NewClient makes a client for the sockets at these paths; readOnly may be empty. version is the caller's own, for Skew.
func NewClient(control, readOnly, version string) *Client {
	c := &Client{version: version, control: newEndpoint(control)}
	if readOnly != "" {
		c.reading = newEndpoint(readOnly)
	}
	return c
}

func newEndpoint(path string) *endpoint {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return &endpoint{path: path, http: &http.Client{
		Transport: &http.Transport{DialContext: dial, DisableCompression: true, IdleConnTimeout: 30 * time.Second},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}}
}

// Close lets go of idle connections.
func (c *Client) Close() {
	for _, e := range []*endpoint{c.control, c.reading} {
		if e != nil {
			e.http.CloseIdleConnections()
		}
	}
}

// Skew is one sentence if the daemon that answered last is of another version than the caller, else empty.
func (c *Client) Skew() string {
	got := c.server.Load()
	if got == nil || *got == "" || *got == c.version {
		return ""
	}
	return fmt.Sprintf("slipwayd is %s but this command is %s", *got, c.version)
}

// Status reads the whole host.
func (c *Client) Status(ctx context.Context) (out Status, err error) {
	return out, c.call(ctx, http.MethodGet, "/v1/status", nil, &out)
}

// App reads one app.
func (c *Client) App(ctx context.Context, app string) (out AppStatus, err error) {
	return out, c.call(ctx, http.MethodGet, appPath(app, ""), nil, &out)
}

// History reads the newest attempts of an app.
func (c *Client) History(ctx context.Context, app string, limit int) (out []HistoryEntry, err error) {
	return out, c.call(ctx, http.MethodGet, appPath(app, "/history?limit="+strconv.Itoa(limit)), nil, &out)
}

// Verify compares the running release with its manifest; it can take as long as reading the whole tree.
func (c *Client) Verify(ctx context.Context, app string, q VerifyQuery) (out VerifyReport, err error) {
	return out, c.call(ctx, http.MethodGet, appPath(app, "/verify?quick="+strconv.FormatBool(q.Quick)), nil, &out)
}

// Doctor asks for the daemon's part of the doctor's report.
func (c *Client) Doctor(ctx context.Context) (out DoctorReport, err error) {
	return out, c.call(ctx, http.MethodGet, "/v1/doctor", nil, &out)
}

// Refresh fetches metadata now.
func (c *Client) Refresh(ctx context.Context) (out RefreshReport, err error) {
	return out, c.call(ctx, http.MethodPost, "/v1/refresh", RefreshRequest{}, &out)
}

// Apply starts what the deployment asks for, or says what would happen.
func (c *Client) Apply(ctx context.Context, app string, r ApplyRequest) (out ApplyReport, err error) {
	return out, c.call(ctx, http.MethodPost, appPath(app, "/apply"), r, &out)
}

// Revert goes back to the fallback.
func (c *Client) Revert(ctx context.Context, app string, r RevertRequest) (out Accepted, err error) {
	return out, c.call(ctx, http.MethodPost, appPath(app, "/revert"), r, &out)
}

// Hold holds an app, or the host if app is empty.
func (c *Client) Hold(ctx context.Context, app string, r HoldRequest) (out Accepted, err error) {
	return out, c.call(ctx, http.MethodPost, hostOrApp(app, "/hold"), r, &out)
}

// Resume ends the hold of an app, or of the host if app is empty.
func (c *Client) Resume(ctx context.Context, app string, r ResumeRequest) (out Accepted, err error) {
	return out, c.call(ctx, http.MethodPost, hostOrApp(app, "/resume"), r, &out)
}

// Retry clears an app's quarantine.
func (c *Client) Retry(ctx context.Context, app string, r RetryRequest) (out Accepted, err error) {
	return out, c.call(ctx, http.MethodPost, appPath(app, "/retry"), r, &out)
}

// Remove settles an app and takes it off the host; deleting its file in apps.d is the caller's next step.
func (c *Client) Remove(ctx context.Context, app string, r RemoveRequest) (out Accepted, err error) {
	return out, c.call(ctx, http.MethodPost, appPath(app, "/remove"), r, &out)
}

// Events calls each for every event of the stream, in order. It ends with the stream, with ctx (then without an error), or with
// the first error of each.
func (c *Client) Events(ctx context.Context, q EventQuery, each func(Event) error) error {
	v := url.Values{"follow": {strconv.FormatBool(q.Follow)}}
	if q.App != "" {
		v.Set("app", q.App)
	}
	if !q.Since.IsZero() {
		v.Set("since", q.Since.Format(time.RFC3339Nano))
	}
	resp, err := c.send(ctx, http.MethodGet, "/v1/events?"+v.Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxEventLine)
	for lines.Scan() {
		var line struct {
			Event
			Error *Error `json:"error"`
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return NewError(KindInternal, "cannot read the event stream: "+err.Error(), "")
		}
		if line.Error != nil {
			return line.Error
		}
		if err := each(line.Event); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	if err := lines.Err(); err != nil {
		return NewError(KindUnreachable, "the event stream broke: "+err.Error(), "slipwayd may have restarted; run the command again")
	}
	return nil
}

func appPath(app, rest string) string { return "/v1/apps/" + url.PathEscape(app) + rest }

func hostOrApp(app, verb string) string {
	if app == "" {
		return "/v1" + verb
	}
	return appPath(app, verb)
}

// call sends one request and decodes its answer. Unknown fields are ignored: a newer daemon may say more.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	resp, err := c.send(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return c.broken(err)
	}
	if len(data) > maxAnswer {
		return NewError(KindInternal, fmt.Sprintf("slipwayd's answer is longer than %d bytes", maxAnswer), "")
	}
	if err := json.Unmarshal(data, out); err != nil {
		return NewError(KindInternal, "cannot read slipwayd's answer: "+err.Error(), c.Skew())
	}
	return nil
}

// send returns only answers of status 200; every other one becomes an *Error. Only reading may move to the read-only socket.
func (c *Client) send(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	resp, err := c.do(ctx, c.control, method, path, body)
	if errors.Is(err, fs.ErrPermission) && method == http.MethodGet && c.reading != nil {
		resp, err = c.do(ctx, c.reading, method, path, nil)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, c.dialError(err)
	}
	v := resp.Header.Get(VersionHeader)
	c.server.Store(&v)
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, readError(resp)
}

func (c *Client) do(ctx context.Context, e *endpoint, method, path string, body []byte) (*http.Response, error) {
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+SocketHost+path, r)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return e.http.Do(req)
}

func readError(resp *http.Response) error {
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	var e Error
	if err == nil && json.Unmarshal(data, &e) == nil && e.Code != "" && e.Message != "" {
		return &e
	}
	return NewError(KindInternal, fmt.Sprintf("slipwayd answered %s without saying why", resp.Status), "is this the socket of slipwayd?")
}

func (c *Client) dialError(err error) error {
	path := c.control.path
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return NewError(KindUnreachable, "cannot reach slipwayd: there is no socket at "+path,
			"is slipwayd installed and running? systemctl status slipwayd.socket slipwayd")
	case errors.Is(err, syscall.ECONNREFUSED):
		return NewError(KindUnreachable, "cannot reach slipwayd: nobody listens on "+path,
			"is slipwayd running? systemctl status slipwayd")
	case errors.Is(err, fs.ErrPermission):
		return NewError(KindForbidden, "cannot open "+path+": permission denied",
			"run as root, or be a member of the group that owns the socket: ls -l "+path)
	}
	return c.broken(err)
}

func (c *Client) broken(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return NewError(KindUnreachable, "the connection to slipwayd broke: "+err.Error(),
		"the request may or may not have been taken; look with slipway status, and at journalctl -u slipwayd")
}
