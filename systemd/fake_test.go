package systemd

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"maps"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// pid1 speaks enough of PID 1's private protocol to stand in for it where the real one cannot be made to misbehave. Behaviour
// that the real one decides (results, states) is tested against the real one in live_test.go.
type pid1 struct {
	t    *testing.T
	path string
	ln   *net.UnixListener

	mu        sync.Mutex
	conns     map[*net.UnixConn]bool
	calls     []string // "Member arg"
	units     map[string]map[string]any
	jobs      map[dbus.ObjectPath]bool // still queued
	made      map[string]map[string]any
	refuse    map[string]string // member → D-Bus error name
	mute      map[string]bool   // member → never answered
	keepJob   bool              // jobs do not end by themselves
	keepStart bool              // only stop jobs end by themselves
	early     bool              // JobRemoved goes out before the reply
	result    string
	deaf      int  // first messages of a connection that stay unseen until one more follows
	noAuth    bool // accepts and says nothing
	output    string
}

func newPID1(t *testing.T) *pid1 {
	t.Helper()
	p := &pid1{
		t: t, path: filepath.Join(t.TempDir(), "private"), conns: map[*net.UnixConn]bool{}, units: map[string]map[string]any{},
		jobs: map[dbus.ObjectPath]bool{}, made: map[string]map[string]any{}, refuse: map[string]string{}, mute: map[string]bool{}, result: "done",
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	p.ln = ln
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := ln.AcceptUnix()
			if err != nil {
				return
			}
			p.mu.Lock()
			p.conns[conn] = true
			p.mu.Unlock()
			serving.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		p.hangUp()
		serving.Wait()
	})
	return p
}

func (p *pid1) control() *Control {
	p.t.Helper()
	c, err := connect(p.t.Context(), func(ctx context.Context) (*dbus.Conn, bool, error) { return dialPath(ctx, p.path) })
	if err != nil {
		p.t.Fatal(err)
	}
	c.patience = 2 * time.Second
	p.t.Cleanup(func() { c.Close() })
	return c
}

// hangUp breaks every connection.
func (p *pid1) hangUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		conn.Close()
	}
	clear(p.conns)
}

func (p *pid1) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *pid1) called(prefix string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.calls {
		if strings.HasPrefix(c, prefix) {
			n++
		}
	}
	return n
}

// transients is a copy of what exists.
func (p *pid1) transients() map[string]map[string]any {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.made)
}

// fdReader collects passed descriptors beside the bytes.
type fdReader struct {
	conn *net.UnixConn
	fds  []int
}

func (r *fdReader) Read(b []byte) (int, error) {
	oob := make([]byte, 256)
	n, oobn, _, _, err := r.conn.ReadMsgUnix(b, oob)
	if messages, e := syscall.ParseSocketControlMessage(oob[:max(oobn, 0)]); e == nil {
		for _, m := range messages {
			fds, _ := syscall.ParseUnixRights(&m)
			r.fds = append(r.fds, fds...)
		}
	}
	if n <= 0 && err == nil {
		err = io.EOF
	}
	return max(n, 0), err
}

func (p *pid1) serve(conn *net.UnixConn) {
	defer conn.Close()
	p.mu.Lock()
	silent, deaf := p.noAuth, p.deaf
	p.mu.Unlock()
	raw := &fdReader{conn: conn}
	r := bufio.NewReader(raw)
	if silent {
		_, _ = r.ReadByte()
		_, _ = r.ReadString(0)
		return
	}
	if !handshaken(conn, r) {
		return
	}
	var unseen []*dbus.Message
	for {
		msg, err := dbus.DecodeMessageWithFDs(r, []int{0, 1, 2, 3, 4, 5})
		if err != nil {
			return
		}
		if unseen = append(unseen, msg); len(unseen) <= deaf {
			continue
		}
		deaf = 0
		for _, m := range unseen {
			p.handle(conn, m, raw)
		}
		unseen = nil
	}
}

func handshaken(conn *net.UnixConn, r *bufio.Reader) bool {
	if _, err := r.ReadByte(); err != nil {
		return false
	}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return false
		}
		answer := "ERROR"
		switch line = strings.TrimSpace(line); {
		case line == "BEGIN":
			return true
		case line == "AUTH":
			answer = "REJECTED EXTERNAL"
		case strings.HasPrefix(line, "AUTH EXTERNAL"):
			answer = "OK 0123456789abcdef0123456789abcdef"
		case line == "NEGOTIATE_UNIX_FD":
			answer = "AGREE_UNIX_FD"
		}
		if _, err := conn.Write([]byte(answer + "\r\n")); err != nil {
			return false
		}
	}
}

func (p *pid1) handle(conn *net.UnixConn, msg *dbus.Message, raw *fdReader) {
	member, _ := msg.Headers[dbus.FieldMember].Value().(string)
	path, _ := msg.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	arg := ""
	if len(msg.Body) > 0 {
		arg, _ = msg.Body[0].(string)
	}
	p.mu.Lock()
	p.calls = append(p.calls, member+" "+arg)
	name, mute := p.refuse[member], p.mute[member]
	p.mu.Unlock()
	switch {
	case mute:
		return
	case name != "":
		p.send(conn, &dbus.Message{Type: dbus.TypeError, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldErrorName: dbus.MakeVariant(name), dbus.FieldReplySerial: dbus.MakeVariant(msg.Serial()),
		}, Body: []any{"Refused for the test."}})
		return
	}
	body, errName := p.answer(conn, member, path, arg, msg, raw)
	reply := &dbus.Message{Type: dbus.TypeMethodReply, Body: body, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldReplySerial: dbus.MakeVariant(msg.Serial()),
	}}
	if errName != "" {
		reply.Type, reply.Headers[dbus.FieldErrorName] = dbus.TypeError, dbus.MakeVariant(errName)
		reply.Body = []any{"No."}
	}
	p.send(conn, reply)
	if strings.HasSuffix(member, "Unit") && len(body) == 1 {
		p.mu.Lock()
		ends := !p.keepJob && !p.early && (!p.keepStart || member == "StopUnit")
		p.mu.Unlock()
		if job, ok := body[0].(dbus.ObjectPath); ok && ends {
			p.endJob(job, arg)
		}
	}
}

// answer is what each method does.
func (p *pid1) answer(conn *net.UnixConn, member string, path dbus.ObjectPath, arg string, msg *dbus.Message, raw *fdReader) ([]any, string) {
	switch member {
	case "Get":
		return p.property(path, msg)
	case "GetAll":
		return []any{p.variants(path)}, ""
	case "ListUnitsByPatterns":
		return []any{p.list(msg)}, ""
	case "StartTransientUnit":
		if err := p.transient(arg, msg, raw); err != "" {
			return nil, err
		}
	case "StopUnit":
		p.set(func() { delete(p.made, arg) })
	case "StartUnit", "RestartUnit", "ReloadUnit", "TryRestartUnit", "ReloadOrRestartUnit":
	default:
		return nil, ""
	}
	p.mu.Lock()
	job := managerPath + "/job/" + dbus.ObjectPath(string(rune('a'+len(p.calls)%26)))
	p.jobs[job] = true
	early := p.early
	p.mu.Unlock()
	if early {
		p.endJob(job, arg)
	}
	return []any{job}, ""
}

func (p *pid1) property(path dbus.ObjectPath, msg *dbus.Message) ([]any, string) {
	name, _ := msg.Body[1].(string)
	p.mu.Lock()
	defer p.mu.Unlock()
	if strings.Contains(string(path), "/job/") && !p.jobs[path] {
		return nil, errUnknownObject
	}
	values := map[string]any{"Version": "252 (fake)", "UserspaceTimestampMonotonic": uint64(5_000_000), "State": "running"}
	return []any{dbus.MakeVariant(values[name])}, ""
}

func (p *pid1) variants(path dbus.ObjectPath) map[string]dbus.Variant {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]dbus.Variant{}
	for name, props := range p.units {
		if unitPath(name) == path {
			for k, v := range props {
				out[k] = dbus.MakeVariant(v)
			}
		}
	}
	return out
}

type listed struct {
	Name, Description, Load, Active, Sub, Following string
	Path                                            dbus.ObjectPath
	JobID                                           uint32
	JobType                                         string
	JobPath                                         dbus.ObjectPath
}

func (p *pid1) list(msg *dbus.Message) []listed {
	patterns, _ := msg.Body[1].([]string)
	p.mu.Lock()
	defer p.mu.Unlock()
	out := []listed{}
	for name := range p.made {
		for _, pattern := range patterns {
			if ok, _ := filepath.Match(pattern, name); ok {
				out = append(out, listed{Name: name, Load: "loaded", Active: "active", Sub: "waiting", Path: unitPath(name), JobPath: "/"})
			}
		}
	}
	return out
}

func (p *pid1) transient(name string, msg *dbus.Message, raw *fdReader) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.made[name] != nil {
		return errUnitExists
	}
	props := map[string]any{}
	for _, pair := range msg.Body[2].([][]any) {
		props[pair[0].(string)] = pair[1].(dbus.Variant).Value()
	}
	p.made[name] = props
	for i, fd := range raw.fds {
		if i == 0 {
			_, _ = syscall.Write(fd, []byte(p.output))
		}
		syscall.Close(fd)
	}
	raw.fds = nil
	return ""
}

// endJob removes a job and tells every connection, as PID 1 does.
func (p *pid1) endJob(job dbus.ObjectPath, unit string) {
	p.mu.Lock()
	delete(p.jobs, job)
	result := p.result
	var conns []*net.UnixConn
	for conn := range p.conns {
		conns = append(conns, conn)
	}
	p.mu.Unlock()
	for _, conn := range conns {
		p.send(conn, &dbus.Message{Type: dbus.TypeSignal, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldPath: dbus.MakeVariant(managerPath), dbus.FieldInterface: dbus.MakeVariant(managerIface),
			dbus.FieldMember: dbus.MakeVariant("JobRemoved"),
		}, Body: []any{uint32(1), job, unit, result}})
	}
}

func (p *pid1) unitChanged(name string) {
	p.mu.Lock()
	var conns []*net.UnixConn
	for conn := range p.conns {
		conns = append(conns, conn)
	}
	p.mu.Unlock()
	for _, conn := range conns {
		p.send(conn, &dbus.Message{Type: dbus.TypeSignal, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldPath: dbus.MakeVariant(unitPath(name)), dbus.FieldInterface: dbus.MakeVariant(propertyIface),
			dbus.FieldMember: dbus.MakeVariant("PropertiesChanged"),
		}, Body: []any{unitIface, map[string]dbus.Variant{}, []string{}}})
	}
}

func (p *pid1) send(conn *net.UnixConn, msg *dbus.Message) {
	if len(msg.Body) > 0 {
		msg.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(msg.Body...))
	}
	var buf bytes.Buffer
	if err := msg.EncodeTo(&buf, binary.LittleEndian); err != nil {
		p.t.Errorf("the fake cannot answer: %v", err)
		return
	}
	_, _ = conn.Write(buf.Bytes())
}
