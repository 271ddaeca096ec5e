package netnstest

import (
	"io"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/internal/netns"
)

// Dial connects from the namespace to what Listen serves and returns the source
// address that the server saw.
func Dial(t testing.TB, path, host string, port int) string {
	t.Helper()
	source, err := TryDial(path, host, port)
	if err != nil {
		t.Fatalf("dialling %s port %d: %v", host, port, err)
	}
	return source
}

// TryDial is Dial for connections that may fail.
func TryDial(path, host string, port int) (source string, err error) {
	dial := func() error {
		// The dialer's own goroutines would run in another namespace, so no name may
		// be resolved and no two address families raced.
		c, err := (&net.Dialer{Timeout: 3 * time.Second, FallbackDelay: -1}).Dial("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
			return err
		}
		seen, err := io.ReadAll(c)
		source = string(seen)
		return err
	}
	if path == "" {
		return source, dial()
	}
	err = netns.Do(path, dial)
	return source, err
}
