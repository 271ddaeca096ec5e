package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/nodekit-project/nodekit/cri/oci/image"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// imageCLI runs image commands on a root of its own.
type imageCLI struct {
	t    *testing.T
	root string
}

func (c imageCLI) run(args ...string) (stdout, stderr string, err error) {
	cmd := newImageCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	var out, errOut bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&errOut)
	cmd.SetArgs(append(args, "--root", c.root))
	err = cmd.ExecuteContext(c.t.Context())
	return out.String(), errOut.String(), err
}

func (c imageCLI) ok(args ...string) string {
	c.t.Helper()
	out, errOut, err := c.run(args...)
	if err != nil {
		c.t.Fatalf("image %s: %v\n%s", strings.Join(args, " "), err, errOut)
	}
	return out
}

func (c imageCLI) fails(text string, args ...string) {
	c.t.Helper()
	if _, _, err := c.run(args...); err == nil || !strings.Contains(err.Error(), text) {
		c.t.Errorf("image %s: %v; want an error with %q", strings.Join(args, " "), err, text)
	}
}

// staticProgram builds podtool.
func staticProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "podtool")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-buildid=", "-o", path, "../podtool")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building podtool: %v\n%s", err, out)
	}
	return path
}

func TestImageCommands(t *testing.T) {
	testenv.Require(t, testenv.Root)
	cli := imageCLI{t, t.TempDir()}
	archive := filepath.Join(t.TempDir(), "sub", "podtool.tar")
	cli.ok("pack", "--name", "nodekit.dev/podtool", "--output", archive, staticProgram(t))
	if got, want := cli.ok("load", archive), "image nodekit.dev/podtool:latest loaded\n"; got != want {
		t.Errorf("load printed %q, want %q", got, want)
	}
	if got := cli.ok("ls"); !strings.HasPrefix(got, "NAME ") || strings.Count(got, "\n") != 2 || !strings.Contains(got, "\nnodekit.dev/podtool:latest ") {
		t.Errorf("ls printed %q", got)
	}
	if got := cli.ok("ls", "-o", "wide"); !strings.Contains(got, "DIGEST") || !strings.Contains(got, "nodekit.dev/podtool@sha256:") {
		t.Errorf("ls -o wide printed %q", got)
	}
	if got, want := cli.ok("ls", "-o", "name"), "nodekit.dev/podtool:latest\n"; got != want {
		t.Errorf("ls -o name printed %q, want %q", got, want)
	}
	var list struct{ Items []imageRow }
	if err := json.Unmarshal([]byte(cli.ok("load", archive, "-o", "json")), &list); err != nil || len(list.Items) != 1 {
		t.Fatalf("load -o json: %v, %v", list, err)
	}
	cli.fails("is not in the store", "rm", "nodekit.dev/other")
	cli.ok("rm", "--ignore-not-found", "nodekit.dev/other")
	id := list.Items[0].ID
	pin(t, cli.root, "nodekit.dev/*")
	if got := cli.ok("ls", "-o", "wide"); !strings.Contains(got, "PINNED") || !strings.Contains(got, " yes ") {
		t.Errorf("of a pinned image ls -o wide printed %q", got)
	}
	cli.fails("is pinned: ", "rm", shortID(id))
	cli.ok("rm", "--force", shortID(id))
	cli.ok("load", archive)
	pin(t, cli.root)
	if got, want := cli.ok("rm", shortID(id)), "image "+shortID(id)+" removed\n"; got != want {
		t.Errorf("rm printed %q, want %q", got, want)
	}
	if got := cli.ok("ls", "-o", "yaml"); got != "items: []\n" {
		t.Errorf("after rm ls printed %q", got)
	}
}

// pin does what a node does at its start.
func pin(t *testing.T, root string, patterns ...string) {
	t.Helper()
	s, err := image.Open(filepath.Join(root, "oci", "images"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Pin(t.Context(), patterns); err != nil {
		t.Fatal(err)
	}
}

func TestImageErrors(t *testing.T) {
	testenv.Require(t, testenv.Root)
	cli := imageCLI{t, t.TempDir()}
	cli.fails("no such file", "load", "/nonexistent.tar")
	cli.fails("want [REGISTRY/]REPOSITORY", "pull", "Not A Name")
	cli.fails("want [REGISTRY/]REPOSITORY", "rm", "Not A Name")
	cli.fails("IMAGE is missing", "pull")
	nowhere := imageCLI{t, filepath.Join(t.TempDir(), "nowhere")}
	for _, command := range []string{"ls", "rm x"} {
		nowhere.fails("there is no node at", strings.Fields(command)...)
	}
	if _, err := os.Lstat(nowhere.root); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a mistyped directory was made: %v", err)
	}
	cli.fails("there is no such directory", "pull", "busybox", "--hosts-dir", "nowhere")
	cli.fails("required flag", "pack", "/bin/true")
	cli.fails("want wide, name, json, yaml", "ls", "-o", "table")
	cli.fails("not a Linux program", "pack", "--name", "x", "--output", filepath.Join(t.TempDir(), "x.tar"), "/etc/passwd")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	imageCLI{t, file}.fails("not a directory", "ls")
}

func TestImagePull(t *testing.T) {
	testenv.Require(t, testenv.Root)
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	srv := httptest.NewServer(registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo))))
	defer srv.Close()
	im, err := random.Image(100_000, 2)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(strings.TrimPrefix(srv.URL, "http://") + "/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, im); err != nil {
		t.Fatal(err)
	}
	cli := imageCLI{t, t.TempDir()}
	out, progress, err := cli.run("pull", ref.String())
	if err != nil || !strings.HasPrefix(out, "image "+ref.String()+" pulled, id ") {
		t.Fatalf("pull printed %q, %v", out, err)
	}
	if n := strings.Count(progress, "layer "); n != 2 {
		t.Errorf("progress is %q; want a line for each of two layers", progress)
	}
	if got := cli.ok("pull", ref.String(), "-o", "name"); got != ref.String()+"\n" {
		t.Errorf("pull -o name printed %q", got)
	}
	hosts := t.TempDir()
	if err := os.Mkdir(filepath.Join(hosts, "_default"), 0o755); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("[host.%q]\nskip-verify = true\n", srv.URL)
	if err := os.WriteFile(filepath.Join(hosts, "_default", "hosts.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, warned, err := cli.run("pull", "registry.invalid/app:v1", "--hosts-dir", hosts)
	if err != nil || !strings.Contains(warned, "skip-verify") {
		t.Errorf("pulling from a mirror: %v; warned %q", err, warned)
	}
	cli.fails("no such image", "pull", strings.Replace(ref.String(), "v1", "v2", 1))
}
