package oci_test

import (
	"os"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestBlameOfNetwork: a network plugin's error about the Pod's own port mappings is the
// request's fault; one about the plugin's configuration is not.
func TestBlameOfNetwork(t *testing.T) {
	n := newNode(t)
	for text, want := range map[string]codes.Code{
		`{"cniVersion":"1.0.0","code":7,"msg":"runtimeConfig.portMappings[1].hostPort: 80 is taken by runtimeConfig.portMappings[0]"}`: codes.InvalidArgument,
		`{"cniVersion":"1.0.0","code":7,"msg":"bridge: it has no name"}`:                                                               codes.Internal,
		`{"cniVersion":"1.0.0","code":102,"msg":"host port 80/tcp is forwarded already"}`:                                              codes.FailedPrecondition,
		`{"cniVersion":"1.0.0","code":101,"msg":"no address is left"}`:                                                                 codes.ResourceExhausted,
		`{"cniVersion":"1.0.0","code":100,"msg":"it does not work"}`:                                                                   codes.Internal,
	} {
		plugin := "#!/bin/sh\ncase \"$CNI_COMMAND\" in ADD) echo '" + text + "'; exit 1;; VERSION) echo '{\"cniVersion\":\"1.0.0\",\"supportedVersions\":[\"1.0.0\"]}';; esac\n"
		n.must(os.WriteFile(n.dir+"/bin/fake", []byte(plugin), 0o755))
		_, err := n.rs.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: n.sandboxConfig("p", nil)})
		if status.Code(err) != want {
			t.Errorf("%s: %v, want %v", text, err, want)
		}
	}
}
