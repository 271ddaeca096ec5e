package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestRunExample(t *testing.T) {
	c := newCLI(t)
	out, code := c.run("run", c.example())
	if code != 0 {
		t.Fatalf("exit code %d:\n%s", code, out)
	}
	checkExample(t, out)
	if t.Failed() {
		t.Log(out)
	}
	c.clean(out)
}

// example writes examples/pod.yaml with more time between the requests: the Pod is Ready
// from the first to the last, and no node need see what is over in half a second.
func (c *cli) example() string {
	c.t.Helper()
	const interval, longer = "--interval 300ms", "--interval 2s"
	text, err := os.ReadFile("../../examples/pod.yaml")
	if err != nil || strings.Count(string(text), interval) != 1 {
		c.t.Fatalf("the example has not one %q: %v", interval, err)
	}
	return c.write("example.yaml", strings.Replace(string(text), interval, longer, 1))
}

// checkExample fails the test unless the output is that of examples/pod.yaml.
func checkExample(t *testing.T, out string) {
	t.Helper()
	for _, want := range []string{
		"sandbox", "network", "volume", "device", "prepare", "server", "client", "ready", "phase      Succeeded",
		"server | character 1:3", "client | the server was here", "client | the init container was here", "server | request 3", "10.",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	if n := strings.Count(out, "client | hello"); n != 3 {
		t.Errorf("the client got %d answers, want 3", n)
	}
}

func TestRunsSideBySide(t *testing.T) {
	c := newCLI(t)
	var outs [2]string
	var wg sync.WaitGroup
	for i := range outs {
		p := c.start("run", "../../examples/pod.yaml")
		wg.Go(func() {
			if code := p.exit(); code != 0 {
				t.Errorf("run %d: exit code %d:\n%s", i, code, p.out)
			}
			outs[i] = p.out.String()
		})
	}
	wg.Wait()
	c.clean(outs[0] + outs[1])
}

const podOf = `apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: nodekit.dev/podtool:v1
      args: ARGS
`

func podRunning(args string) string { return strings.Replace(podOf, "ARGS", args, 1) }

func TestExitCodeIsTheContainers(t *testing.T) {
	c := newCLI(t)
	out, code := c.run("run", c.write("p.yaml", podRunning(`[do, "echo last words", "exit 7"]`)))
	if code != 7 || !strings.Contains(out, "main | last words") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	c.clean(out)
}

func TestInterruptTakesEverythingDown(t *testing.T) {
	c := newCLI(t)
	p := c.start("run", c.write("p.yaml", podRunning(`[trap, "0"]`)))
	p.await(`ready`)
	p.interrupt()
	if code := p.exit(); code != interrupted {
		t.Errorf("exit code %d:\n%s", code, p.out)
	}
	c.clean(p.out.String())
}

func TestSecondInterruptEndsTheGrace(t *testing.T) {
	c := newCLI(t)
	manifest := strings.Replace(podRunning(`[ignore-term]`), "terminationGracePeriodSeconds: 1", "terminationGracePeriodSeconds: 600", 1)
	p := c.start("run", c.write("p.yaml", manifest))
	p.await(`ready`)
	p.interrupt()
	p.await(`interrupt again to kill them at once`)
	p.interrupt()
	if code := p.exit(); code != interrupted { // exit gives it a minute
		t.Errorf("exit code %d:\n%s", code, p.out)
	}
	c.clean(p.out.String())
}

func TestReaderThatGoesAwayEndsTheRun(t *testing.T) {
	c := newCLI(t)
	cmd := exec.Command("sh", "-c", `"$0" run "$1" | head -n 3`, filepath.Join(c.bin, "nodekit"), c.write("p.yaml", podRunning(`[lines, --interval, 10ms, "0"]`)))
	cmd.Env = append(os.Environ(), "TMPDIR="+c.tmp)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "bridge nk-") {
		t.Errorf("%v:\n%s", err, out)
	}
	c.clean(string(out))
}

func TestInterruptWhileTheNodeStarts(t *testing.T) {
	c := newCLI(t)
	for _, after := range []time.Duration{0, 20 * time.Millisecond, 40 * time.Millisecond} {
		p := c.start("run", "../../examples/pod.yaml")
		for dirs := 0; dirs == 0; time.Sleep(time.Millisecond) { // until it has begun
			made, _ := filepath.Glob(filepath.Join(c.tmp, runDirPrefix+"*"))
			dirs = len(made)
		}
		time.Sleep(after)
		p.interrupt()
		if code := p.exit(); code != interrupted {
			t.Errorf("after %v: exit code %d:\n%s", after, code, p.out)
		}
		c.clean(p.out.String())
	}
}

func TestInterruptWhileStarting(t *testing.T) {
	c := newCLI(t)
	for _, seen := range []string{`node `, `sandbox`, `container  prepare`} {
		p := c.start("run", "../../examples/pod.yaml")
		p.await(seen)
		p.interrupt()
		if code := p.exit(); code != interrupted {
			t.Errorf("after %q: exit code %d:\n%s", seen, code, p.out)
		}
		c.clean(p.out.String())
	}
}

func TestNextRunTakesDownWhatAKilledOneLeft(t *testing.T) {
	c := newCLI(t)
	killed := c.start("run", c.write("p.yaml", podRunning(`[trap, "0"]`)))
	killed.await(`ready`)
	killed.kill()
	if left, _ := filepath.Glob(filepath.Join(c.tmp, runDirPrefix+"*")); len(left) != 1 {
		t.Fatalf("a killed run left %v", left)
	}
	out, code := c.run("run", c.write("p.yaml", podRunning(`[exit, "0"]`)))
	if code != 0 || !strings.Contains(out, "taking down what a killed run left") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	c.clean(killed.out.String() + out)
}

// TestRunExamples runs what lies in the folders that authors copy.
func TestRunExamples(t *testing.T) {
	for example, want := range map[string]string{
		"cni-hello":    `hello \| .* eth0: `,
		"csi-hello":    `hello \| hello from pvc-`,
		"device-hello": `hello \| hello from hello-[\s\S]*hello \| character 1:3`,
	} {
		t.Run(example, func(t *testing.T) {
			c := newCLI(t)
			out, code := c.run("run", "--plugin", filepath.Join(c.bin, example), filepath.Join("../../examples", example, "pod.yaml"))
			if code != 0 || !regexp.MustCompile(want).MatchString(out) {
				t.Errorf("exit code %d, want 0 and %q:\n%s", code, want, out)
			}
			c.clean(out)
		})
	}
}

func TestRunWithAPluginOfYourOwn(t *testing.T) {
	c := newCLI(t)
	manifest := strings.Replace(podRunning(`[do, "stat-device /dev/hello", "env HELLO"]`), "      args:", "      resources: {limits: {example.com/hello: 1}}\n      args:", 1)
	out, code := c.run("run", "--plugin", filepath.Join(c.bin, "device-hello"), c.write("p.yaml", manifest))
	if code != 0 || !strings.Contains(out, "is a deviceplugin plugin") || !strings.Contains(out, "main | hello from hello-") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	c.clean(out)
}

func TestRunWithANetworkOfYourOwn(t *testing.T) {
	c := newCLI(t)
	out, code := c.run("run", "--plugin", filepath.Join(c.bin, "cni-hello"), c.write("p.yaml", podRunning(`[do, "echo connected"]`)))
	if code != 0 || !strings.Contains(out, "is a cni plugin") || !strings.Contains(out, "network    10.") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	c.clean(out)
}

// TestRunWithPluginsOfAConfiguration names their directory as a user does who is
// in it; the plugin's delegate is one of nodekit's own.
func TestRunWithPluginsOfAConfiguration(t *testing.T) {
	c := newCLI(t)
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	bin, err := filepath.Rel(here, c.bin)
	if err != nil {
		t.Fatal(err)
	}
	list := fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "own", "plugins": [{"type": "cni-hello",
  "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.213.78.0/24"}]]}}]}`, filepath.Join(t.TempDir(), "addresses"))
	out, code := c.run("run", "--cni-conf-dir", filepath.Dir(c.write("10-own.conflist", list)), "--cni-bin-dir", bin,
		c.write("p.yaml", podRunning(`[do, "echo connected"]`)))
	if code != 0 || !strings.Contains(out, "main | connected") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	c.clean(out)
}

// TestPluginThatIsNowhere has left nothing to take down.
func TestPluginThatIsNowhere(t *testing.T) {
	c := newCLI(t)
	conf := filepath.Dir(c.write("10-own.conflist", `{"cniVersion": "1.1.0", "name": "own", "plugins": [{"type": "absent"}]}`))
	p := c.start("run", "--cni-conf-dir", conf, c.write("p.yaml", podRunning(`[exit, "0"]`)))
	p.await(`wait .*plugin "absent" is in none of the directories`)
	p.interrupt()
	if code, out := p.exit(), p.out.String(); code != interrupted || !strings.Contains(out, "everything is taken down") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	c.clean(p.out.String())
}

// TestIPAMPluginThatIsNowhere: the DEL that undoes the failed ADD fails for the same
// mistyped name, and holds nothing up.
func TestIPAMPluginThatIsNowhere(t *testing.T) {
	c := newCLI(t)
	conf := filepath.Dir(c.write("10-own.conflist",
		`{"cniVersion": "1.1.0", "name": "own", "plugins": [{"type": "bridge", "bridge": "nke2eipam", "ipam": {"type": "hostlocal"}}]}`))
	p := c.start("run", "--cni-conf-dir", conf, "--cni-bin-dir", t.TempDir(), c.write("p.yaml", podRunning(`[exit, "0"]`)))
	p.await(`wait .*plugin "hostlocal" is in none of the directories .*\(did you mean "host-local"\?\)`)
	p.interrupt()
	if code, out := p.exit(), p.out.String(); code != interrupted || !strings.Contains(out, "everything is taken down") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	c.clean(p.out.String())
}

func TestPluginThatNeverLetsGo(t *testing.T) {
	c := newCLI(t)
	script := filepath.Join(t.TempDir(), "stubborn")
	text := `#!/bin/sh
echo "asked for $CNI_COMMAND" >&2
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}' ;;
STATUS) ;;
*) echo '{"cniVersion":"1.1.0","code":100,"msg":"never"}'; exit 1 ;;
esac
`
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	p := c.start("run", "--plugin", script, c.write("p.yaml", podRunning(`[exit, "0"]`)))
	p.await(`wait .*plugin "stubborn", ADD, code 100: never`)
	p.await(`(?m)^ +stubborn \| asked for ADD$`)
	p.interrupt()
	if code := p.exit(); code != interrupted || !strings.Contains(p.out.String(), "not everything could be taken down") {
		t.Errorf("exit code %d", code)
	}
	if !strings.Contains(p.out.String(), `nodekit: `) {
		t.Error("the error is not shown")
	}
	c.clean(p.out.String())
}

// TestPluginThatHangs: one sees what is waited for while it is.
func TestPluginThatHangs(t *testing.T) {
	c := newCLI(t)
	script := filepath.Join(t.TempDir(), "slow")
	text := `#!/bin/sh
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}' ;;
ADD) sleep 6; echo '{"cniVersion":"1.1.0"}' ;; # which lacks an address
esac
`
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	p := c.start("run", "--plugin", script, c.write("p.yaml", podRunning(`[exit, "0"]`)))
	p.await(`5\.00 s  wait       p  no answer yet to ADD of CNI plugin slow, which may take 1m0s`)
	p.await(`wait       FailedCreatePodSandBox  .*no address`)
	p.interrupt()
	if code := p.exit(); code != interrupted {
		t.Errorf("exit code %d", code)
	}
	c.clean(p.out.String())
}

func TestPluginThatDiesIsStartedAgain(t *testing.T) {
	c := newCLI(t)
	script, die := filepath.Join(t.TempDir(), "dies-once"), filepath.Join(t.TempDir(), "die")
	text := "#!/bin/sh\n" + filepath.Join(c.bin, "csi-hello") + " &\n" +
		"until [ -e " + die + " ]; do sleep 0.1; done\nkill -9 $!; exit 3\n"
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	p := c.start("run", "--plugin", script, c.write("p.yaml", podRunning(`[trap, "0"]`)))
	p.await(`is a csi plugin`)
	if err := os.WriteFile(die, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p.await(`dies-once: ended \(exit status 3\), starts again`)
	p.interrupt()
	p.exit()
	c.clean(p.out.String())
}
