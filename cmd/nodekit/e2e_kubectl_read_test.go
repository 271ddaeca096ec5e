package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
)

func testKubectlGet(k *kubectl) {
	k.ready(sleeper("p")+"---\n"+configMap("c", "v"), "p")
	k.says([]string{`^NAME +READY +STATUS +RESTARTS +AGE\np +1/1 +Running +0 +`}, "get", "pods")
	k.says([]string{`IP +NODE .*\np +1/1 +Running .* 10\.\d+\.\d+\.\d+ +\S+ `}, "get", "pods", "-o", "wide")
	k.says([]string{`^apiVersion: v1\n`, `\nkind: Pod\n`, `\n  phase: Running\n`}, "get", "pod", "p", "-o", "yaml")
	var list v1.PodList
	if err := json.Unmarshal([]byte(k.ok("get", "pods", "-o", "json")), &list); err != nil || len(list.Items) != 1 || list.Items[0].Name != "p" {
		k.Errorf("get -o json: %v, %+v", err, list)
	}
	k.says([]string{`^p Running$`}, "get", "pods", "-o", "jsonpath={range .items[*]}{.metadata.name} {.status.phase}{end}")
	k.says([]string{`^NAME +IMAGE\np +nodekit.dev/podtool:v1\n$`}, "get", "pods", "-o", "custom-columns=NAME:.metadata.name,IMAGE:.spec.containers[0].image")
	k.says([]string{`^pod/p\n$`}, "get", "pods", "-o", "name")
	k.says([]string{`\nget +p +1/1`}, "get", "pods", "-A")
	k.says([]string{`^pod/p\n$`}, "get", "pods", "-l", "app in (p, q)", "-o", "name")
	k.says([]string{`No resources found`}, "get", "pods", "-l", "app!=p")
	k.says([]string{`^pod/p\n$`}, "get", "pods", "--field-selector", "status.phase=Running,metadata.name=p", "-o", "name")
	k.says([]string{`No resources found`}, "get", "pods", "--field-selector", "status.phase!=Running")
	k.fails(1, "field", "", "get", "pods", "--field-selector", "spec.nothing=1")
	k.says([]string{`app=p`}, "get", "pods", "--show-labels")
	k.says([]string{`(?s)^pod/p\nconfigmap/c\n$`}, "get", "pod/p", "cm/c", "-o", "name")
	k.says([]string{`pod/p +1/1`}, "get", "all")
	k.soon(`Started +pod/p`, "get", "events") // they are written beside all else
	k.says([]string{`pod/p`}, "get", "pods", "--sort-by=.metadata.creationTimestamp", "-o", "name")
	k.says([]string{`^ok$`}, "get", "--raw", "/readyz")
	k.fails(1, `pods "none" not found`, "", "get", "pod", "none")
	k.fails(1, `the server doesn't have a resource type "nonsense"`, "", "get", "nonsense")
	k.says([]string{`^NAME +DATA +AGE\nc +1 +`}, "get", "configmaps")
	k.says([]string{`get +Active`}, "get", "namespaces")
	out, code := k.d.run("kubectl", "--run", k.d.runDir, "-n", "get", "get", "pods", "-o", "name")
	if code != 0 || out != "pod/p\n" {
		k.Errorf("nodekit kubectl: exit code %d:\n%s", code, out)
	}
	if out, code := k.d.run("kubeconfig", "--run", k.d.runDir); code != 0 || out != filepath.Join(k.d.runDir, "kubeconfig")+"\n" {
		k.Errorf("nodekit kubeconfig: exit code %d: %s", code, out)
	}
}

func testKubectlWatch(k *kubectl) {
	k.ready(sleeper("first"), "first")
	all := k.start("get", "pods", "-w")
	names := k.start("get", "pods", "--watch-only", "-o", "jsonpath={.metadata.name} {.status.phase}{'\\n'}")
	selected := k.start("get", "pods", "-w", "-l", "app=q", "-o", "name")
	events := k.start("get", "pods", "-w", "--output-watch-events")
	// A watch that has begun shows what was there first, or what changes of it.
	all.await(`^NAME +READY[^\n]*\nfirst +1/1 +Running`)
	events.await(`ADDED +first `)
	for n, deadline := 0, time.Now().Add(40*time.Second); !strings.Contains(names.out.String(), "first "); n++ {
		if time.Now().After(deadline) {
			k.Fatalf("the watch shows no change:\n%s", names.out)
		}
		k.ok("label", "pod", "first", fmt.Sprintf("n=%d", n), "--overwrite")
	}
	k.input(sleeper("p"), "create", "-f", "-")
	all.await(`\np +0/1 +(Pending|ContainerCreating)`)
	all.await(`\np +1/1 +Running`)
	names.await(`(?m)^p Running$`)
	k.ok("label", "pod", "p", "app=q", "--overwrite")
	selected.await(`^pod/p\n`)
	k.ok("delete", "pod", "p", "--now")
	events.await(`(?s)ADDED +p .*MODIFIED +p .*DELETED +p `)
	if n := strings.Count(all.out.String(), "NAME "); n != 1 {
		k.Errorf("the header is there %d times:\n%s", n, all.out)
	}
}

const claim = `apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 16Mi}}}
`

func testKubectlDescribe(k *kubectl) {
	pod := strings.Replace(sleeper("p"), "spec:", "spec:\n  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]", 1)
	k.ready(claim+"---\n"+strings.Replace(pod, "args:", "volumeMounts: [{name: data, mountPath: /data}], args:", 1), "p")
	k.soon(`Started +Pod/p`, "events", "--for=pod/p") // they are written beside all else
	k.says([]string{
		`Name: +p\n`, `Node: +\S+/\d`, `Status: +Running`, `IP: +10\.`, `State: +Running`, `/data from data \(rw\)`, `Ready +True`, `ClaimName: +data`,
		`QoS Class: +BestEffort`, `Normal +Pulled .*podtool:v1`, `Normal +Created `, `Normal +Started .*kubelet `,
	}, "describe", "pod", "p")
	k.says([]string{`Status: +Bound`, `Capacity: +16Mi`, `Access Modes: +RWO`, `Used By: +p\n`}, "describe", "pvc", "data")
	k.says([]string{`Claim: +describe/data`, `Driver: +hostpath.csi.nodekit.dev`}, "describe", "pv")
	k.says([]string{
		`Ready +True`, `Capacity:`, `nodekit.dev/gpu: +2`, `Container Runtime Version: +nodekit://`, `describe +p +0 \(0%\)`, `Lease:\n +HolderIdentity:`,
	}, "describe", "node")
	k.says([]string{`created`}, "create", "configmap", "words", "--from-literal=a=b")
	k.says([]string{`Name: +words`, `Data\n====`}, "describe", "configmap", "words")
	k.fails(1, `"none" not found`, "", "describe", "pod", "none")
}

func testKubectlEvents(k *kubectl) {
	watch := k.start("events", "--watch")
	k.ready(sleeper("p"), "p")
	watch.await(`Normal +Started +Pod/p`)
	k.says([]string{`Pulled +Pod/p`, `Started +Pod/p`}, "events", "--for=pod/p")
	k.says([]string{`No events`}, "events", "--types=Warning")
	k.says([]string{`Started`}, "get", "events", "--field-selector", "involvedObject.name=p,reason=Started")
}

func testKubectlDiscovery(k *kubectl) {
	k.says([]string{`Client Version: v1\.37`, `Server Version: v1\.37\.\d+\+nodekit`}, "version")
	k.says([]string{`pods +po +v1 +true +Pod\n`, `deployments +deploy +apps/v1 +true`, `leases +coordination.k8s.io/v1`}, "api-resources")
	k.says([]string{`(?m)^pods$`}, "api-resources", "--verbs=watch,delete", "--namespaced", "-o", "name")
	k.says([]string{`(?m)^apps/v1$`, `(?m)^v1$`, `(?m)^storage.k8s.io/v1$`}, "api-versions")
	k.says([]string{`FIELD: image <string>`, `Container image name`}, "explain", "pod.spec.containers.image")
	k.says([]string{`KIND: +StorageClass`, `provisioner\t<string> -required-`}, "explain", "storageclass")
	k.says([]string{`livenessProbe\t<Probe>`, `exec\t<ExecAction>`}, "explain", "pod", "--recursive")
	k.fails(1, `field "nothing" does not exist`, "", "explain", "pod.spec.nothing")
	k.says([]string{`is running at https://127\.0\.0\.1:`}, "cluster-info")
}

// testKubectlUnsupported sees that what a node does not do is said so.
func testKubectlUnsupported(k *kubectl) {
	k.ready(sleeper("p"), "p")
	k.fails(1, whatToDo, deployment, "create", "-f", "-")
	k.fails(1, whatToDo, "", "create", "deployment", "d", "--image=nodekit.dev/podtool:v1")
	k.fails(1, "use kubectl port-forward", "", "expose", "pod", "p", "--port=80")
	k.fails(1, "Job is not supported", "", "create", "job", "j", "--image=nodekit.dev/podtool:v1")
	k.says([]string{"No resources found"}, "get", "deployments,services,jobs")
	k.fails(1, `"d" not found`, "", "rollout", "status", "deployment/d")
	k.fails(1, "no status viewer has been implemented for Pod", "", "rollout", "status", "pod/p")
	k.fails(1, `pods "p" restarting is not supported`, "", "rollout", "restart", "pod/p")
	k.fails(1, `"d" not found`, "", "scale", "deployment/d", "--replicas=2")
}

func testKubectlAuth(k *kubectl) {
	k.says([]string{`Username +root\n`, `Groups +\[system:masters system:authenticated\]`}, "auth", "whoami")
	k.says([]string{`^yes\n`}, "auth", "can-i", "delete", "pods")
	k.says([]string{`\*\.\* .*\[\*\]`}, "auth", "can-i", "--list")
}

func testKubectlWait(k *kubectl) {
	k.ready(podtoolPod("p", "[sleep, forever]"), "p")
	k.says([]string{"pod/p condition met"}, "wait", "--for=condition=Ready", "pod", "-l", "app=p", "--timeout=20s")
	k.fails(1, "timed out", "", "wait", "--for=condition=Ready=False", "pod/p", "--timeout=1s")
	k.ok("wait", "--for=jsonpath={.status.phase}=Running", "--timeout=20s", "pod/p")
	gone := k.start("wait", "--for=delete", "pod/p", "--timeout=40s")
	created := k.start("wait", "--for=create", "pod/later", "--timeout=40s")
	k.ok("delete", "pod", "p", "--now")
	k.input(podtoolPod("later", "[exit, '0']"), "create", "-f", "-")
	if code := gone.exit(); code != 0 {
		k.Errorf("wait for the deletion: exit code %d:\n%s", code, gone.out)
	}
	if code := created.exit(); code != 0 {
		k.Errorf("wait for the creation: exit code %d:\n%s", code, created.out)
	}
}

func testKubectlTop(k *kubectl) {
	k.ready(podtoolPod("p", "[eat, 64Mi]"), "p")
	k.soon(`p +main +\d+m +(6[4-9]|[78]\d)Mi`, "top", "pod", "p", "--containers") // it takes its memory bit by bit
	k.says([]string{`NAME +CPU\(cores\) +MEMORY\(bytes\) +\np +\d+m +\d+Mi`}, "top", "pod")
	k.says([]string{`\n\S+ +\d+m +\d+% +\d+Mi +\d+%`}, "top", "node")
}

// testKubectlNobody is another user of the machine, who gets nothing.
func testKubectlNobody(k *kubectl) {
	// As on a machine with the node in /var/lib and /run: what is above it is open.
	if err := os.Chmod(k.d.tmp, 0o755); err != nil { //nolint:gosec // only the node's own modes count
		k.Fatal(err)
	}
	if out, code := k.finish(exec.Command("runuser", "-u", "nobody", "--", "test", "-x", k.d.runDir)); code != 0 {
		k.Fatalf("nobody cannot even enter %s: %s", k.d.runDir, out)
	}
	dir := openDir(k)
	k.copyProgram(filepath.Join(k.d.bin, "kubectl"), filepath.Join(dir, "kubectl"), 0o755)
	config := filepath.Join(k.d.runDir, "kubeconfig")
	server := k.ok("config", "view", "--raw", "-o", "jsonpath={.clusters[0].cluster.server}")
	nobody := func(wants []string, args ...string) {
		k.Helper()
		cmd := exec.Command("runuser", append([]string{"-u", "nobody", "--", filepath.Join(dir, "kubectl")}, args...)...)
		cmd.Env, cmd.Dir = append(os.Environ(), "HOME="+dir, "KUBECONFIG="), dir
		if out, code := k.finish(cmd); code == 0 || !slices.ContainsFunc(wants, func(want string) bool { return strings.Contains(out, want) }) {
			k.Errorf("nobody's kubectl %s: exit code %d, want one of %q:\n%s", strings.Join(args, " "), code, wants, out)
		}
	}
	nobody([]string{"permission denied"}, "--kubeconfig", config, "get", "pods", "-A")
	// With TLS 1.3 a client has written its request before it reads why it was
	// refused, and may see the end of the connection first.
	refused := []string{"certificate", "could not be established", "broken pipe", "connection reset"}
	nobody(refused, "--server", server, "--insecure-skip-tls-verify", "--username=root", "--password=", "get", "pods", "-A")
	nobody(refused, "--server", server, "--insecure-skip-tls-verify", "--token=root", "get", "pods", "-A")
	for _, path := range []string{
		filepath.Join(k.d.root, "objects.db"), filepath.Join(k.d.root, "api"),
		filepath.Join(k.d.runDir, "nodekit.sock"), filepath.Join(k.d.runDir, "cri.sock"), config,
	} {
		if _, err := os.Stat(path); err != nil {
			k.Error(err)
		}
		for _, access := range []string{"-r", "-w"} {
			if out, code := k.finish(exec.Command("runuser", "-u", "nobody", "--", "test", access, path)); code != 1 {
				k.Errorf("nobody's test %s %s: exit code %d, want 1: %s", access, path, code, out)
			}
		}
	}
}

// openDir makes a directory that everybody may use.
func openDir(k *kubectl) string {
	k.Helper()
	dir, err := os.MkdirTemp("", "nodekit-open-")
	if err == nil {
		err = os.Chmod(dir, 0o777) //nolint:gosec // everybody's
	}
	if err != nil {
		k.Fatal(err)
	}
	k.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (k *kubectl) copyProgram(from, to string, mode os.FileMode) {
	k.Helper()
	in, err := os.Open(from)
	if err != nil {
		k.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, mode)
	if err != nil {
		k.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		k.Fatal(err)
	}
	if err := out.Close(); err != nil {
		k.Fatal(err)
	}
}
