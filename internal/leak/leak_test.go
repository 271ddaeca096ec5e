//go:build linux

package leak_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/leak"
	"github.com/nodekit-project/nodekit/internal/procstat"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// audit holds that make leaves exactly the wanted things in scope, which must
// be free of them before, and that they are gone after undo.
func audit(t *testing.T, scope leak.Scope, make func() (undo func()), want ...string) {
	t.Helper()
	before := take(t, scope)
	undo := make()
	after := take(t, scope)
	var got []string
	for _, l := range before.Diff(after) {
		got = append(got, l.String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("found (-want +got):\n%s", diff)
	}
	if back := after.Diff(before); len(back) != 0 {
		t.Errorf("things have gone: %v", back)
	}
	undo()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if left := leak.Settled(ctx, before); len(left) != 0 {
		t.Errorf("after it was undone: %v", left)
	}
}

func take(t *testing.T, scope leak.Scope) *leak.Snapshot {
	t.Helper()
	s, err := leak.Take(scope)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func only(kind leak.Kind, prefix string) leak.Scope {
	return leak.Scope{Kinds: []leak.Kind{kind}, Prefixes: map[leak.Kind][]string{kind: {prefix}}}
}

// inNetNS runs f in a network namespace of its own, on a thread that ends
// with it.
func inNetNS(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("making a network namespace: %v", err)
			return
		}
		f()
	}()
	<-done
}

func TestMounts(t *testing.T) {
	testenv.Require(t, testenv.Root)
	dir := filepath.Join(t.TempDir(), "a b") // the kernel escapes blanks
	must(t, os.Mkdir(dir, 0o700))
	audit(t, only(leak.Mount, dir), func() func() {
		must(t, unix.Mount("leaktest", dir, "tmpfs", 0, ""))
		must(t, unix.Mount("leaktest", dir, "tmpfs", 0, "")) // stacked
		return func() {
			must(t, unix.Unmount(dir, 0))
			must(t, unix.Unmount(dir, 0))
		}
	}, "mount "+dir+" (tmpfs, leaktest)", "mount "+dir+" (tmpfs, leaktest)")
}

func TestNamespaces(t *testing.T) {
	testenv.Require(t, testenv.Root)
	path := filepath.Join(t.TempDir(), "ns")
	must(t, os.WriteFile(path, nil, 0o600))
	inNetNS(t, func() {
		self := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		ns, err := os.Readlink(self)
		must(t, err)
		audit(t, only(leak.Namespace, path), func() func() {
			must(t, unix.Mount(self, path, "", unix.MS_BIND, ""))
			return func() { must(t, unix.Unmount(path, 0)) }
		}, fmt.Sprintf("namespace %s (%s)", path, ns))
	})
}

func TestLinksAndAddresses(t *testing.T) {
	testenv.Require(t, testenv.Root)
	inNetNS(t, func() {
		scope := leak.Scope{Kinds: []leak.Kind{leak.Link, leak.Address}}
		audit(t, scope, func() func() {
			br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "leak0"}}
			must(t, netlink.LinkAdd(br))
			addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 9, 8, 7), Mask: net.CIDRMask(24, 32)}}
			must(t, netlink.AddrAdd(br, addr))
			return func() { must(t, netlink.LinkDel(br)) }
		}, "link leak0 (bridge)", "address leak0 10.9.8.7/24")
	})
}

func TestNFT(t *testing.T) {
	testenv.Require(t, testenv.Root)
	inNetNS(t, func() {
		conn, err := nftables.New()
		must(t, err)
		table := conn.AddTable(&nftables.Table{Name: "kept", Family: nftables.TableFamilyINet})
		chain := conn.AddChain(&nftables.Chain{Name: "c", Table: table})
		set := &nftables.Set{Name: "s", Table: table, KeyType: nftables.TypeInetService}
		must(t, conn.AddSet(set, nil))
		rule := &nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop},
		}}
		conn.AddRule(rule)
		must(t, conn.Flush())
		audit(t, only(leak.NFT, "kept"), func() func() {
			conn.AddRule(rule) // equal to the one that is there
			must(t, conn.SetAddElements(set, []nftables.SetElement{{Key: []byte{0, 80}}}))
			conn.AddChain(&nftables.Chain{Name: "d", Table: table})
			other := conn.AddTable(&nftables.Table{Name: "other", Family: nftables.TableFamilyIPv4})
			must(t, conn.Flush())
			return func() {
				rules, err := conn.GetRules(table, chain)
				must(t, err)
				must(t, conn.DelRule(rules[0])) // the first: the one that stays has another handle
				must(t, conn.SetDeleteElements(set, []nftables.SetElement{{Key: []byte{0, 80}}}))
				conn.DelChain(&nftables.Chain{Name: "d", Table: table})
				conn.DelTable(other)
				must(t, conn.Flush())
			}
		}, "nft kept inet chain c rule 4 (immediate)", "nft kept inet chain d", "nft kept inet set s element 0050")
	})
}

func TestCgroups(t *testing.T) {
	testenv.Require(t, testenv.Root)
	name := fmt.Sprintf("/leaktest-%d", rand.Uint32())
	var roots []string
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids"} {
		var fs unix.Statfs_t
		if unix.Statfs(root, &fs) == nil && (fs.Type == unix.CGROUP_SUPER_MAGIC || fs.Type == unix.CGROUP2_SUPER_MAGIC) {
			roots = append(roots, root)
		}
	}
	if len(roots) == 0 {
		t.Fatal("no cgroup hierarchy is mounted below /sys/fs/cgroup")
	}
	var want []string
	for _, root := range roots {
		want = append(want, fmt.Sprintf("cgroup %s (in %s)", name, root))
	}
	slices.Sort(want)
	audit(t, only(leak.Cgroup, name), func() func() {
		for _, root := range roots {
			must(t, os.Mkdir(root+name, 0o700))
		}
		return func() {
			for _, root := range roots {
				must(t, os.Remove(root+name))
			}
		}
	}, want...)
}

// TestProcessesOfNetNS has a process that nothing ties to the marker but the
// namespace that it is in.
func TestProcessesOfNetNS(t *testing.T) {
	testenv.Require(t, testenv.Root)
	inNetNS(t, func() {
		ns, err := os.Readlink(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		must(t, err)
		scope := leak.Scope{Kinds: []leak.Kind{leak.Process}, Marker: t.TempDir(), MarkedOnly: true}
		before := take(t, scope)
		child := exec.Command("sleep", "100")
		child.Env = []string{}
		must(t, child.Start())
		defer func() { _ = child.Process.Kill(); _ = child.Wait() }()
		becomes(t, child)
		if found := before.Diff(take(t, scope)); len(found) > 0 {
			t.Errorf("found without its namespace: %v", found)
		}
		scope.NetNS = []string{ns}
		want := fmt.Sprintf("[process %d sleep 100]", child.Process.Pid)
		if got := fmt.Sprint(before.Diff(take(t, scope))); got != want {
			t.Errorf("found %s, want %s", got, want)
		}
	})
}

// becomes waits until a child has its command line, which it may not have yet when
// it is said to have started: its descriptors are closed first.
func becomes(t *testing.T, child *exec.Cmd) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", child.Process.Pid))
		must(t, err)
		if len(line) > 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v has no command line", child)
		}
	}
}

// TestProcesses makes a child, and a process that has left its parents but
// carries the marker.
func TestProcesses(t *testing.T) {
	testenv.Require(t, testenv.Root)
	marker := t.TempDir()
	scope := leak.Scope{Kinds: []leak.Kind{leak.Process}, Marker: marker}
	before := take(t, scope)
	child := exec.Command("sleep", "100")
	must(t, child.Start())
	defer func() { _ = child.Process.Kill(); _ = child.Wait() }()
	left := exec.Command("sh", "-c", "setsid sleep 101 </dev/null >/dev/null 2>&1 & echo $!")
	left.Env = append(os.Environ(), "STATE_DIR="+marker)
	out, err := left.Output()
	must(t, err)
	leaver := strings.TrimSpace(string(out))
	defer func() { must(t, exec.Command("kill", "-9", leaver).Run()) }()
	for range 1000 { // until the shells in between have become what they run
		got := fmt.Sprint(before.Diff(take(t, scope)))
		if strings.Contains(got, fmt.Sprintf("process %d sleep 100", child.Process.Pid)) &&
			strings.Contains(got, fmt.Sprintf("process %s sleep 101", leaver)) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("found %v", before.Diff(take(t, scope)))
}

func TestZombies(t *testing.T) {
	scope := leak.Scope{Kinds: []leak.Kind{leak.Process}, Marker: t.TempDir()}
	before := take(t, scope)
	child := exec.Command("true")
	must(t, child.Start())
	must(t, unix.Waitid(unix.P_PID, child.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)) // it has ended, and stays
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	left := leak.Settled(ctx, before)
	if len(left) != 1 || left[0].Name != fmt.Sprintf("%d [true] (state Z)", child.Process.Pid) {
		t.Errorf("found %v", left)
	}
	st, err := procstat.Read(child.Process.Pid)
	must(t, err)
	if start, is := take(t, scope).Processes()[child.Process.Pid]; !is || start != st.StartTime {
		t.Errorf("the process began at %d (%v), want %d", start, is, st.StartTime)
	}
	must(t, child.Wait())
	if left := leak.Settled(t.Context(), before); len(left) != 0 {
		t.Errorf("after the wait: %v", left)
	}
}

func TestDescriptors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	scope := leak.Scope{Kinds: []leak.Kind{leak.Descriptor}, PIDs: []int{os.Getpid()}}
	take(t, scope) // what the Go runtime opens on first use
	var f *os.File
	before := take(t, scope)
	f, err := os.Create(path)
	must(t, err)
	found := before.Diff(take(t, scope))
	if len(found) != 1 || !strings.HasSuffix(found[0].Name, fmt.Sprintf(": %d -> %s", f.Fd(), path)) {
		t.Errorf("found %v", found)
	}
	must(t, f.Close())
	if left := leak.Settled(t.Context(), before); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestLoops(t *testing.T) {
	testenv.Require(t, testenv.Root)
	image := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(image, make([]byte, 1<<20), 0o600))
	var device string
	before := take(t, only(leak.Loop, image))
	out, err := exec.Command("losetup", "--find", "--show", image).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	device = strings.TrimSpace(string(out))
	got := fmt.Sprint(before.Diff(take(t, only(leak.Loop, image))))
	if want := fmt.Sprintf("[loop %s (%s)]", image, device); got != want {
		t.Errorf("found %s, want %s", got, want)
	}
	must(t, exec.Command("losetup", "--detach", device).Run())
	if left := leak.Settled(t.Context(), before); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "kept"), nil, 0o600))
	audit(t, leak.Scope{Kinds: []leak.Kind{leak.File}, Dirs: []string{dir}}, func() func() {
		must(t, os.MkdirAll(filepath.Join(dir, "a", "b"), 0o700))
		return func() { must(t, os.RemoveAll(filepath.Join(dir, "a"))) }
	}, "file "+dir+"/a", "file "+dir+"/a/b")
}

func TestSettledGivesUp(t *testing.T) {
	dir := t.TempDir()
	before := take(t, leak.Scope{Kinds: []leak.Kind{leak.File}, Dirs: []string{dir}})
	must(t, os.WriteFile(filepath.Join(dir, "x"), nil, 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if left := leak.Settled(ctx, before); len(left) != 1 || left[0].Kind != leak.File {
		t.Errorf("left %v", left)
	}
}

func TestUnknownKind(t *testing.T) {
	if _, err := leak.Take(leak.Scope{Kinds: []leak.Kind{"flux"}}); err == nil {
		t.Error("a kind that does not exist was looked at")
	}
}

// TestEverything takes the whole machine: whatever is on it must be
// readable.
func TestEverything(t *testing.T) {
	testenv.Require(t, testenv.Root)
	s := take(t, leak.Scope{})
	if len(s.Names(leak.Mount)) == 0 || len(s.Names(leak.Link)) == 0 || len(s.Names(leak.Process)) == 0 {
		t.Error("a machine without mounts, links or processes")
	}
}
