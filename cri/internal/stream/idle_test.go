package stream_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/internal/stream"
)

// TestIdleConnections: every user of the machine may connect, and what asks for nothing that
// there is, is not kept, or a user could take all descriptors of the server.
func TestIdleConnections(t *testing.T) {
	s := start(t, t.Context(), stream.Functions{
		Exec: func(context.Context, string, []string, stream.Streams) (int32, error) { return 0, nil },
	})
	resp, err := s.Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"x"}, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	at, err := url.Parse(resp.Url)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for name, request := range map[string]string{
		"asks once":         "GET /exec/guess HTTP/1.1\r\nHost: x\r\n\r\n",
		"sends half a body": "POST /exec/guess HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx",
		"sends half of it":  "GET /exec/guess HTTP/1.1\r\n",
		"asks for a stream": "GET /exec/guess HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n",
	} {
		all.Go(func() {
			if err := outlasted(at.Host, request); err != nil {
				t.Errorf("a client that %s: %v", name, err)
			}
		})
	}
	all.Wait()
}

// outlasted returns nil when the server has closed the connection, after its answer if the
// request is a whole one.
func outlasted(address, request string) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	in := bufio.NewReader(conn)
	if strings.HasSuffix(request, "\r\n\r\n") {
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound {
			return fmt.Errorf("the answer is %s", resp.Status)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return err
		}
	}
	var late net.Error
	if _, err := io.Copy(io.Discard, in); errors.As(err, &late) && late.Timeout() {
		return errors.New("the connection is kept")
	}
	return nil
}
