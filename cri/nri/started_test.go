package nri_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"

	"github.com/nodekit-project/nodekit/cri/nri"
)

// startedName is what the tests' binary is called where it is a plugin that the
// runtime starts.
const startedName = "07-writer"

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) != startedName {
		os.Exit(m.Run())
	}
	w := &writer{}
	s, err := stub.New(w)
	if err == nil {
		err = s.Run(context.Background())
	}
	if err != nil {
		os.Exit(1)
	}
}

// writer puts its configuration into the environment of containers.
type writer struct{ config string }

func (w *writer) Configure(_ context.Context, config, _, _ string) (api.EventMask, error) {
	w.config = config
	return 0, nil
}

func (w *writer) CreateContainer(context.Context, *api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	a := &api.ContainerAdjustment{}
	a.AddEnv("WRITTEN", w.config)
	return a, nil, nil
}

// TestStarted: a plugin in the directory is started with its configuration, asked
// from the first container on, and ends with the runtime.
func TestStarted(t *testing.T) {
	dir, conf := t.TempDir(), t.TempDir()
	self, err := os.Executable()
	do(t, err, os.Symlink(self, filepath.Join(dir, startedName)), os.WriteFile(filepath.Join(conf, "writer.conf"), []byte("hello"), 0o600))
	a := newAuthor(t, nri.Config{PluginDir: dir, ConfigDir: conf})
	s := newSandbox("pod")
	do(t, a.rt.Recover(t.Context(), nil, nil), a.rt.RunSandbox(t.Context(), s), a.rt.CreateContainer(t.Context(), newContainer(s, "box")))
	if env := a.specs["box"].Process.Env; !slices.Contains(env, "WRITTEN=hello") {
		t.Errorf("the environment is %q", env)
	}
}

// TestStartedIsNotThere: an empty directory, or none, is no error.
func TestStartedIsNotThere(t *testing.T) {
	for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), "none")} {
		a := newAuthor(t, nri.Config{PluginDir: dir})
		s := newSandbox("pod")
		do(t, a.rt.Recover(t.Context(), nil, nil), a.rt.RunSandbox(t.Context(), s), a.rt.CreateContainer(t.Context(), newContainer(s, "box")))
	}
}
