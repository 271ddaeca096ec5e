package main

import (
	"crypto/rand"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

func testKubectlLogs(k *kubectl) {
	k.ready(strings.Replace(podtoolPod("p", "[lines, --interval, 50ms, '0']"), "containers: [",
		`containers: [{name: again, image: "nodekit.dev/podtool:v1", args: [do, "env HOSTNAME", "echo once", "sleep 1", "exit 3"]}, `, 1))
	k.is("Running", "pod/p", "{.status.phase}")
	follow := k.start("logs", "-f", "p", "-c", "main", "--tail=1")
	follow.await(`\d+\n\d+\n\d+\n`)
	k.says([]string{`^1\n2\n3\n`}, "logs", "p", "-c", "main")
	k.says([]string{`^\d+\n\d+\n$`}, "logs", "p", "-c", "main", "--tail=2")
	k.says([]string{`^20\d\d-\d\d-\d\dT\S+Z \d+\n$`}, "logs", "p", "-c", "main", "--tail=1", "--timestamps")
	k.says([]string{`^1\n2\n$`}, "logs", "p", "-c", "main", "--limit-bytes=4")
	// Where it has just been restarted, its log is still empty.
	k.soon(`(?ms)^once$.*^\d+$`, "logs", "p", "--all-containers")
	k.says([]string{`\[pod/p/main\] \d+\n`}, "logs", "-l", "app=p", "--prefix", "--all-containers")
	k.says([]string{`(?m)^\d+$`}, "logs", "p", "-c", "main", "--since=10s", "--tail=-1")
	// It is restarted, so there is a log before the one there is.
	k.soon(`^[1-9]`, "get", "pod", "p", "-o", "jsonpath={.status.containerStatuses[?(@.name=='again')].restartCount}")
	k.says([]string{`^p\nonce\n$`}, "logs", "-p", "p", "-c", "again")
	k.fails(1, "has no such log", "", "logs", "-p", "p", "-c", "main")
	k.fails(1, "container none is not valid for pod p", "", "logs", "p", "-c", "none")
	k.fails(1, `pods "none" not found`, "", "logs", "none")
	ended := k.start("logs", "-f", "p", "-c", "main", "--tail=1")
	ended.await(`\d`)
	k.ok("delete", "pod", "p", "--now")
	if code := ended.exit(); code != 0 {
		k.Errorf("following a log to its end: exit code %d", code)
	}
}

func testKubectlExec(k *kubectl) {
	k.ready(shell("p"), "p")
	k.says([]string{`^hi\n$`}, "exec", "p", "--", "echo", "hi")
	k.fails(7, "to stderr", "", "exec", "p", "--", "sh", "-c", "echo to stderr >&2; exit 7")
	if out := k.input("from outside", "exec", "-i", "p", "--", "cat"); out != "from outside" {
		k.Errorf("exec -i printed %q", out)
	}
	k.fails(1, "executable file not found", "", "exec", "p", "--", "no-such-program")
	k.fails(1, "container none is not valid for pod p", "", "exec", "p", "-c", "none", "--", "ls")
	k.fails(1, `pods "none" not found`, "", "exec", "none", "--", "ls")
	big := strings.Repeat("0123456789abcdef", 1<<16)
	if out := k.input(big, "exec", "-i", "p", "--", "cat"); out != big {
		k.Errorf("of %d bytes that went through, %d came back", len(big), len(out))
	}
}

// testKubectlTerminal works in a terminal, as a person does.
func testKubectlTerminal(k *kubectl) {
	k.ready(shell("p"), "p")
	p, typed := terminal(k, "stty rows 33 cols 77", k.command("exec", "-it", "p", "--", "sh"))
	p.await(`/ # `)
	// kubectl tells the size when the shell may run already.
	typeLine(k, typed, `until [ "$(stty size)" = "33 77" ]; do sleep 0.1; done; stty size; tty; echo $((40+2))`)
	p.await(`33 77\r\n/dev/pts/\d+\r\n42\r\n`)
	typeLine(k, typed, "echo going; cat")
	p.await(`going\r\n`)
	typeLine(k, typed, "echoed by cat")
	p.await(`echoed by cat\r\nechoed by cat\r\n`)
	typeLine(k, typed, "\x03") // ^C ends what runs in the terminal and not the shell
	typeLine(k, typed, "echo still $((40+2)); exit 5")
	p.await(`still 42`)
	if code := p.exit(); code != 5 {
		k.Errorf("exit code %d, want 5:\n%s", code, p.out)
	}
}

// terminal starts a command in a terminal of its own, after a shell command
// that prepares that, and returns where a person types.
func terminal(k *kubectl, prepare string, cmd *exec.Cmd) (*process, io.Writer) {
	k.Helper()
	words := []string{}
	for _, w := range cmd.Args {
		words = append(words, "'"+strings.ReplaceAll(w, "'", `'\''`)+"'")
	}
	script := exec.Command("script", "--quiet", "--return", "--command", prepare+"; exec "+strings.Join(words, " "), "/dev/null")
	script.Env = append(cmd.Env, "TERM=dumb", "SHELL=/bin/sh")
	typed, err := script.StdinPipe()
	if err != nil {
		k.Fatal(err)
	}
	k.Cleanup(func() { typed.Close() })
	return k.launch(script), typed
}

func typeLine(k *kubectl, to io.Writer, line string) {
	k.Helper()
	if _, err := io.WriteString(to, line+"\n"); err != nil {
		k.Fatal(err)
	}
}

func testKubectlAttach(k *kubectl) {
	pod := strings.Replace(podtoolPod("p", "[copy-stdin]"), "name: main", "name: main, stdin: true", 1)
	k.ready(pod+"---\n"+podtoolPod("printer", "[lines, --interval, 50ms, '0']"), "p", "printer")
	watch := k.start("attach", "printer")
	watch.await(`\n\d+\n\d+\n`)
	cmd := k.command("attach", "-i", "p")
	typed, err := cmd.StdinPipe()
	if err != nil {
		k.Fatal(err)
	}
	p := k.launch(cmd)
	p.await("press(ing)? enter")
	typeLine(k, typed, "hello")
	p.await(`(?m)^hello$`)
	k.says([]string{`^hello\n`}, "logs", "p")
	k.ok("delete", "pod", "p", "--now")
	typed.Close()
	p.exit()
	k.fails(1, "not found", "", "attach", "p")
}

func testKubectlCp(k *kubectl) {
	k.ready(shell("p"), "p")
	dir := k.TempDir()
	big := make([]byte, 3<<20)
	if _, err := rand.Read(big); err != nil {
		k.Fatal(err)
	}
	for name, content := range map[string][]byte{"tree/one": []byte("1\n"), "tree/below/two": []byte("2\n"), "tree/big": big} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			k.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			k.Fatal(err)
		}
	}
	k.ok("cp", filepath.Join(dir, "tree"), "p:/tmp/")
	k.says([]string{`^2\n$`}, "exec", "p", "--", "cat", "/tmp/tree/below/two")
	k.ok("cp", "p:/tmp/tree", filepath.Join(dir, "back"))
	if out, code := k.finish(exec.Command("diff", "-r", filepath.Join(dir, "tree"), filepath.Join(dir, "back"))); code != 0 {
		k.Errorf("what came back differs:\n%s", out)
	}
	k.ok("cp", filepath.Join(dir, "tree/one"), "p:/tmp/single", "-c", "main")
	k.ok("cp", "p:/tmp/single", filepath.Join(dir, "single"))
	if got, err := os.ReadFile(filepath.Join(dir, "single")); err != nil || string(got) != "1\n" {
		k.Errorf("one file came back as %q, %v", got, err)
	}
	k.fails(1, "doesn't exist in local filesystem", "", "cp", filepath.Join(dir, "none"), "p:/tmp/none")
}

func testKubectlPortForward(k *kubectl) {
	k.ready(podtoolPod("p", "[serve, --port, '8080', --text, hello]"), "p")
	p := k.start("port-forward", "pod/p", ":8080")
	port := p.await(`127\.0\.0\.1:(\d+) -> 8080`)[1]
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for range 3 {
		answer, err := client.Get("http://127.0.0.1:" + port + "/")
		if err != nil {
			k.Fatal(err)
		}
		text, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || string(text) != "hello\n" {
			k.Errorf("the Pod answered %q, %v", text, err)
		}
	}
	bad := k.start("port-forward", "pod/p", ":9")
	dead := bad.await(`127\.0\.0\.1:(\d+) -> 9`)[1]
	if answer, err := client.Get("http://127.0.0.1:" + dead + "/"); err == nil {
		answer.Body.Close()
		k.Error("a port on which nobody listens answered")
	}
	bad.await("refused")
}

func testKubectlDebug(k *kubectl) {
	k.ready(shell("p"), "p")
	before := k.ok("get", "pod", "p", "-o", "jsonpath={.status.containerStatuses[0].containerID}")
	k.ok("debug", "p", "--image=nodekit.dev/podtool:v1", "--target=main", "--container=look", "--", "/podtool", "cat", "/proc/1/comm")
	k.is("0", "pod/p", "{.status.ephemeralContainerStatuses[0].state.terminated.exitCode}")
	k.says([]string{`^sleep\n$`}, "logs", "p", "-c", "look")
	p, typed := terminal(k, "true", k.command("debug", "-it", "p", "--image=nodekit.dev/busybox:v1", "--target=main", "--container=shell", "--", "/busybox", "sh"))
	typeLine(k, typed, "")
	p.await(`/ # `)
	typeLine(k, typed, "busybox cat /proc/1/comm; ls /proc/1/root/tmp; exit")
	p.await(`sleep\r\n`)
	p.await(`up\r\n`)
	if code := p.exit(); code != 0 {
		k.Errorf("exit code %d:\n%s", code, p.out)
	}
	k.says([]string{`(?s)Ephemeral Containers:.*look:.*shell:`}, "describe", "pod", "p")
	if after := k.ok("get", "pod", "p", "-o", "jsonpath={.status.containerStatuses[0].containerID}"); after != before {
		k.Error("the container was replaced")
	}
	k.fails(1, `there is no container "none"`, "", "debug", "p", "--image=nodekit.dev/podtool:v1", "--target=none", "--", "/podtool", "id")
	k.ok("debug", "p", "--copy-to=copy", "--image=nodekit.dev/podtool:v1", "--container=extra", "--", "/podtool", "sleep", "forever")
	k.ok("wait", "--for=condition=Ready", "--timeout=40s", "pod/copy")
}

func testKubectlRun(k *kubectl) {
	k.end()
	out := k.input("typed", "run", "p", "--rm", "-i", "--quiet", "--image=nodekit.dev/podtool:v1", "--restart=Never", "--", "copy-stdin")
	k.match(out, `typed`)
	k.fails(1, "not found", "", "get", "pod", "p")
	k.ok("run", "q", "--image=nodekit.dev/podtool:v1", "--labels=a=b", "--env=X=Y", "--port=80", "--restart=Never", "--", "env", "X")
	k.is("Succeeded", "pod/q", "{.status.phase}")
	k.says([]string{`^Y\n$`}, "logs", "q")
}
