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

// Listen listens on the loopback address, on the port that is kept in the directory, so
// that clients find the server again after a restart. At the first start, and if
// another process uses the port, it takes a free one and keeps that.
func Listen(dir string) (net.Listener, error) {
	path := filepath.Join(dir, "port")
	if port := kept(path); port != 0 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
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

// kept returns the port in the file, or 0 if there is none.
func kept(path string) uint16 {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	port, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 16)
	if err != nil {
		return 0
	}
	return uint16(port)
}
