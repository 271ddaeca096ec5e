// Package netnstest gives the tests of a package a network namespace of their own,
// which they may change as if it were the host's.
package netnstest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodekit-project/nodekit/internal/netns"
)

// inside marks the process that runs the tests.
const inside = "NODEKIT_TEST_NETNS"

// Main is the body of a TestMain: it runs the tests in a child process whose only
// network is a loopback interface. Without root, or on systems other than Linux, it
// runs them in this process, and they skip what needs root.
func Main(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv(inside) != "" || listing() {
		os.Exit(m.Run())
	}
	os.Exit(runChild())
}

func listing() bool {
	for _, a := range os.Args {
		if strings.HasPrefix(a, "-test.list") {
			return true
		}
	}
	return false
}

func runChild() (code int) {
	dir, err := os.MkdirTemp("", "netnstest")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.Remove(dir)
	path := filepath.Join(dir, "ns")
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	err = netns.Create(path)
	if err == nil {
		err = netns.Do(path, cmd.Run)
	}
	err = errors.Join(err, netns.Remove(path))
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// New pins a new network namespace for the test.
func New(t testing.TB) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "ns")
	if err := netns.Create(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Remove(path); err != nil {
			t.Error(err)
		}
	})
	return path
}

// Run runs a program in the namespace ("" is the current one) and returns its output.
// It fails the test if the program fails.
func Run(t testing.TB, path string, argv ...string) string {
	t.Helper()
	var out []byte
	run := func() (err error) {
		out, err = exec.Command(argv[0], argv[1:]...).CombinedOutput()
		return err
	}
	err := error(nil)
	if path == "" {
		err = run()
	} else {
		err = netns.Do(path, run)
	}
	if err != nil {
		t.Fatalf("%q: %v: %s", argv, err, out)
	}
	return string(out)
}

// Listen serves TCP in the namespace and answers every connection with its source
// address. It returns the port.
func Listen(t testing.TB, path string) (port int) {
	t.Helper()
	var l net.Listener
	listen := func() (err error) {
		l, err = net.Listen("tcp", ":0")
		return err
	}
	err := error(nil)
	if path == "" {
		err = listen()
	} else {
		err = netns.Do(path, listen)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			fmt.Fprint(c, host)
			c.Close()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// Link connects the current namespace with the one at path by a veth pair: the near
// end has the name, the far end is eth0. The near end may have no address.
func Link(t testing.TB, path, name, near, far string) {
	t.Helper()
	// ip(8) knows namespaces by their names in /run/netns.
	alias := fmt.Sprintf("%s-%d", name, os.Getpid())
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path, filepath.Join("/run/netns", alias)); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(filepath.Join("/run/netns", alias))
	Run(t, "", "ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", alias)
	t.Cleanup(func() { Run(t, "", "ip", "link", "del", name) })
	if near != "" {
		Run(t, "", "ip", "addr", "add", near, "dev", name)
	}
	Run(t, "", "ip", "link", "set", name, "up")
	Run(t, path, "ip", "addr", "add", far, "dev", "eth0")
	Run(t, path, "ip", "link", "set", "eth0", "up")
}
