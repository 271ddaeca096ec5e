package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

// daemon is a `nodekit node` and its directories.
type daemon struct {
	*cli
	root, runDir, manifests string
}

func (c *cli) daemon() *daemon {
	c.t.Helper()
	d := &daemon{cli: c, root: filepath.Join(c.tmp, "root"), runDir: filepath.Join(c.tmp, "run"), manifests: filepath.Join(c.tmp, "m")}
	if err := os.Mkdir(d.manifests, 0o700); err != nil {
		c.t.Fatal(err)
	}
	return d
}

// up starts the node, with podtool's image or with the arguments, and waits
// until Pods can run on it.
func (d *daemon) up(args ...string) *process {
	d.t.Helper()
	if len(args) == 0 {
		args = []string{"--image-archive", filepath.Join(d.bin, "images", "podtool.tar")}
	}
	p := d.start(append([]string{"node", "--root", d.root, "--run", d.runDir, "--manifests", d.manifests}, args...)...)
	p.await(`is up`)
	return p
}

// reset takes down what the node left, as a user does.
func (d *daemon) reset(args ...string) string {
	d.t.Helper()
	out, code := d.run(append([]string{"reset", "--root", d.root, "--run", d.runDir}, args...)...)
	if code != 0 {
		d.t.Errorf("reset: exit code %d:\n%s", code, out)
	}
	if err := os.RemoveAll(d.manifests); err != nil {
		d.t.Error(err)
	}
	return out
}

func (d *daemon) manifest(name, text string) {
	d.t.Helper()
	path := filepath.Join(d.manifests, name)
	if err := os.WriteFile(path+"~", []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
	if err := os.Rename(path+"~", path); err != nil {
		d.t.Fatal(err)
	}
}

// pods asks the node's HTTP API.
func (d *daemon) pods() ([]v1.Pod, error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(d.runDir, "nodekit.sock"))
		},
	}}
	answer, err := client.Get("http://node/pods")
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	var list v1.PodList
	return list.Items, json.NewDecoder(answer.Body).Decode(&list)
}

// ready waits until the only Pod is Ready and returns it.
func (d *daemon) ready() *v1.Pod {
	d.t.Helper()
	var last any
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		pods, err := d.pods()
		last = err
		if err == nil && len(pods) == 1 {
			last = pods[0].Status
			if isReady(&pods[0]) {
				return &pods[0]
			}
		}
	}
	d.t.Fatalf("no Pod became Ready: %v", last)
	return nil
}

// remove removes the manifest and waits until no Pod is there.
func (d *daemon) remove(name string) {
	d.t.Helper()
	if err := os.Remove(filepath.Join(d.manifests, name)); err != nil {
		d.t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		pods, err := d.pods()
		if err == nil && len(pods) == 0 {
			return
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("the Pod is still there: %v %v", pods, err)
		}
	}
}

func isReady(p *v1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == v1.PodReady {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}

const counterPod = `apiVersion: v1
kind: Pod
metadata: {name: counter}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: nodekit.dev/podtool:v1
      args: [lines, --interval, 1ms, "0"]
      readinessProbe:
        exec: {command: [/podtool, exit, "0"]}
`

func TestKilledNodeComesBackToItsPods(t *testing.T) {
	c := newCLI(t)
	d := c.daemon()
	p := d.up()
	d.manifest("p.yaml", counterPod)
	before := d.ready()
	out := ""
	for range 3 {
		time.Sleep(200 * time.Millisecond) // let it print
		p.kill()
		time.Sleep(200 * time.Millisecond) // and go on while nobody is there
		out += p.out.String()
		start := time.Now()
		p = d.up()
		after := d.ready()
		t.Logf("Ready %v after the node was started again", time.Since(start))
		was, is := before.Status.ContainerStatuses[0], after.Status.ContainerStatuses[0]
		if was.ContainerID != is.ContainerID || is.RestartCount != 0 || before.UID != after.UID {
			t.Fatalf("the container was replaced: %+v, then %+v", was, is)
		}
	}
	checkCounting(t, filepath.Join(d.root, "logs", "default_counter_"+string(before.UID), "main", "0.log"))
	p.interrupt()
	if code := p.exit(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, p.out)
	}
	c.clean(out + p.out.String() + d.reset())
}

// checkCounting fails the test unless the log holds 1, 2, 3, ... without a gap.
func checkCounting(t *testing.T, path string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(raw[:strings.LastIndexByte(string(raw), '\n')+1]), "\n"), "\n")
	for i, line := range lines {
		fields := strings.Fields(line)
		if n, err := strconv.Atoi(fields[len(fields)-1]); err != nil || n != i+1 {
			t.Fatalf("line %d of the log is %q", i+1, line)
		}
	}
	if len(lines) < 100 {
		t.Fatalf("the log has only %d lines", len(lines))
	}
	t.Logf("%d lines, none missing", len(lines))
}

func TestStoppedNodeLeavesItsPodsRunning(t *testing.T) {
	c := newCLI(t)
	d := c.daemon()
	p := d.up()
	d.manifest("p.yaml", counterPod)
	before := d.ready()
	p.interrupt()
	if code := p.exit(); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, p.out)
	}
	out := p.out.String()
	p = d.up()
	if after := d.ready(); after.Status.ContainerStatuses[0].ContainerID != before.Status.ContainerStatuses[0].ContainerID {
		t.Error("the container was replaced")
	}
	d.remove("p.yaml")
	p.interrupt()
	p.exit()
	c.clean(out + p.out.String() + d.reset())
}

func TestSecondNodeOnARootIsRefused(t *testing.T) {
	c := newCLI(t)
	d := c.daemon()
	p := d.up()
	out, code := c.run("node", "--root", d.root, "--run", filepath.Join(c.tmp, "other"))
	if code != 1 || !strings.Contains(out, "another node runs on this root: stop it, or choose another root") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	second, other := filepath.Join(c.tmp, "second"), filepath.Join(c.tmp, "other")
	out, code = c.run("node", "--root", second, "--run", d.runDir)
	if want := fmt.Sprintf("another runtime uses %q: stop it, or choose other directories", filepath.Join(d.runDir, "oci")); code != 1 || !strings.Contains(out, want) {
		t.Errorf("exit code %d, want 1 and %q:\n%s", code, want, out)
	}
	p.interrupt()
	p.exit()
	out, code = c.run("reset", "--root", second, "--run", other)
	if code != 0 {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	c.clean(p.out.String() + out + d.reset())
}

// TestWhatANodeStartsWithIsNotThere: the error says what to do.
func TestWhatANodeStartsWithIsNotThere(t *testing.T) {
	for name, tt := range map[string]struct{ flag, value, want string }{
		"manifests": {"--manifests", "nowhere", "nowhere: no such file or directory: make it first"},
		"runtime":   {"--runtime-endpoint", "/nowhere/cri.sock", "start it first, or name the socket of one that runs"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCLI(t)
			d := c.daemon()
			out, code := c.run("node", "--root", d.root, "--run", d.runDir, tt.flag, tt.value)
			if code != 1 || !strings.Contains(out, tt.want) {
				t.Errorf("exit code %d, want 1 and %q:\n%s", code, tt.want, out)
			}
			c.clean(out + d.reset())
		})
	}
}

func TestInvalidManifestFileKeepsItsLastGoodVersion(t *testing.T) {
	c := newCLI(t)
	d := c.daemon()
	p := d.up()
	d.manifest("p.yaml", counterPod)
	before := d.ready()
	d.manifest("p.yaml", strings.Replace(counterPod, "containers:", "containrs:", 1))
	p.await(`p\.yaml.*containrs`)
	if after := d.ready(); after.UID != before.UID {
		t.Error("the Pod was replaced")
	}
	p.interrupt()
	p.exit()
	c.clean(p.out.String() + d.reset())
}
