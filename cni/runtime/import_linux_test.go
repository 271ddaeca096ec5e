package runtime_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/nodekit-project/nodekit/cni"
	"github.com/nodekit-project/nodekit/cni/runtime"
	"github.com/nodekit-project/nodekit/internal/call"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// TestImport has libcni itself attach a container, as containerd does, and takes
// it over.
func TestImport(t *testing.T) {
	const conf = `{"cniVersion":"1.0.0","cniVersions":["1.1.0"],"name":"n-1","plugins":[{"type":"show","capabilities":{"mac":true,"ips":true}}]}`
	w := newWorld(t, conf)
	var pods []call.Pod
	w.config.Observe = &call.Observer{Done: func(_ context.Context, c call.Call) { pods = append(pods, c.Pod) }}
	w.script("show", `{ echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_NETNS $CNI_ARGS"; cat; echo; } >> `+w.log+`
[ $CNI_COMMAND = ADD ] && echo '{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.1/24"}]}'; exit 0`)
	results := libcniAdd(t, w, conf)
	added := w.seen()
	for name, content := range map[string]string{
		"n-1-empty-eth0": "", "n-1-torn-eth0": `{"kind":"cniCa`, "n-1-old-eth0": `{"cniVersion":"0.4.0","ips":[]}`,
		"n-1-other-eth0": read(t, filepath.Join(results, "n-1-c-1-eth0")),
	} {
		if err := os.WriteFile(filepath.Join(results, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.write("50-test.conflist", strings.Replace(conf, "show", "other", 1)) // it has changed since
	n := w.open()
	for _, want := range []string{"c-1/eth0", ""} { // the second time it is known
		imported, err := n.Import(t.Context(), results)
		var got []string
		for _, a := range imported {
			got = append(got, a.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("imported %q, want %q", got, want)
		}
		for _, bad := range []string{"-empty-", "-torn-", "-old-", "-other-"} {
			if err == nil || !strings.Contains(err.Error(), bad) {
				t.Errorf("%v does not tell of %s", err, bad)
			}
		}
	}
	a := runtime.Attachment{ContainerID: "c-1", IfName: "eth0"}
	if r, err := n.Result(a); err != nil || len(r.IPs) != 1 {
		t.Errorf("result %v, %v", r, err)
	}
	if err := n.Check(t.Context(), a); err != nil {
		t.Error(err)
	}
	if err := n.Detach(t.Context(), a); err != nil {
		t.Error(err)
	}
	ask := strings.Split(w.seen(), ", ")
	if len(ask) != 4 {
		t.Fatalf("the plugin saw %q", ask)
	}
	parameters, _, _ := strings.Cut(added, ", ")
	if want := strings.TrimPrefix(parameters, "ADD"); ask[0] != "CHECK"+want || ask[2] != "DEL"+want {
		t.Errorf("the plugin saw %q and %q after %q", ask[0], ask[2], parameters)
	}
	want := `{"cniVersion":"1.1.0","name":"n-1","prevResult":{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.1/24"}]},` +
		`"runtimeConfig":{"mac":"02:00:00:00:00:01"},"type":"show"}`
	if ask[1] != want || ask[3] != want {
		t.Errorf("the plugin saw\n%s and\n%s, want\n%s", ask[1], ask[3], want)
	}
	if pod := (call.Pod{Namespace: "ns", Name: "p", UID: "u"}); len(pods) != 2 || slices.Contains(pods, call.Pod{}) || pods[0] != pod {
		t.Errorf("observed for %v", pods)
	}
}

// libcniAdd attaches container c-1 and returns the directory of libcni's results.
func libcniAdd(t *testing.T, w *world, conf string) string {
	t.Helper()
	list, err := libcni.NetworkConfFromBytes([]byte(conf))
	if err != nil {
		t.Fatal(err)
	}
	cache := t.TempDir()
	_, err = libcni.NewCNIConfigWithCacheDir(w.config.BinDirs, cache, nil).AddNetworkList(t.Context(), list, &libcni.RuntimeConf{
		ContainerID: "c-1", IfName: "eth0", NetNS: w.dir,
		Args: [][2]string{
			{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "ns"}, {"K8S_POD_NAME", "p"}, {"K8S_POD_INFRA_CONTAINER_ID", "c-1"}, {"K8S_POD_UID", "u"},
		},
		CapabilityArgs: map[string]any{"mac": "02:00:00:00:00:01", "dns": map[string]any{}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(cache, "results")
}

func read(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestImportNothing(t *testing.T) {
	w := newWorld(t, chain)
	imported, err := w.open().Import(t.Context(), filepath.Join(w.dir, "absent"))
	if err != nil || !slices.Equal(imported, []cni.Attachment(nil)) {
		t.Errorf("imported %v, %v", imported, err)
	}
}

// TestImportOfOneInterfaceTwice: the second network of an interface is nobody's then, and
// its DEL would be lost without a word.
func TestImportOfOneInterfaceTwice(t *testing.T) {
	w := newWorld(t, single)
	w.script("first", `[ $CNI_COMMAND = ADD ] && echo '{"cniVersion":"1.1.0"}'; exit 0`)
	results := libcniAdd(t, w, strings.Replace(single, `"n"`, `"a"`, 1))
	other := libcniAdd(t, w, strings.Replace(single, `"n"`, `"b"`, 1))
	if err := os.Rename(filepath.Join(other, "b-c-1-eth0"), filepath.Join(results, "b-c-1-eth0")); err != nil {
		t.Fatal(err)
	}
	n := w.open()
	for range 2 {
		_, err := n.Import(t.Context(), results)
		if !errors.Is(err, fault.AlreadyExists) || !strings.Contains(err.Error(), "b-c-1-eth0") || !strings.Contains(err.Error(), `network "a"`) || strings.Contains(err.Error(), "a-c-1-eth0") {
			t.Errorf("Import: %v", err)
		}
	}
}
