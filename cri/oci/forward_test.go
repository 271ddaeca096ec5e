package oci_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/httpstream" //nolint:staticcheck // the types of client-go's dialer
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport/spdy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// hostPod runs a sandbox on the host's network, where the test itself can listen.
func (n *node) hostPod(name string) string {
	n.t.Helper()
	id, _ := n.sandbox(name, func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	})
	return id
}

// forward opens a connection for streams to ports of the sandbox.
func (n *node) forward(sandbox string) httpstream.Connection {
	n.t.Helper()
	resp, err := n.rs.PortForward(n.t.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: sandbox})
	n.must(err)
	u, err := url.Parse(resp.Url)
	n.must(err)
	transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{})
	n.must(err)
	conn, _, err := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u).Dial("portforward.k8s.io")
	n.must(err)
	n.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// dialled opens the streams of one forwarded connection.
func (n *node) dialled(conn httpstream.Connection, request, port int) (data, fail httpstream.Stream) {
	n.t.Helper()
	h := http.Header{}
	h.Set("streamType", "error")
	h.Set("port", strconv.Itoa(port))
	h.Set("requestID", strconv.Itoa(request))
	fail, err := conn.CreateStream(h)
	n.must(err)
	n.must(fail.Close())
	h.Set("streamType", "data")
	data, err = conn.CreateStream(h)
	n.must(err)
	return data, fail
}

// listen accepts one connection at an address and has serve serve it.
func (n *node) listen(address string, serve func(*net.TCPConn)) (port int) {
	n.t.Helper()
	l, err := net.Listen("tcp", address)
	n.must(err)
	n.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				serve(conn.(*net.TCPConn))
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// TestForwardHalfCloses: each side may end its stream before the other, and still gets
// everything that is sent after that.
func TestForwardHalfCloses(t *testing.T) {
	n := newNode(t)
	pod := n.hostPod("pod")
	got := make(chan []byte, 1)
	serverFirst := n.listen("127.0.0.1:0", func(c *net.TCPConn) {
		_, _ = c.Write([]byte("bye"))
		_ = c.CloseWrite()
		all, _ := io.ReadAll(c)
		got <- all
	})
	clientFirst := n.listen("[::1]:0", func(c *net.TCPConn) {
		all, _ := io.ReadAll(c)
		_, _ = c.Write(all)
	})
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	conn := n.forward(pod)

	data, fail := n.dialled(conn, 1, serverFirst)
	if text, err := io.ReadAll(data); err != nil || string(text) != "bye" {
		t.Errorf("the server's part is %q, %v", text, err)
	}
	for part := range bytes.SplitSeq(sent, []byte("f")) {
		_, err := data.Write(part)
		n.must(err)
	}
	n.must(data.Close())
	select {
	case all := <-got:
		if want := len(bytes.ReplaceAll(sent, []byte("f"), nil)); len(all) != want {
			t.Errorf("the server got %d bytes of %d", len(all), want)
		}
	case <-time.After(20 * time.Second):
		t.Error("the server does not see the client's end")
	}
	if text, err := io.ReadAll(fail); err != nil || len(text) > 0 {
		t.Errorf("the error is %q, %v", text, err)
	}

	data, fail = n.dialled(conn, 2, clientFirst)
	go func() {
		_, _ = data.Write(sent)
		_ = data.Close()
	}()
	if all, err := io.ReadAll(data); err != nil || !bytes.Equal(all, sent) {
		t.Errorf("the server answered %d bytes of %d, %v", len(all), len(sent), err)
	}
	if text, err := io.ReadAll(fail); err != nil || len(text) > 0 {
		t.Errorf("the error is %q, %v", text, err)
	}
	n.removeSandbox(pod)
}

// TestForwardClientGone: a connection to a server that sends nothing and ignores the end
// of its input is closed when the client is killed.
func TestForwardClientGone(t *testing.T) {
	n := newNode(t)
	pod := n.hostPod("pod")
	accepted, left := make(chan struct{}), make(chan error, 1)
	port := n.listen("127.0.0.1:0", func(c *net.TCPConn) {
		_, _ = io.Copy(io.Discard, c) // the end of what it is sent
		close(accepted)
		for { // only what is written shows that nobody is there
			time.Sleep(50 * time.Millisecond)
			if peerGone(c) {
				left <- nil
				return
			}
		}
	})
	conn := n.forward(pod)
	data, _ := n.dialled(conn, 1, port)
	n.must(data.Close())
	<-accepted
	n.must(conn.Close())
	select {
	case <-left:
	case <-time.After(10 * time.Second):
		t.Error("the connection to the server is still there")
	}
	n.removeSandbox(pod)
}

// peerGone reports whether the other end, which has sent its end before, is closed: then
// only this end is left of the connection, in /proc/net/tcp.
func peerGone(c *net.TCPConn) bool {
	text, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return false
	}
	// Of the peer's end, which is the address the other way round, the kernel knows the
	// process no more when its inode is 0.
	hex := func(a net.Addr) string { return fmt.Sprintf("0100007F:%04X", a.(*net.TCPAddr).Port) }
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) > 9 && f[1] == hex(c.RemoteAddr()) && f[2] == hex(c.LocalAddr()) {
			return f[9] == "0"
		}
	}
	return true
}
