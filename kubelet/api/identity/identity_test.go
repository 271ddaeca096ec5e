package identity_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/nodekit-project/nodekit/internal/testenv"
	"github.com/nodekit-project/nodekit/kubelet/api/identity"
)

func open(t *testing.T, dir string) *identity.Identity {
	t.Helper()
	id, err := identity.Open(dir, "node")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// server answers "in" to who gets past its handshake, at the time that now says.
func server(t *testing.T, id *identity.Identity, now func() time.Time) string {
	t.Helper()
	config, err := id.ServerTLS()
	if err != nil {
		t.Fatal(err)
	}
	config.Time = now
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "in") }))
	s.Config.ErrorLog = nil
	s.TLS = config
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func client(t *testing.T, id *identity.Identity, address string) *rest.Config {
	t.Helper()
	c, err := id.Client(address, "root", "system:masters")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// get asks the server for anything.
func get(t *testing.T, c *rest.Config, now func() time.Time) error {
	t.Helper()
	config, err := rest.TLSConfigFor(c)
	if err != nil {
		t.Fatal(err)
	}
	config.Time = now
	transport := &http.Transport{TLSClientConfig: config}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.Host, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := transport.RoundTrip(r)
	if err != nil {
		return err
	}
	return answer.Body.Close()
}

func TestWhoGetsIn(t *testing.T) {
	own, other := open(t, t.TempDir()), open(t, t.TempDir())
	address := server(t, own, nil)
	good, foreign := client(t, own, address), client(t, other, address)
	without, mixed := rest.CopyConfig(good), rest.CopyConfig(good)
	without.CertData, without.KeyData = nil, nil
	mixed.CertData, mixed.KeyData = foreign.CertData, foreign.KeyData
	impostor := client(t, own, server(t, other, nil))
	for name, c := range map[string]struct {
		config *rest.Config
		want   string
	}{
		"a certificate of its own":      {good, ""},
		"none":                          {without, "certificate required"},
		"of another authority":          {mixed, "unknown certificate authority"},
		"who trusts another authority":  {foreign, "unknown authority"},
		"a server of another authority": {impostor, "unknown authority"},
	} {
		err := get(t, c.config, nil)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

// TestWrongClocks has machines whose clocks are years off.
func TestWrongClocks(t *testing.T) {
	id := open(t, t.TempDir())
	for year, in := range map[int]bool{1999: false, 2001: true, 2026: true, 2150: true, 2201: false} {
		now := func() time.Time { return time.Date(year, 6, 1, 0, 0, 0, 0, time.UTC) }
		if err := get(t, client(t, id, server(t, id, now)), now); (err == nil) != in {
			t.Errorf("%d: %v", year, err)
		}
	}
}

func TestReopened(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "api")
	first := client(t, open(t, dir), "")
	again := open(t, dir)
	if string(client(t, again, "").CAData) != string(first.CAData) {
		t.Error("the authority is another one")
	}
	first.Host = "https://" + server(t, again, nil)
	if err := get(t, first, nil); err != nil {
		t.Errorf("a client from before: %v", err)
	}
}

func TestFilesAreTheOwnersAlone(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	dir := filepath.Join(t.TempDir(), "api")
	id := open(t, dir)
	l, err := identity.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := id.Kubeconfig(kubeconfig, client(t, id, l.Addr().String())); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "ca.pem"): 0o600, filepath.Join(dir, "port"): 0o600, kubeconfig: 0o600} {
		fi, err := os.Stat(path)
		if err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", filepath.Base(path), fi.Mode(), err)
		}
	}
}

func TestKubeconfig(t *testing.T) {
	id := open(t, t.TempDir())
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := id.Kubeconfig(path, client(t, id, server(t, id, nil))); err != nil {
		t.Fatal(err)
	}
	c, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := get(t, c, nil); err != nil {
		t.Error(err)
	}
}

func TestBrokenAuthority(t *testing.T) {
	dir := t.TempDir()
	id := open(t, dir)
	whole, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	leaf := client(t, id, "")
	for name, data := range map[string]string{
		"empty": "", "garbage": "hello", "half": string(whole[:len(whole)/2]), "no authority": string(leaf.CertData) + string(leaf.KeyData),
	} {
		if err := os.WriteFile(filepath.Join(dir, "ca.pem"), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := identity.Open(dir, "node")
		if err == nil || !strings.Contains(err.Error(), "ca.pem") || !strings.Contains(err.Error(), "remove it") {
			t.Errorf("%s: %v", name, err)
		}
		if after, _ := os.ReadFile(filepath.Join(dir, "ca.pem")); string(after) != data {
			t.Errorf("%s: the file was changed", name)
		}
	}
}

func TestListen(t *testing.T) {
	dir := t.TempDir()
	listen := func() (net.Listener, string) {
		l, err := identity.Listen(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l, l.Addr().String()
	}
	first, at := listen()
	if host, _, _ := net.SplitHostPort(at); host != "127.0.0.1" {
		t.Errorf("listens at %s", at)
	}
	first.Close()
	again, same := listen()
	if same != at {
		t.Errorf("was at %s, is at %s", at, same)
	}
	other, taken := listen() // again still has the port
	if taken == at {
		t.Error("two have one port")
	}
	again.Close()
	other.Close()
	if _, kept := listen(); kept != taken {
		t.Errorf("the new port %s was not kept: %s", taken, kept)
	}
	for _, broken := range []string{"", "x", "0", "99999999"} {
		dir = t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "port"), []byte(broken), 0o600); err != nil {
			t.Fatal(err)
		}
		l, at := listen()
		l.Close()
		if _, kept := listen(); kept != at {
			t.Errorf("after %q: %s, and then %s", broken, at, kept)
		}
	}
}

// TestAnotherUser has a process of nobody's on the same machine: it can read none of the
// files, and gets no further than a connection.
func TestAnotherUser(t *testing.T) {
	testenv.Require(t, testenv.Root)
	top, err := os.MkdirTemp("", "nodekit-identity-") // t.TempDir is closed to others already
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	if err := os.Chmod(top, 0o755); err != nil { //nolint:gosec // so that the files' own modes decide
		t.Fatal(err)
	}
	dir := filepath.Join(top, "api")
	id := open(t, dir)
	address := server(t, id, nil)
	kubeconfig := filepath.Join(top, "kubeconfig")
	if err := id.Kubeconfig(kubeconfig, client(t, id, address)); err != nil {
		t.Fatal(err)
	}
	asNobody := func(args ...string) error {
		cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		cmd.Dir = "/"
		return cmd.Run()
	}
	if err := asNobody("ls", top); err != nil {
		t.Fatalf("the check itself: %v", err)
	}
	for _, path := range []string{kubeconfig, filepath.Join(dir, "ca.pem")} {
		if err := exec.CommandContext(t.Context(), "cat", path).Run(); err != nil {
			t.Fatalf("root cannot read %s: %v", path, err)
		}
		if asNobody("cat", path) == nil {
			t.Errorf("nobody reads %s", path)
		}
	}
	if conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: pool(t, client(t, id, address))}); err == nil {
		_, err = conn.Read(make([]byte, 1)) // TLS 1.3 refuses a client after its handshake
		conn.Close()
		if err == nil || !strings.Contains(err.Error(), "certificate required") {
			t.Errorf("without a certificate: %v", err)
		}
	}
}

func pool(t *testing.T, c *rest.Config) *x509.CertPool {
	t.Helper()
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(c.CAData) {
		t.Fatal("no authority")
	}
	return p
}
