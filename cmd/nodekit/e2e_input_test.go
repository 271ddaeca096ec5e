package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestInputThatIsRefused is about what is wrong with a file: it is refused
// before anything is touched, in one line that names the mistake.
func TestInputThatIsRefused(t *testing.T) {
	c := newCLI(t)
	pod := podRunning(`[exit, "0"]`)
	tests := []struct{ name, manifest, want string }{
		{"not YAML", "{{{", "p.yaml: "},
		{"no Pod", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n", "contains no Pod: there is nothing to run"},
		{"unknown kind", "apiVersion: v1\nkind: Podd\nmetadata: {name: a}\n", "Podd"},
		{"unknown field", strings.Replace(pod, "restartPolicy", "restartPolcy", 1), `restartPolcy`},
		{"unsupported field", strings.Replace(pod, "spec:", "spec:\n  hostUsers: false", 1), "spec.hostUsers"},
		{"a kind for a cluster", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n", "Deployment"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, code := c.run("run", c.write("p.yaml", tt.manifest))
			if code != 1 || !strings.Contains(out, tt.want) || strings.Count(strings.TrimSpace(out), "\n") > 0 {
				t.Errorf("exit code %d, want 1 and one line with %q:\n%s", code, tt.want, out)
			}
			c.clean(out)
		})
	}
}

// TestPodsThatWait is about what is not there and may come: the Pod waits and
// says for what.
func TestPodsThatWait(t *testing.T) {
	pod := podRunning(`[exit, "0"]`)
	volume := func(v string) string {
		return strings.Replace(pod, "  containers:", "  volumes:\n    - name: v\n      "+v+"\n  containers:", 1)
	}
	tests := []struct {
		name, manifest string
		flags          []string
		want           string
	}{
		{"image that does not exist", strings.Replace(pod, "nodekit.dev/podtool:v1", "127.0.0.1:1/nobody/nothing:v1", 1), nil, `127\.0\.0\.1:1/nobody/nothing:v1.*127\.0\.0\.1:1`},
		{"missing ConfigMap", volume("configMap: {name: absent}"), nil, `wait .*ConfigMap.*absent`},
		{"missing claim", volume("persistentVolumeClaim: {claimName: absent}"), nil, `wait .*absent`},
		{"no CSI driver", volume("persistentVolumeClaim: {claimName: c}") + `---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: c}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
`, []string{"--without", "csi-hostpath"}, `wait .*driver`},
		{
			"no device plugin", strings.Replace(pod, "      args:", "      resources: {limits: {nodekit.dev/gpu: 1}}\n      args:", 1),
			[]string{"--without", "gpu"},
			`wait .*nodekit\.dev/gpu`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCLI(t)
			p := c.start(append(append([]string{"run"}, tt.flags...), c.write("p.yaml", tt.manifest))...)
			p.await(tt.want)
			p.interrupt()
			if code := p.exit(); code != interrupted {
				t.Errorf("exit code %d", code)
			}
			t.Log(p.out)
			c.clean(p.out.String())
		})
	}
}

func TestWithoutAnOCIRuntime(t *testing.T) {
	c := newCLI(t)
	t.Setenv("PATH", t.TempDir())
	out, code := c.run("run", c.write("p.yaml", podRunning(`[exit, "0"]`)))
	if code != 1 || !strings.Contains(out, "apt-get install runc") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	c.clean(out)
}

func TestWithoutRoot(t *testing.T) {
	c := newCLI(t)
	secret := filepath.Join(c.tmp, "kubeconfig")
	if err := os.WriteFile(secret, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{c.bin, c.tmp} {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program := filepath.Join(c.bin, "podtool")
	for _, suite := range []string{"csi", "deviceplugin", "cri"} {
		cmd := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", filepath.Join(c.bin, "nodekit"), "conform", suite, "--exec", program)
		cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "needs root: run it as root") || strings.Contains(string(out), "FAIL") {
			t.Errorf("conform %s: %v:\n%s", suite, err, out)
		}
	}
	serve := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", filepath.Join(c.bin, "nodekit"), "serve", "runtime", "--run", c.tmp)
	if out, err := serve.CombinedOutput(); err == nil || !strings.Contains(string(out), "needs root privileges: run it as root") {
		t.Errorf("serve runtime: %v:\n%s", err, out)
	}
	for _, command := range []string{"kubeconfig", "kubectl"} {
		cmd := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", filepath.Join(c.bin, "nodekit"), command, "--run", c.tmp)
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), secret+": permission denied: only root may read it: run it with sudo") {
			t.Errorf("%s: %v:\n%s", command, err, out)
		}
	}
	manifest := filepath.Join(c.tmp, "p.yaml")
	if err := os.WriteFile(manifest, []byte(podRunning(`[exit, "0"]`)), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", filepath.Join(c.bin, "nodekit"), "run", manifest)
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "sudo") {
		t.Errorf("%v:\n%s", err, out)
	}
}

func TestPluginThatIsNone(t *testing.T) {
	c := newCLI(t)
	out, code := c.run("run", "--plugin", "/bin/true", c.write("p.yaml", podRunning(`[exit, "0"]`)))
	if code != 1 || !strings.Contains(out, "before it served or registered anything") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	out3, code := c.run("run", "--cni-conf-dir", "nowhere", c.write("p.yaml", podRunning(`[exit, "0"]`)))
	if code != 1 || !strings.Contains(out3, `--cni-conf-dir "nowhere": there is no such directory`) {
		t.Errorf("exit code %d:\n%s", code, out3)
	}
	for plugin, want := range map[string]string{
		"./not-there":        `--plugin "./not-there": there is no such file`,
		"./not-there --flag": `give only "./not-there" here, and its arguments with --plugin-args`,
		".":                  "it is a directory",
		"csi=./main.go":      "it is not executable",
	} {
		out, code := c.run("run", "--plugin", plugin, c.write("p.yaml", podRunning(`[exit, "0"]`)))
		if code != 1 || !strings.Contains(out, want) {
			t.Errorf("%s: exit code %d, want 1 and %q:\n%s", plugin, code, want, out)
		}
	}
	c.clean(out)
}

// TestPluginThatShowsNothing: its author reads early on where it is looked for.
func TestPluginThatShowsNothing(t *testing.T) {
	c := newCLI(t)
	script := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nexec sleep 60\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	p := c.start("run", "--plugin", script, c.write("p.yaml", podRunning(`[exit, "0"]`)))
	p.await(`3\.[0-9]+ s  plugin     elsewhere: shows no sign yet, and is waited for \(30s\): .*CSI_ENDPOINT \(/.*/csi\.sock\)`)
	p.interrupt()
	if code := p.exit(); code != interrupted {
		t.Errorf("exit code %d:\n%s", code, p.out.String())
	}
	c.clean(p.out.String())
}

// TestEndpointThatIsNone: what cannot listen starts no keeper, which would stay.
func TestEndpointThatIsNone(t *testing.T) {
	c := newCLI(t)
	root, run := filepath.Join(c.tmp, "root"), filepath.Join(c.tmp, "run")
	for endpoint, want := range map[string]string{
		"unix://" + c.tmp + "/missing/cri.sock":            "make the directory first",
		"unix://" + c.tmp:                                  "is not a socket: move it away",
		"unix://" + c.tmp + "/" + strings.Repeat("x", 100): "choose a shorter directory",
		"tcp://127.0.0.1:1":                                "want unix:///absolute/path.sock",
	} {
		out, code := c.run("serve", "runtime", "--root", root, "--run", run, "--endpoint", endpoint)
		if code != 1 || !strings.Contains(out, want) {
			t.Errorf("%s: exit code %d, want 1 and %q:\n%s", endpoint, code, want, out)
		}
	}
	if err := os.RemoveAll(root); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(run); err != nil {
		t.Fatal(err)
	}
	c.clean("")
}

// TestUsedWrongly is about command lines: a mistyped name is no success, and each
// answer says how the command is used.
func TestUsedWrongly(t *testing.T) {
	c := newCLI(t)
	for _, tt := range []struct{ line, want string }{
		{"conform cnii", `unknown command "cnii" for "nodekit conform": the commands are cni, cni-runtime, cri, `},
		{"image lst", `unknown command "lst" for "nodekit image"`},
		{"serve cri", `unknown command "cri" for "nodekit serve"`},
		{"foo", `unknown command "foo" for "nodekit"`},
		{"run --plugin /bin/true", "FILE is missing\nusage: nodekit run FILE [flags]\nnodekit run --help says more"},
		{"run --plugins /bin/true pod.yaml", "unknown flag: --plugins (did you mean \"--plugin\"?)\nusage: nodekit run FILE"},
		{"node --gpu=3", "unknown flag: --gpu (did you mean \"--gpus\"?)\nusage: nodekit node"},
		{"node --colour", "unknown flag: --colour\nusage: nodekit node"},
		{"node --gpus many", "--gpus \"many\": want a whole number\nusage: nodekit node"},
		{"node --check-network often", "--check-network \"often\": want a duration, such as 90s or 2m\nusage: nodekit node"},
		{"node --cgroup-driver cgroups", "--cgroup-driver \"cgroups\": want cgroupfs or systemd\nusage: nodekit node"},
		{"node pod.yaml", "unexpected argument \"pod.yaml\"\nusage: nodekit node"},
		{"run a.yaml b.yaml", "unexpected argument \"b.yaml\": want one FILE\nusage: nodekit run FILE"},
		{"image load", "ARCHIVE is missing\nusage: nodekit image load ARCHIVE..."},
		{"bench --rounds 0", "--rounds 0: want 1 or more"},
		{"bench start --rounds -1", "--rounds -1: want 1 or more"},
		{"conform csi", "the flags in the group [exec endpoint] is required\nusage: nodekit conform csi --exec COMMAND | --endpoint"},
		{"serve csi-hostpath --node-id x", "required flag(s) \"endpoint\", \"state-dir\" not set\nusage: nodekit serve csi-hostpath"},
		{"node -z", "unknown shorthand flag: 'z' in -z\nusage: nodekit node"},
		{"install --print --runtime-endpoint containerd.sock", "--runtime-endpoint: endpoint \"containerd.sock\": want unix:///absolute/path.sock"},
		{"kubectl --run", "--run needs the run directory of a node"},
		{"kubectl --run= get pods", "--run needs the run directory of a node"},
		{"kubectl get pods --run /nowhere", "--run must come first: nodekit kubectl --run DIR"},
		{"kubectl --run /nowhere get pods --run=/nowhere", "--run must come first: nodekit kubectl --run DIR"},
		{"kubectl --run /nowhere exec p -- serve --run /x", "no node uses the run directory \"/nowhere\""},
		{"run --runtime-endpoint unix:///r --cni-conf-dir /etc ../../examples/pod.yaml", "--cni-conf-dir is for the reference runtime"},
		{"run --runtime-endpoint unix:///r --cni-timeout 2m ../../examples/pod.yaml", "--cni-timeout is for the reference runtime"},
		{"serve runtime --cni-timeout 2", `--cni-timeout "2": want a positive duration`},
		{"serve runtime --cni-import-cache /var/lib/cni/results", "name its configuration with --cni-conf-dir"},
		{"node --cni-import-cache /var/lib/cni/results", "name its configuration with --cni-conf-dir"},
		{"node --runtime-endpoint unix:///r --cni-import-cache /var/lib/cni/results", "--cni-import-cache is for the reference runtime"},
		{"node --gpus -1", "--gpus -1: want the number of GPUs to simulate"},
		{"node --check-network -5s", "--check-network -5s: want a positive duration, such as 30s, or 0"},
		{"serve runtime --check-network -5s", "--check-network -5s: want a positive duration, such as 30s, or 0"},
		{"node --cdi-spec-dir e2e_test.go", `--cdi-spec-dir "e2e_test.go": it is not a directory`},
		{"install --print --root=", `--root "" and --run "/run/nodekit": want two directories`},
		{"serve runtime --root=", `--root "" and --run "/run/nodekit": want two directories`},
		{"serve runtime --root /nowhere --run /nowhere/", `--root and --run are both "/nowhere"`},
		{"node --root /nowhere --run /nowhere", `--root and --run are both "/nowhere"`},
		{"reset --root /nowhere --run /nowhere", `--root and --run are both "/nowhere"`},
		{"conform cni --exec /bin/true", "usage: nodekit conform cni BINARY"},
	} {
		if out, code := c.run(strings.Fields(tt.line)...); code != 1 || !strings.Contains(out, tt.want) {
			t.Errorf("%s: exit code %d, want 1 and %q:\n%s", tt.line, code, tt.want, out)
		}
	}
	if out, code := c.run("conform"); code != 0 || !strings.Contains(out, "Available Commands") {
		t.Errorf("conform: exit code %d:\n%s", code, out)
	}
}

// TestConformRefuses is about what would be found out only at the end of a run.
func TestConformRefuses(t *testing.T) {
	c := newCLI(t)
	hostLocal := filepath.Join(t.TempDir(), "host-local")
	if err := os.Symlink(filepath.Join(c.bin, "cni"), hostLocal); err != nil {
		t.Fatal(err)
	}
	misfit := c.write("misfit.yaml", "suite: cni\nfacts:\n  config: {ipam: 7}\n")
	mistyped := c.write("mistyped.yaml", "suite: cni\nfacts:\n  confg: {root: /}\n")
	misled := c.write("profile.yaml", "suite: cri\nfacts:\n  lacks: pull, isolation\n  image: mine\n  tool: /nowhere/podtool\n")
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"cni", "/bin/true", "-o", "yaml"}, `--output "yaml": want text, json, junit or html`},
		{[]string{"cni", "/bin/true", "--report", "x.foo"}, `--report "x.foo": want a name that ends in`},
		{[]string{"cni", "/bin/true", "--report", "/nowhere/x.json"}, `--report "/nowhere/x.json": there is no directory "/nowhere"`},
		{[]string{"cni", "/bin/true", "--parallel", "-1"}, "--parallel -1: want"},
		{[]string{"cni", "/bin/true", "--timeout", "-1s"}, "--timeout -1s: want"},
		{[]string{"cni", "/bin/true", "--rule", ""}, "--rule is empty"},
		{[]string{"cni", "/nowhere"}, `plugin "/nowhere": there is no such file`},
		{[]string{"cni", "/etc/passwd"}, `plugin "/etc/passwd": it is not executable`},
		{[]string{"cni", "/bin/true", "--tier", "quick", "--rule", "CNI-IPAM-009", "--rule", "CNI-NO-*"}, `no rule "CNI-NO-*"`},
		{[]string{"cni", hostLocal}, "the plugin refuses a configuration without keys, and nothing was tested: write one into a profile"},
		{[]string{"cni", hostLocal, "--profile", misfit}, "the plugin refuses the configuration of the profile, and nothing was tested"},
		{[]string{"cni", hostLocal, "--profile", misfit, "--rule", "CNI-DEL-001"}, "the plugin refuses the configuration of the profile, and nothing was tested"},
		{[]string{"cni", hostLocal, "--profile", misfit, "--rule", "CNI-DEL-000"}, `no rule "CNI-DEL-000"`},
		{[]string{"cni", hostLocal, "--profile", mistyped}, `confg`},
		{[]string{"csi", "--exec", "/nowhere"}, `--exec "/nowhere": there is no such file`},
		{[]string{"csi", "--endpoint", "unix:///nowhere/c.sock"}, "no driver is ready at unix:///nowhere/c.sock: start it first"},
		{[]string{"deviceplugin", "--exec", " "}, "--exec is empty"},
		{[]string{"cri", "--exec", "/nowhere"}, `--exec "/nowhere": there is no such file`},
		{[]string{"cni-runtime", "--exec", "/nowhere"}, `--exec "/nowhere": there is no such file`},
		{[]string{"cni-runtime", "--exec", "/bin/true", "--rule", "CNIRT-001"}, "the runtime ended (exit status 0)"},
		{[]string{"cri-client", "--exec", "/nowhere"}, `--exec "/nowhere": there is no such file`},
		{[]string{"rules", "pod"}, `no suite "pod": there are`},
		{[]string{"cri", "./mine"}, `give the command with --exec "./mine"`},
		{[]string{"cri", "--endpoint", "unix:///nowhere/c.sock", "--rule", "CRI-STATUS-001"}, "no runtime answers at unix:///nowhere/c.sock: start it first"},
		{[]string{"cri", "--exec", "/bin/true", "--profile", misled, "--rule", "CRI-STATUS-001"}, `fact tool: in a runtime that lacks "isolation"`},
	} {
		if out, code := c.run(append([]string{"conform"}, tt.args...)...); code != 1 || !strings.Contains(out, tt.want) {
			t.Errorf("conform %q: exit code %d, want 1 and %q:\n%s", tt.args, code, tt.want, out)
		}
	}
	out, code := c.run("conform", "rules", "cni")
	for _, want := range []string{"CNI-DEL-001", "facts of a profile", "runtimeConfig"} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("conform rules: exit code %d, without %q:\n%s", code, want, out)
		}
	}
}
