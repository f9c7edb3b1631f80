package health

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
)

// GRPCSpec is a service asked for by grpc.health.v1; Service "" means the server as a whole.
type GRPCSpec struct{ Name, Address, Service string }

// GRPC asks grpc.health.v1.Health/Check. One unary call needs no more than HTTP/2 without TLS, five bytes of framing and one
// field of protobuf, so it is written out here: the library would make the daemon 4.5 MB larger.
// Protocol: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md and doc/health-checking.md there.
func GRPC(s GRPCSpec) Probe {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	t := &http.Transport{Protocols: &protocols, DisableKeepAlives: true}
	return grpcProbe{named{s.Name, "grpc"}, s, &http.Client{Transport: t}}
}

type grpcProbe struct {
	named
	spec   GRPCSpec
	client *http.Client
}

const grpcAnswerMax = 4 << 10

func (p grpcProbe) Check(ctx context.Context) Result {
	body := frame(append([]byte{1<<3 | 2}, append(binary.AppendUvarint(nil, uint64(len(p.spec.Service))), p.spec.Service...)...))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+p.spec.Address+"/grpc.health.v1.Health/Check", bytes.NewReader(body))
	if err != nil {
		return Result{CannotTell, err.Error()}
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	defer p.client.CloseIdleConnections()
	resp, err := p.client.Do(req)
	if err != nil {
		return blame(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, grpcAnswerMax))
	if err != nil {
		return Result{Unhealthy, err.Error()}
	}
	return judgeGRPC(resp, data)
}

// judgeGRPC reads grpc-status from the trailer, or from the header of a trailers-only answer.
func judgeGRPC(resp *http.Response, data []byte) Result {
	status := resp.Trailer.Get("Grpc-Status")
	message := resp.Trailer.Get("Grpc-Message")
	if status == "" {
		status, message = resp.Header.Get("Grpc-Status"), resp.Header.Get("Grpc-Message")
	}
	switch {
	case resp.StatusCode != http.StatusOK:
		return Result{Unhealthy, "answered " + resp.Status}
	case status == "5":
		return Result{Unhealthy, "the server does not know the service"}
	case status != "0":
		return Result{Unhealthy, fmt.Sprintf("answered grpc-status %q: %.120s", status, message)}
	}
	serving, ok := servingStatus(data)
	if !ok {
		return Result{Unhealthy, fmt.Sprintf("answered %d bytes that are no health answer", len(data))}
	}
	if serving != 1 {
		return Result{Unhealthy, fmt.Sprintf("answered serving status %d, not SERVING", serving)}
	}
	return Result{Healthy, "SERVING"}
}

func frame(message []byte) []byte {
	out := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	return append(out, message...)
}

// servingStatus reads field 1 (varint) of the one message in data. An empty message means status 0, UNKNOWN.
func servingStatus(data []byte) (uint64, bool) {
	if len(data) < 5 || data[0] != 0 || int(binary.BigEndian.Uint32(data[1:])) != len(data)-5 {
		return 0, false
	}
	m := data[5:]
	if len(m) == 0 {
		return 0, true
	}
	if m[0] != 1<<3 {
		return 0, false
	}
	v, n := binary.Uvarint(m[1:])
	return v, n > 0 && n == len(m)-1
}
