package cri_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/cri/log"
)

// shell is a runtime whose containers are shells that run their argument.
func shell() *cri.Runtime {
	_, rt := newFake()
	p := cri.NewProcesses(func(c *cri.Container) (*exec.Cmd, error) {
		return exec.Command("sh", "-c", c.Config.Args[0]), nil
	})
	rt.StartContainer, rt.StopContainer, rt.Watch, rt.Recover = p.Start, p.Stop, p.Watch, p.Recover
	return rt
}

// script runs a container that logs to main.log in dir.
func (n *node) script(dir, script string) string {
	n.t.Helper()
	config := sandboxConfig(script)
	config.LogDirectory = dir
	sb, err := n.Runtime.RunPodSandbox(n.t.Context(), &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		n.t.Fatal(err)
	}
	req := createRequest(sb.PodSandboxId, "main")
	req.Config.Args, req.Config.LogPath = []string{script}, "main.log"
	resp, err := n.Runtime.CreateContainer(n.t.Context(), req)
	if err != nil {
		n.t.Fatal(err)
	}
	if err := n.start(resp.ContainerId); err != nil {
		n.t.Fatal(err)
	}
	return resp.ContainerId
}

func TestProcesses(t *testing.T) {
	n := serve(t, shell(), t.TempDir())
	dir := filepath.Join(t.TempDir(), "logs")

	id := n.script(dir, "echo out; echo err >&2; printf unfinished; exit 7")
	if st := n.awaitState(id, runtimeapi.ContainerState_CONTAINER_EXITED); st.ExitCode != 7 || st.LogPath != filepath.Join(dir, "main.log") {
		t.Errorf("got %v", st)
	}
	var out, errOut bytes.Buffer
	if err := log.Read(t.Context(), filepath.Join(dir, "main.log"), &out, &errOut, nil); err != nil {
		t.Fatal(err)
	}
	if out.String() != "out\nunfinished" || errOut.String() != "err\n" {
		t.Errorf("logged %q and %q", out.String(), errOut.String())
	}

	polite := n.script(t.TempDir(), "sleep 1000")
	if err := n.stopContainer(polite, 10); err != nil {
		t.Fatal(err)
	}
	if st := n.status(polite); st.ExitCode != 128+int32(syscall.SIGTERM) {
		t.Errorf("a process that ends on SIGTERM: %v", st)
	}

	marker := filepath.Join(t.TempDir(), "trapped")
	stubborn := n.script(t.TempDir(), "trap '' TERM; touch "+marker+"; while :; do sleep 0.01; done")
	for _, err := os.Stat(marker); err != nil; _, err = os.Stat(marker) {
		time.Sleep(time.Millisecond)
	}
	if err := n.stopContainer(stubborn, 1); err != nil {
		t.Fatal(err)
	}
	if st := n.status(stubborn); st.ExitCode != 128+int32(syscall.SIGKILL) {
		t.Errorf("a process that does not: %v", st)
	}
}

// The variables and the working directory of a container are its program's.
func TestHostCommand(t *testing.T) {
	dir := t.TempDir()
	config := &runtimeapi.ContainerConfig{
		Command: make([]string, 1, 2), Args: []string{"-c", "echo $SUITE_VALUE $PWD $NODEKIT_OWN"}, WorkingDir: dir,
		Envs: []*runtimeapi.KeyValue{{Key: "SUITE_VALUE", Value: []byte("of the container")}, {Key: "NODEKIT_OWN", Value: []byte("replaced")}},
	}
	config.Command[0] = "sh"
	t.Setenv("NODEKIT_OWN", "of the runtime")
	cmd, err := (&cri.Container{ID: "c", Config: config}).HostCommand()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.Output()
	if want := "of the container " + dir + " replaced\n"; err != nil || string(out) != want {
		t.Errorf("got %q, %v; want %q", out, err, want)
	}
	if spare := config.Command[:2][1]; spare != "" {
		t.Errorf("the config's own memory has %q", spare)
	}
	for name, wrong := range map[string]*runtimeapi.ContainerConfig{
		"no command": {}, "a terminal": {Command: []string{"sh"}, Tty: true},
	} {
		if _, err := (&cri.Container{ID: "c", Config: wrong}).HostCommand(); !errors.Is(err, cri.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
}

// What a server left running when it went is ended by the next, which knows it
// by its environment.
func TestProcessesAreRecovered(t *testing.T) {
	dir := t.TempDir()
	n := serve(t, shell(), dir)
	pidFile := filepath.Join(t.TempDir(), "pid")
	id := n.script(t.TempDir(), "echo $$ > "+pidFile+".new; mv "+pidFile+".new "+pidFile+"; while :; do sleep 0.01; done")
	for _, err := os.Stat(pidFile); err != nil; _, err = os.Stat(pidFile) {
		time.Sleep(time.Millisecond)
	}
	n.stop()
	n = serve(t, shell(), dir)
	if st := n.status(id); st.State != runtimeapi.ContainerState_CONTAINER_EXITED || st.Reason != "ContainerStatusUnknown" {
		t.Errorf("got %v", st)
	}
	pid, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	stat := filepath.Join("/proc", string(bytes.TrimSpace(pid)), "stat")
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(stat); os.IsNotExist(err) {
			break
		} else if time.Now().After(end) {
			t.Fatalf("process %s still runs", pid)
		}
	}
}
