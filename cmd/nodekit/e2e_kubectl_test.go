package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nodekit-project/nodekit/internal/syncbuf"
	"github.com/nodekit-project/nodekit/internal/testenv"
	"github.com/nodekit-project/nodekit/kubelet/api"
)

// TestKubectl uses Kubernetes' own kubectl, unmodified, on one node. Each
// subtest has a namespace of its own.
func TestKubectl(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.OCIRuntime, testenv.Busybox)
	c := newCLI(t)
	d := c.daemon()
	linkKubectl(t, c)
	p := d.up("--image-archive", filepath.Join(d.bin, "images", "podtool.tar"), "--image-archive", busyboxImage(t, c))
	home := t.TempDir() // kubectl caches there what it discovers
	t.Run("verbs", func(t *testing.T) {
		for name, test := range kubectlTests() {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(&kubectl{T: t, d: d, home: home, namespace: name})
			})
		}
	})
	t.Run("drain", func(t *testing.T) { testKubectlDrain(&kubectl{T: t, d: d, home: home, namespace: "drain"}) })
	p.interrupt()
	p.exit()
	c.clean(p.out.String() + d.reset())
}

// kubectlTests returns the tests by their names, which are namespaces too.
func kubectlTests() map[string]func(*kubectl) {
	return map[string]func(*kubectl){
		"apply": testKubectlApply, "create": testKubectlCreate, "patch": testKubectlPatch, "edit": testKubectlEdit,
		"get": testKubectlGet, "watch": testKubectlWatch, "describe": testKubectlDescribe, "events": testKubectlEvents,
		"discovery": testKubectlDiscovery, "unsupported": testKubectlUnsupported, "auth": testKubectlAuth,
		"logs": testKubectlLogs, "exec": testKubectlExec, "terminal": testKubectlTerminal, "attach": testKubectlAttach,
		"cp": testKubectlCp, "port-forward": testKubectlPortForward, "debug": testKubectlDebug, "run": testKubectlRun,
		"delete": testKubectlDelete, "wait": testKubectlWait, "top": testKubectlTop, "nobody": testKubectlNobody,
	}
}

// linkKubectl puts kubectl beside nodekit: the one that `make build` made, for
// linking it takes a while, or one of its own.
func linkKubectl(t *testing.T, c *cli) {
	t.Helper()
	made, err := filepath.Abs("../../bin/kubectl")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(made); err == nil {
		if err := os.Symlink(made, filepath.Join(c.bin, "kubectl")); err != nil {
			t.Fatal(err)
		}
		return
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-buildid= -X k8s.io/component-base/version.gitVersion="+api.KubernetesVersion, "-o", c.bin, "../kubectl")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building kubectl: %v\n%s", err, out)
	}
}

// busyboxImage packs Debian's busybox, which has a shell and tar, into an image.
func busyboxImage(t *testing.T, c *cli) string {
	t.Helper()
	program, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "busybox.tar")
	if out, code := c.run("image", "pack", "--name", "nodekit.dev/busybox:v1", "--output", archive, program); code != 0 {
		t.Fatalf("packing busybox:\n%s", out)
	}
	return archive
}

// kubectl is the program as a subtest uses it. A method that does not get what
// it says fails the test.
type kubectl struct {
	*testing.T
	d               *daemon
	home, namespace string
}

func (k *kubectl) command(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(k.d.bin, "kubectl"), append([]string{"--namespace", k.namespace}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+filepath.Join(k.d.runDir, "kubeconfig"), "HOME="+k.home, "TMPDIR="+k.home)
	return cmd
}

// finish runs the command to its end, which comes within a minute.
func (k *kubectl) finish(cmd *exec.Cmd) (output string, code int) {
	k.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		k.Fatal(err)
	}
	stop := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer stop.Stop()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		k.Fatal(err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// ok runs kubectl, which must succeed, and returns what it printed.
func (k *kubectl) ok(args ...string) string {
	k.Helper()
	return k.input("", args...)
}

// input runs kubectl with standard input.
func (k *kubectl) input(stdin string, args ...string) string {
	k.Helper()
	cmd := k.command(args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, code := k.finish(cmd)
	if code != 0 {
		k.Fatalf("kubectl %s: exit code %d:\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// fails runs kubectl, which must end with the code and say want.
func (k *kubectl) fails(code int, want, stdin string, args ...string) {
	k.Helper()
	cmd := k.command(args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, got := k.finish(cmd); got != code || !strings.Contains(out, want) {
		k.Errorf("kubectl %s: exit code %d, want %d and %q:\n%s", strings.Join(args, " "), got, code, want, out)
	}
}

// says runs kubectl, which must succeed and print something that matches each
// pattern.
func (k *kubectl) says(patterns []string, args ...string) string {
	k.Helper()
	out := k.ok(args...)
	k.match(out, patterns...)
	return out
}

func (k *kubectl) match(out string, patterns ...string) {
	k.Helper()
	for _, pattern := range patterns {
		if !regexp.MustCompile(pattern).MatchString(out) {
			k.Errorf("the output lacks %q:\n%s", pattern, out)
		}
	}
}

// soon runs kubectl until it prints something that matches.
func (k *kubectl) soon(pattern string, args ...string) {
	k.Helper()
	re := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(40 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		out := k.ok(args...)
		if re.MatchString(out) {
			return
		}
		if time.Now().After(deadline) {
			k.Fatalf("kubectl %s does not say %q:\n%s", strings.Join(args, " "), pattern, out)
		}
	}
}

// is waits until a field of an object has the value: what nodes and collectors
// do takes a moment.
func (k *kubectl) is(value, object, jsonpath string) {
	k.Helper()
	k.ok("wait", "--for=jsonpath="+jsonpath+"="+value, "--timeout=40s", object)
}

// ready creates objects and waits until the Pods among them are Ready.
func (k *kubectl) ready(manifest string, pods ...string) {
	k.Helper()
	k.input(manifest, "apply", "-f", "-")
	for _, p := range pods {
		k.ok("wait", "--for=condition=Ready", "--timeout=40s", "pod/"+p)
	}
	k.end()
}

// end deletes at the end of the test what is in its namespace, without grace.
func (k *kubectl) end() {
	k.Cleanup(func() { k.finish(k.command("delete", "pod,pvc,configmap", "--all", "--now")) })
}

// start starts kubectl. It is killed when the test ends.
func (k *kubectl) start(args ...string) *process { return k.launch(k.command(args...)) }

func (k *kubectl) launch(cmd *exec.Cmd) *process {
	k.Helper()
	p := &process{Cmd: cmd, t: k.T, out: &syncbuf.Buffer{}}
	p.Stdout, p.Stderr = p.out, p.out
	if err := p.Start(); err != nil {
		k.Fatal(err)
	}
	k.Cleanup(func() {
		_ = p.Process.Kill() // it has ended, unless the test failed or it watches
		_ = p.Wait()
	})
	return p
}

// sleeper is a Pod that does nothing, with podtool in it.
func sleeper(name string) string { return podtoolPod(name, "[sleep, forever]") }

func podtoolPod(name, args string) string {
	return strings.NewReplacer("NAME", name, "ARGS", args).Replace(`apiVersion: v1
kind: Pod
metadata: {name: NAME, labels: {app: NAME}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: "nodekit.dev/podtool:v1", args: ARGS}]
`)
}

// shell is a Pod with a shell and the programs of busybox.
func shell(name string) string {
	return strings.ReplaceAll(`apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: nodekit.dev/busybox:v1
      command: [/busybox, sh, -c, "/busybox mkdir -p /bin /tmp; /busybox --install /bin; touch /tmp/up; exec sleep 1000"]
      readinessProbe: {exec: {command: [/busybox, test, -e, /tmp/up]}, periodSeconds: 1}
`, "NAME", name)
}
