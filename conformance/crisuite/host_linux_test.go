package crisuite_test

import (
	"bytes"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// containerMark returns what the environment of a container's processes has.
func containerMark(c *exchange, id string) string {
	st, err := c.rt.ContainerStatus(c.ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return ""
	}
	pod, err := c.rt.PodSandboxStatus(c.ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: podOf(c, id)})
	if err != nil {
		return ""
	}
	m := pod.GetStatus().GetLabels()["conformance.nodekit.dev/run"]
	return "SUITE_MARK=" + m + "-" + pod.GetStatus().GetMetadata().GetName() + "-" + st.GetStatus().GetMetadata().GetName() + "."
}

func podOf(c *exchange, id string) string {
	all, err := c.rt.ListContainers(c.ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{Id: id}})
	if err != nil || len(all.Containers) == 0 {
		return ""
	}
	return all.Containers[0].PodSandboxId
}

// containerPID returns a process of a container, "" for none.
func containerPID(c *exchange, id string) string {
	for _, pid := range containerPIDs(c, id) {
		return pid
	}
	return ""
}

func containerPIDs(c *exchange, id string) (found []string) {
	mark := containerMark(c, id)
	entries, err := os.ReadDir("/proc")
	if err != nil || mark == "" {
		return nil
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		if env, err := os.ReadFile("/proc/" + e.Name() + "/environ"); err == nil && bytes.Contains(env, []byte(mark)) {
			found = append(found, e.Name())
		}
	}
	return found
}

// haunt starts a process of the host for some seconds, with an environment and a name.
func haunt(name string, env ...string) {
	cmd := exec.Command("sleep", "12")
	cmd.Args[0] = name
	cmd.Env = env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err == nil {
		go func() { _ = cmd.Wait() }()
	}
}

// rewriteLog changes the log of a container when its end is first told.
func rewriteLog(change func([]byte) []byte) fault {
	return fault{answer: func(c *exchange, resp proto.Message, err error) (proto.Message, error) {
		r, ok := resp.(*runtimeapi.ContainerStatusResponse)
		if !ok || err != nil || r.Status.State != runtimeapi.ContainerState_CONTAINER_EXITED || !c.once(r.Status.Id) {
			return resp, err
		}
		time.Sleep(30 * time.Millisecond)
		if data, err := os.ReadFile(r.Status.LogPath); err == nil {
			_ = os.WriteFile(r.Status.LogPath, change(data), 0o600)
		}
		return resp, err
	}}
}

// logOf returns where a container's log is.
func logOf(c *exchange, id string) string {
	st, err := c.rt.ContainerStatus(c.ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return ""
	}
	return st.GetStatus().GetLogPath()
}
