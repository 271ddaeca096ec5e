package oci

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	cniruntime "github.com/nodekit-project/nodekit/cni/runtime"
	"github.com/nodekit-project/nodekit/cri"
)

// TestCollectNetwork starts with an attachment without a sandbox record, beside one of an
// existing sandbox.
func TestCollectNetwork(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	for name, content := range map[string]string{
		"net.d/1.conflist": `{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"p"}]}`,
		"bin/p": "#!/bin/sh\necho $CNI_COMMAND $CNI_CONTAINERID >> " + log + `
case $CNI_COMMAND in ADD) echo '{"cniVersion":"1.1.0"}' ;; GC) cat >> ` + log + " ;; esac\n",
	} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	n, err := cniruntime.Open(cniruntime.Config{ConfDir: dir + "/net.d", BinDirs: []string{dir + "/bin"}, StateDir: dir + "/cni"})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	r := &Runtime{cfg: Config{Network: n, RunDir: dir, Logger: slog.New(slog.DiscardHandler)}}
	known, lost := &cri.Sandbox{ID: "known", Config: &runtimeapi.PodSandboxConfig{}}, &cri.Sandbox{ID: "lost", Config: &runtimeapi.PodSandboxConfig{}}
	for _, s := range []*cri.Sandbox{known, lost} {
		if _, err := n.Attach(t.Context(), r.attachment(s)); err != nil {
			t.Fatal(err)
		}
	}
	onHost := &cri.Sandbox{ID: "host", Config: &runtimeapi.PodSandboxConfig{Linux: &runtimeapi.LinuxPodSandboxConfig{
		SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE}},
	}}}
	r.collectNetwork(t.Context(), []*cri.Sandbox{known, onHost})
	content, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	want := "ADD known\nADD lost\nDEL lost\nGC\n" + `{"cni.dev/valid-attachments":[{"containerID":"known","ifname":"eth0"}],"cniVersion":"1.1.0","name":"n","type":"p"}`
	if got := strings.TrimSpace(string(content)); got != want {
		t.Errorf("the plugin saw\n%s, want\n%s", got, want)
	}
}
