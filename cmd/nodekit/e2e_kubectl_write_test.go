package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func configMap(name, value string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + "}\ndata: {key: \"" + value + "\"}\n"
}

const deployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  selector: {matchLabels: {a: b}}
  template:
    metadata: {labels: {a: b}}
    spec: {containers: [{name: main, image: "nodekit.dev/podtool:v1"}]}
`

// whatToDo is what a user is told who wants a Deployment.
const whatToDo = "Deployment is not supported: a node runs Pods and has no controllers; write its Pod template as a Pod"

func testKubectlApply(k *kubectl) {
	k.ready(sleeper("p")+"---\n"+configMap("c", "one"), "p")
	if out := k.input(sleeper("p")+"---\n"+configMap("c", "two"), "apply", "-f", "-"); out != "pod/p unchanged\nconfigmap/c configured\n" {
		k.Errorf("apply with a change says:\n%s", out)
	}
	k.says([]string{"^two$"}, "get", "configmap", "c", "-o", "jsonpath={.data.key}")
	k.input(configMap("c", "three"), "apply", "-f", "-", "--dry-run=server")
	k.says([]string{"^two$"}, "get", "configmap", "c", "-o", "jsonpath={.data.key}")
	k.fails(1, "Apply failed with 1 conflict", configMap("c", "four"), "apply", "-f", "-", "--server-side", "--field-manager=me")
	k.input(configMap("c", "four"), "apply", "-f", "-", "--server-side", "--force-conflicts")
	k.input(configMap("s", "one"), "apply", "-f", "-", "--server-side", "--field-manager=me")
	k.fails(1, `conflict with "me"`, configMap("s", "two"), "apply", "-f", "-", "--server-side", "--field-manager=you")
	k.says([]string{"^four$"}, "get", "configmap", "c", "-o", "jsonpath={.data.key}")
	k.fails(1, `unknown field "spec.containrs"`, strings.Replace(sleeper("q"), "containers", "containrs", 1), "apply", "-f", "-")
	k.fails(1, "spec.restartPolicy", strings.Replace(sleeper("q"), "spec:", "spec:\n  restartPolicy: Sometimes", 1), "apply", "-f", "-")
	k.fails(1, whatToDo, deployment, "apply", "-f", "-")
	k.fails(1, whatToDo, deployment, "apply", "-f", "-", "--server-side")
	k.fails(1, "-  key: four\n+  key: five", configMap("c", "five"), "diff", "-f", "-")
	k.input(configMap("c", "six"), "replace", "-f", "-")
	k.says([]string{"^six$"}, "get", "configmap", "c", "-o", "jsonpath={.data.key}")
}

func testKubectlCreate(k *kubectl) {
	k.end()
	dir := k.TempDir()
	for name, text := range map[string]string{
		"1-config.yaml": configMap("c", "v"), "2-pod.yml": sleeper("p"), "3-two.yaml": configMap("d", "v") + "---\n" + sleeper("q"),
		"4.json": `{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "g-"}}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			k.Fatal(err)
		}
	}
	k.says([]string{"configmap/c created", "pod/p created", "configmap/d created", "pod/q created", "configmap/g-.{5} created"}, "create", "-f", dir)
	k.ok("wait", "--for=condition=Ready", "--timeout=40s", "pod/p", "pod/q")
	k.fails(1, "already exists", "", "create", "-f", filepath.Join(dir, "2-pod.yml"))
	k.says([]string{"demo created"}, "create", "-f", "../../examples/pod.yaml")
	k.is("Succeeded", "pod/demo", "{.status.phase}")
	k.says([]string{"character 1:3", "the server was here"}, "logs", "demo", "--all-containers")
	k.ok("create", "configmap", "from", "--from-literal=a=b", "--from-file="+dir)
	k.says([]string{`^b \{"apiVersion": "v1", .*"generateName": "g-"`}, "get", "configmap", "from", "-o", `go-template={{.data.a}} {{index .data "4.json"}}`)
	k.ok("create", "secret", "generic", "token", "--from-literal=a=b")
	k.says([]string{`^Yg==$`}, "get", "secret", "token", "-o", "jsonpath={.data.a}")
	k.ok("create", "namespace", "create-more")
	k.ok("delete", "namespace", "create-more")
	k.ok("delete", "-f", filepath.Join(dir, "3-two.yaml"), "-f", filepath.Join(dir, "2-pod.yml"), "--now")
	k.fails(1, `pods "p" not found`, "", "get", "pod", "p")
}

func testKubectlPatch(k *kubectl) {
	k.ready(sleeper("p"), "p")
	k.ok("patch", "pod", "p", "-p", `{"metadata":{"labels":{"a":"1","b":"1"}},"spec":{"containers":[{"name":"main","image":"nodekit.dev/podtool:v1"}]}}`)
	k.ok("patch", "pod", "p", "--type=merge", "-p", `{"metadata":{"labels":{"a":"2"}}}`)
	k.ok("patch", "pod", "p", "--type=json", "-p", `[{"op":"remove","path":"/metadata/labels/b"}]`)
	k.says([]string{`^\{"a":"2","app":"p"\}$`}, "get", "pod", "p", "-o", "jsonpath={.metadata.labels}")
	k.fails(1, "is invalid: spec", "", "patch", "pod", "p", "-p", `{"spec":{"hostNetwork":true}}`)
	k.fails(1, "is invalid", "", "patch", "pod", "p", "--type=json", "-p", `[{"op":"remove","path":"/metadata/labels/none"}]`)
	k.ok("label", "pod", "p", "c=1")
	k.fails(1, "already has a value", "", "label", "pod", "p", "c=2")
	k.ok("label", "pod", "p", "c=2", "--overwrite")
	k.ok("label", "pod", "-l", "c=2", "c-")
	k.ok("annotate", "pod", "p", "note=here")
	k.says([]string{`"a":"2","app":"p"\} here`}, "get", "pod", "p", "-o", "jsonpath={.metadata.labels} {.metadata.annotations.note}")
	k.fails(1, "nothing-such", "", "label", "pod", "nothing-such", "a=b")
	k.says([]string{"restartCount: 0"}, "get", "pod", "p", "-o", "yaml")
}

func testKubectlEdit(k *kubectl) {
	k.end()
	k.input(configMap("c", "one"), "create", "-f", "-")
	editor := filepath.Join(k.TempDir(), "editor")
	if err := os.WriteFile(editor, []byte("#!/bin/sh\nexec sed -i 's/key: one/key: edited/' \"$1\"\n"), 0o700); err != nil { //nolint:gosec // a program
		k.Fatal(err)
	}
	cmd := k.command("edit", "configmap", "c")
	cmd.Env = append(cmd.Env, "EDITOR="+editor)
	if out, code := k.finish(cmd); code != 0 || !strings.Contains(out, "configmap/c edited") {
		k.Errorf("exit code %d:\n%s", code, out)
	}
	k.says([]string{"^edited$"}, "get", "configmap", "c", "-o", "jsonpath={.data.key}")
}

func testKubectlDelete(k *kubectl) {
	k.end()
	mark := "DELETED_FROM=" + k.d.runDir + "/"
	stubborn := strings.Replace(podtoolPod("NAME", `[ignore-term], env: [{name: DELETED_FROM, value: "`+k.d.runDir+`/NAME"}]`), "terminationGracePeriodSeconds: 1", "terminationGracePeriodSeconds: 300", 1)
	for _, c := range []struct {
		name string
		args []string
		min  time.Duration
	}{
		{"grace", []string{"--grace-period=3"}, 2 * time.Second},
		{"now", []string{"--now"}, 0},
		{"force", []string{"--force", "--grace-period=0"}, 0},
	} {
		k.ready(strings.ReplaceAll(stubborn, "NAME", c.name), c.name)
		if !inEnvironment(k.T, mark+c.name) {
			k.Errorf("no process of Pod %s is found", c.name)
		}
		start := time.Now()
		k.ok(append([]string{"delete", "pod", c.name}, c.args...)...)
		if took := time.Since(start); took < c.min || took > 40*time.Second {
			k.Errorf("delete %v took %v", c.args, took)
		}
		k.fails(1, "not found", "", "get", "pod", c.name)
		for deadline := time.Now().Add(10 * time.Second); inEnvironment(k.T, mark+c.name); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				k.Fatalf("delete %v: the Pod is gone, and its process is not", c.args)
			}
		}
	}
	k.ready(strings.ReplaceAll(stubborn, "NAME", "slow"), "slow")
	k.ok("delete", "pod", "slow", "--wait=false")
	k.says([]string{"slow .*Terminating"}, "get", "pods")
	k.fails(1, "timed out", "", "wait", "--for=delete", "--timeout=1s", "pod/slow")
	k.ok("delete", "pod", "slow", "--grace-period=1") // grace may shrink
	k.fails(1, "not found", "", "delete", "pod", "slow")
	k.ok("delete", "pod", "slow", "--ignore-not-found")
}

// inEnvironment reports whether a process of the machine has the variable.
func inEnvironment(t *testing.T, variable string) bool {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f) // of a process that may have ended meanwhile
		if err == nil && slices.Contains(strings.Split(string(data), "\x00"), variable) {
			return true
		}
	}
	return false
}

func testKubectlDrain(k *kubectl) {
	k.ready(sleeper("p"), "p")
	node := strings.TrimSpace(k.ok("get", "nodes", "-o", "name"))
	k.fails(1, "--force", "", "drain", node, "--pod-selector=app=p")
	k.says([]string{"evicting pod drain/p", "drained"}, "drain", node, "--pod-selector=app=p", "--force")
	k.fails(1, "not found", "", "get", "pod", "p")
	k.says([]string{"SchedulingDisabled"}, "get", "nodes")
	k.says([]string{"uncordoned"}, "uncordon", node)
	k.says([]string{" Ready "}, "get", "nodes")
	k.says([]string{"tainted"}, "taint", "node", strings.TrimPrefix(node, "node/"), "a=b:PreferNoSchedule")
	k.says([]string{"cordoned"}, "cordon", node)
	k.says([]string{"uncordoned"}, "uncordon", node)
}
