package identity

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/atomicfile"
)

// Listen listens on the loopback address, at the port that is kept in the
// directory, so that clients find the server again after a restart. At the
// first start, and when somebody else has the port, it takes a free one and
// keeps that.
func Listen(dir string) (net.Listener, error) {
	path := filepath.Join(dir, "port")
	if kept, err := os.ReadFile(path); err == nil {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strings.TrimSpace(string(kept))))
		if err == nil || !errors.Is(err, unix.EADDRINUSE) {
			return l, err
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := atomicfile.Write(path, []byte(strconv.Itoa(port)+"\n"), 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("keeping the API's port: %w", err), l.Close())
	}
	return l, nil
}
