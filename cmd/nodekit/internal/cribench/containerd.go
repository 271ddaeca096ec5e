package cribench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/nodekit-project/nodekit/cri/oci/image"
)

const pauseImage = "nodekit.dev/bench-pause:v1"

// containerdConfig is a configuration that every containerd since 1.6 accepts.
const containerdConfig = `version = 2
root = "DIR/root"
state = "DIR/state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "DIR/s.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "PAUSE"
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "CNI"
  conf_dir = "DIR/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  Root = "DIR/runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun.options]
  Root = "DIR/crun"
  BinaryName = "crun"
`

// containerdNetwork is the same network as that of the reference runtime.
const containerdNetwork = `{"cniVersion": "1.0.0", "name": "bench", "plugins": [
  {"type": "bridge", "bridge": "bench0", "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "DIR/ipam", "ranges": [[{"subnet": "10.213.0.0/16"}]]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
`

// openContainerd starts one containerd, which is a side for each OCI runtime.
func (l *lab) openContainerd(ctx context.Context) error {
	names := map[string]string{"crun": "containerd, crun", "runc": "containerd, runc"}
	if !l.wanted(names["crun"]) && !l.wanted(names["runc"]) {
		return nil
	}
	program, err := exec.LookPath("containerd")
	if err != nil {
		_, err = fmt.Fprintf(l.Out, "containerd is not measured: %v\n", err)
		return err
	}
	s := &side{dir: filepath.Join(l.dir, "containerd")}
	s.endpoint = "unix://" + filepath.Join(s.dir, "s.sock")
	if err := l.configureContainerd(s.dir); err != nil {
		return err
	}
	if err := s.run(program, "--config", filepath.Join(s.dir, "config.toml")); err != nil {
		return err
	}
	if err := l.importImages(ctx, s.dir); err != nil {
		return fmt.Errorf("%w\ncontainerd printed: %s", err, s.process.Tail())
	}
	for _, engine := range []string{"crun", "runc"} {
		if _, err := exec.LookPath(engine); err != nil || !l.wanted(names[engine]) {
			continue
		}
		one := *s
		one.name, one.handler = names[engine], engine
		if err := l.dial(ctx, &one); err != nil {
			return err
		}
		s.process = nil // the first stops it
	}
	return nil
}

func (l *lab) configureContainerd(dir string) error {
	if err := os.Mkdir(dir, 0o711); err != nil {
		return err
	}
	if err := makeRun(filepath.Join(dir, "state")); err != nil {
		return err
	}
	text := strings.NewReplacer("DIR", dir, "CNI", l.CNI, "PAUSE", pauseImage)
	if err := os.MkdirAll(filepath.Join(dir, "net.d"), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "net.d", "bench.conflist"), []byte(text.Replace(containerdNetwork)), 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.toml"), []byte(text.Replace(containerdConfig)), 0o600)
}

// importImages imports containerd's images with its own client, once containerd
// answers.
func (l *lab) importImages(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	socket := filepath.Join(dir, "s.sock")
	for {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("containerd does not listen: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	for file, image := range map[string]string{"image.tar": l.Image, "pause.tar": pauseImage} {
		archive, err := l.archive(file, image)
		if err != nil {
			return err
		}
		ctr := exec.CommandContext(ctx, "ctr", "--address", socket, "--namespace", "k8s.io", "images", "import", archive) //nolint:gosec // containerd's client
		out, err := ctr.CombinedOutput()
		if err != nil {
			return fmt.Errorf("importing %q: %w\n%s", image, err, out)
		}
	}
	return nil
}

// archive creates the image of the containers or of the sandboxes, once, and returns
// the path of its archive. Without arguments its program sleeps.
func (l *lab) archive(file, tag string) (string, error) {
	path := filepath.Join(l.dir, file)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	ref, err := name.NewTag(tag)
	if err != nil {
		return "", err
	}
	packed, err := image.Pack(l.Podtool, tag) // as the image that nodekit is measured with
	if err != nil {
		return "", err
	}
	im, err := tarball.Image(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(packed)), nil }, nil)
	if err != nil {
		return "", err
	}
	whole, err := im.ConfigFile()
	if err != nil {
		return "", err
	}
	config := whole.Config
	config.Cmd = []string{"sleep", "forever"}
	if im, err = mutate.Config(im, config); err != nil {
		return "", err
	}
	return path, tarball.WriteToFile(path, ref, im)
}
