package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/client"
)

// stubborn is a CNI plugin that connects nothing, and lets go of it only when
// the file %[1]q is there.
const stubborn = `#!/bin/sh
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}' ;;
ADD) echo '{"cniVersion":"1.0.0","ips":[{"address":"10.213.78.2/24"}]}' ;;
DEL) [ -e %[1]q ] || { echo '{"cniVersion":"1.0.0","code":100,"msg":"never"}'; exit 1; } ;;
esac
`

// writeStubborn writes the plugin, and a network of it, into a directory. The
// plugin lets go once the file is there.
func (c *cli) writeStubborn() (dir, file string) {
	c.t.Helper()
	dir = c.t.TempDir()
	file = filepath.Join(dir, "let-go")
	for name, text := range map[string]string{
		"stubborn":        fmt.Sprintf(stubborn, file),
		"10-e2e.conflist": `{"cniVersion": "1.0.0", "name": "e2e", "plugins": [{"type": "stubborn"}]}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			c.t.Fatal(err)
		}
	}
	return dir, file
}

// patient is longer than the grace and the slack of one Pod, and shorter than
// anybody waits.
const patient = 30 * time.Second

func TestResetWithAPluginThatNeverLetsGo(t *testing.T) {
	c := newCLI(t)
	d := c.daemon()
	dir, letGo := c.writeStubborn()
	network := []string{"--cni-conf-dir", dir, "--cni-bin-dir", dir}
	p := d.up(append([]string{"--image-archive", filepath.Join(d.bin, "images", "podtool.tar")}, network...)...)
	d.manifest("p.yaml", counterPod)
	d.ready()
	p.interrupt()
	if code := p.exit(); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, p.out)
	}
	reset := append([]string{"reset", "--root", d.root, "--run", d.runDir}, network...)
	start := time.Now()
	out, code := c.run(reset...)
	if code != 1 || !strings.Contains(out, "never") || time.Since(start) > patient {
		t.Errorf("exit code %d after %v:\n%s", code, time.Since(start), out)
	}
	if _, err := os.Stat(d.root); err != nil {
		t.Errorf("the root is to stay for the next try: %v", err)
	}
	if err := os.WriteFile(letGo, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.clean(p.out.String() + out + d.reset(network...))
}

func TestSweepWithAPluginThatNeverLetsGo(t *testing.T) {
	c := newCLI(t)
	dir, _ := c.writeStubborn()
	killed := c.start("run", "--cni-conf-dir", dir, "--cni-bin-dir", dir, c.write("p.yaml", podRunning(`[trap, "0"]`)))
	killed.await(`ready`)
	killed.kill()
	start := time.Now()
	out, code := c.run("run", c.write("p.yaml", podRunning(`[exit, "5"]`)))
	if code != 5 || !strings.Contains(out, "taking down what a killed run left") || time.Since(start) > patient {
		t.Errorf("exit code %d after %v:\n%s", code, time.Since(start), out)
	}
	again, code := c.run("run", c.write("p.yaml", podRunning(`[exit, "5"]`)))
	if code != 5 || strings.Contains(again, "taking down what a killed run left") {
		t.Errorf("exit code %d:\n%s", code, again)
	}
	c.clean(killed.out.String() + out + again)
}

// TestResetOfWhatIsNoNode: a directory that was named by mistake is not emptied.
func TestResetOfWhatIsNoNode(t *testing.T) {
	c := newCLI(t)
	d := c.daemon()
	mine := t.TempDir()
	file := filepath.Join(mine, "letter")
	if err := os.WriteFile(file, []byte("dear"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := d.up()
	p.interrupt()
	if code := p.exit(); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, p.out)
	}
	for flag, args := range map[string][]string{
		"--root": {"reset", "--root", mine, "--run", filepath.Join(c.tmp, "other")},
		"--run":  {"reset", "--root", d.root, "--run", mine},
	} {
		out, code := c.run(args...)
		if code != 1 || !strings.Contains(out, flag+" ") || !strings.Contains(out, `"letter"`) {
			t.Errorf("%s: exit code %d:\n%s", flag, code, out)
		}
		if _, err := os.Stat(file); err != nil {
			t.Errorf("%s: %v", flag, err)
		}
	}
	c.clean(p.out.String() + d.reset())
}

// TestResetOfARuntimeServedAlone: what a runtime has mounted before there was a node at
// its root is not hidden from the node.
func TestResetOfARuntimeServedAlone(t *testing.T) {
	c := newCLI(t)
	d := c.daemon()
	socket := "unix://" + filepath.Join(c.tmp, "s")
	p := c.start("serve", "runtime", "--endpoint", socket, "--root", d.root, "--run", d.runDir, "--image-archive", filepath.Join(d.bin, "images", "podtool.tar"))
	cl, err := client.Dial(socket, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := cl.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	pod := &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "alone", Namespace: "e2e", Uid: "alone"}}
	sandbox, err := cl.Runtime.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: pod})
	if err != nil {
		t.Fatal(err)
	}
	made, err := cl.Runtime.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox.PodSandboxId, SandboxConfig: pod, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "main"}, Image: &runtimeapi.ImageSpec{Image: "nodekit.dev/podtool:v1"}, Args: []string{"sleep", "forever"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cl.Runtime.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		t.Fatal(err)
	}
	p.interrupt()
	if code := p.exit(); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, p.out)
	}
	c.clean(p.out.String() + d.reset())
}
