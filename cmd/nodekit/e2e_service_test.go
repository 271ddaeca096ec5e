package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/cri/oci/keeper"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// nextProgram names another build of nodekit, to upgrade to.
const nextProgram = "NODEKIT_TEST_NEXT"

// slowPod prints less than counterPod and is asked nothing: it runs in an emulated
// machine. It has a limit that can be looked for.
const slowPod = `apiVersion: v1
kind: Pod
metadata: {name: counter}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: nodekit.dev/podtool:v1
      args: [lines, --interval, 20ms, "0"]
      resources: {limits: {memory: 64Mi}}
`

// service is a node that systemd runs.
type service struct {
	*daemon
	dir, name string   // of the program, of the unit
	args      []string // of install
}

// install installs a node whose program is in a directory with an odd name.
func (c *cli) install() *service {
	c.t.Helper()
	d := c.daemon()
	d.runDir = "/run/nodekit-e2e"
	s := &service{daemon: d, dir: filepath.Join(c.tmp, "a $dir, 100%% odd"), name: "nodekit-e2e.service"}
	c.must(os.Mkdir(s.dir, 0o755))
	for _, program := range []string{"nodekit", "keeper"} {
		c.must(copyFile(filepath.Join(c.bin, program), filepath.Join(s.dir, program)))
	}
	archive := filepath.Join(s.dir, "podtool.tar")
	c.must(copyFile(filepath.Join(c.bin, "images", "podtool.tar"), archive))
	c.bin = s.dir
	s.args = []string{
		"install", "--now", "--name", "nodekit-e2e", "--root", d.root, "--run", d.runDir, "--manifests", d.manifests,
		"--image-archive", archive,
	}
	if out, code := c.run(s.args...); code != 0 {
		c.t.Fatalf("exit code %d:\n%s\n%s", code, out, s.journal())
	}
	return s
}

// copyFile puts a program in the place of another, which may be running.
func copyFile(from, to string) error {
	raw, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.WriteFile(to+"~", raw, 0o755); err != nil {
		return err
	}
	return os.Rename(to+"~", to)
}

func (c *cli) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (s *service) journal() []byte {
	out, _ := exec.Command("journalctl", "--no-pager", "-u", s.name).CombinedOutput()
	return out
}

func (s *service) systemctl(args ...string) {
	s.t.Helper()
	if out, err := exec.Command("systemctl", args...).CombinedOutput(); err != nil {
		s.t.Fatalf("systemctl %v: %v: %s\n%s", args, err, out, s.journal())
	}
}

// property returns what systemd says of a unit.
func (s *service) property(unit, name string) string {
	s.t.Helper()
	out, err := exec.Command("systemctl", "show", "--property="+name, "--value", unit).Output()
	s.must(err)
	return strings.TrimSpace(string(out))
}

// life is what may not change while the container runs.
type life struct {
	uid, container string
	restarts       int32
	pid, keeper    int
	cgroup, limit  string
}

// look looks at the container and the keeper from outside of the node.
func (s *service) look() life {
	s.t.Helper()
	client := keeper.NewClient(filepath.Join(s.runDir, "oci"))
	hello, err := client.Hello(s.t.Context())
	s.must(err)
	list, err := client.List(s.t.Context())
	s.must(err)
	if len(list) != 1 || list[0].PID == 0 {
		s.t.Fatalf("the keeper has %+v, want one running container", list)
	}
	l := life{pid: list[0].PID, keeper: hello.PID, cgroup: s.cgroupOf(list[0].PID)}
	limit, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", l.cgroup, "memory.max"))
	s.must(err)
	l.limit = strings.TrimSpace(string(limit))
	return l
}

// lookReady waits for the Pod and looks at it from all sides.
func (s *service) lookReady() life {
	s.t.Helper()
	p := s.ready()
	status := p.Status.ContainerStatuses[0]
	l := s.look()
	l.uid, l.container, l.restarts = string(p.UID), status.ContainerID, status.RestartCount
	return l
}

func (s *service) cgroupOf(pid int) string {
	s.t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	s.must(err)
	return strings.TrimSpace(strings.TrimPrefix(string(raw), "0::"))
}

func (s *service) mainPID() int {
	s.t.Helper()
	var pid int
	_, err := fmt.Sscan(s.property(s.name, "MainPID"), &pid)
	s.must(err)
	return pid
}

// printing fails the test unless the container's log grows.
func (s *service) printing(log string) {
	s.t.Helper()
	before, err := os.Stat(log)
	s.must(err)
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if now, err := os.Stat(log); err == nil && now.Size() > before.Size() {
			return
		}
	}
	s.t.Errorf("nothing is written to %s any more", log)
}

// checkPlaces fails the test unless systemd would kill nothing but nodekit.
func (s *service) checkPlaces(l life) {
	s.t.Helper()
	scope := filepath.Base(s.cgroupOf(l.keeper))
	if !strings.HasPrefix(scope, "nodekit-keeper-") || !strings.HasSuffix(scope, ".scope") || s.property(scope, "ActiveState") != "active" {
		s.t.Errorf("the keeper is in %q, want an active scope of its own", scope)
	}
	if !strings.HasPrefix(l.cgroup, "/nodekit-") || l.limit != "67108864" {
		s.t.Errorf("the container is in %q, limited to %s", l.cgroup, l.limit)
	}
	procs, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", s.property(s.name, "ControlGroup"), "cgroup.procs"))
	s.must(err)
	if want := []string{fmt.Sprint(s.mainPID())}; !slices.Equal(strings.Fields(string(procs)), want) {
		s.t.Errorf("in the unit's cgroup are %q, want only %q", strings.Fields(string(procs)), want)
	}
}

// TestService: whatever is done to the unit, the container does not notice.
func TestService(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.OCIRuntime, testenv.Systemd)
	c := newCLI(t)
	s := c.install()
	s.manifest("p.yaml", slowPod)
	before := s.lookReady()
	s.checkPlaces(before)
	log := filepath.Join(s.root, "logs", "default_counter_"+before.uid, "main", "0.log")

	same := func(what string) {
		t.Helper()
		if now := s.lookReady(); now != before {
			t.Errorf("%s: before %+v, then %+v\n%s", what, before, now, s.journal())
		}
		s.checkPlaces(before)
		s.printing(log)
	}
	stopped := func(what string) {
		t.Helper()
		now := s.look()
		now.uid, now.container = before.uid, before.container
		if now != before || s.property(s.name, "ActiveState") != "inactive" {
			t.Errorf("%s: before %+v, then %+v; the unit is %s", what, before, now, s.property(s.name, "ActiveState"))
		}
		s.printing(log)
	}

	s.systemctl("stop", s.name)
	stopped("stopped")
	s.systemctl("daemon-reload")
	stopped("stopped and reloaded")
	s.systemctl("start", s.name)
	same("started again")

	c.must(copyFile(os.Getenv(nextProgram), filepath.Join(s.dir, "nodekit")))
	s.systemctl("restart", s.name)
	same("upgraded")
	s.checkProgram(os.Getenv(nextProgram))

	killed := s.mainPID()
	c.must(syscall.Kill(killed, syscall.SIGKILL))
	s.awaitMain(killed)
	same("killed")

	pid := s.mainPID()
	if out, code := c.run(s.args...); code != 0 || !strings.Contains(out, "is up to date") || s.mainPID() != pid {
		t.Errorf("installed again: exit code %d, process %d, then %d:\n%s", code, pid, s.mainPID(), out)
	}
	if out, code := c.run(append(s.args, "--gpus", "1")...); code != 0 || s.mainPID() == pid {
		t.Errorf("installed with another flag: exit code %d, still process %d:\n%s", code, pid, out)
	}
	pid = s.mainPID()
	later := append(slices.DeleteFunc(slices.Clone(s.args), func(a string) bool { return a == "--now" }), "--gpus", "3")
	if out, code := c.run(later...); code != 0 || s.mainPID() != pid {
		t.Errorf("installed for later: exit code %d, process %d, then %d:\n%s", code, pid, s.mainPID(), out)
	}
	if out, code := c.run(append(later, "--now")...); code != 0 || s.mainPID() == pid {
		t.Errorf("and now: exit code %d, still process %d:\n%s", code, pid, out)
	}
	same("installed with another flag")
	checkCounting(t, log)

	scope := filepath.Base(s.cgroupOf(before.keeper))
	out, code := c.run("uninstall", "--name", "nodekit-e2e")
	if code != 0 || s.property(s.name, "LoadState") != "not-found" {
		t.Errorf("uninstall: exit code %d, the unit is %s:\n%s", code, s.property(s.name, "LoadState"), out)
	}
	if now := s.look(); now.pid != before.pid {
		t.Errorf("uninstalled: before %+v, then %+v", before, now)
	}
	out += s.reset()
	c.must(os.RemoveAll(s.dir))
	c.clean(out)
	if state := s.property(scope, "LoadState"); state != "not-found" {
		t.Errorf("the keeper's scope is still %s", state)
	}
	if _, err := os.Stat(s.runDir); err == nil {
		t.Error("the run directory is left")
	}
}

// checkProgram fails the test unless the service runs this program.
func (s *service) checkProgram(path string) {
	s.t.Helper()
	want, err := os.ReadFile(path)
	s.must(err)
	got, err := os.ReadFile(fmt.Sprintf("/proc/%d/exe", s.mainPID()))
	s.must(err)
	if !bytes.Equal(got, want) {
		s.t.Errorf("the service does not run %s", path)
	}
}

// awaitMain waits until systemd has started the service anew.
func (s *service) awaitMain(old int) {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if pid := s.mainPID(); pid != 0 && pid != old && s.property(s.name, "ActiveState") == "active" {
			return
		}
	}
	s.t.Fatalf("systemd does not start it again:\n%s", s.journal())
}

// A service that cannot start says why, and is not left half installed.
func TestServiceThatCannotStart(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.OCIRuntime, testenv.Systemd)
	c := newCLI(t)
	missing := filepath.Join(c.tmp, "absent")
	out, code := c.run("install", "--now", "--name", "nodekit-e2e-bad", "--root", filepath.Join(c.tmp, "root"), "--run", filepath.Join(c.tmp, "run"),
		"--manifests", missing)
	if code != 1 || !strings.Contains(out, "journalctl -u nodekit-e2e-bad.service") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	journal, _ := exec.Command("journalctl", "--no-pager", "-u", "nodekit-e2e-bad.service").CombinedOutput()
	if !strings.Contains(string(journal), missing) {
		t.Errorf("the journal does not say what is missing:\n%s", journal)
	}
	uninstalled, code := c.run("uninstall", "--name", "nodekit-e2e-bad")
	if code != 0 {
		t.Errorf("exit code %d:\n%s", code, uninstalled)
	}
	reset, code := c.run("reset", "--root", filepath.Join(c.tmp, "root"), "--run", filepath.Join(c.tmp, "run"))
	if code != 0 {
		t.Errorf("exit code %d:\n%s", code, reset)
	}
	c.clean(out + uninstalled + reset)
}
