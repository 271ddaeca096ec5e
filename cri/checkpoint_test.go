package cri_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri"
)

// checkpointing returns a fake that notes pauses and dumps.
func checkpointing() (*fake, *cri.Runtime) {
	f, rt := newFake()
	note := func(what string) func(context.Context, *cri.Container) error {
		return func(_ context.Context, c *cri.Container) error {
			f.note(what + " " + c.Config.Metadata.Name)
			return nil
		}
	}
	rt.Checkpoints = &cri.Checkpoints{
		Container: func(_ context.Context, _ *cri.Container, file string) error {
			return os.WriteFile(file, []byte("archive"), 0o600)
		},
		Pause: note("pause"), Resume: note("resume"),
		Dump: func(_ context.Context, _ *cri.Sandbox, all []*cri.Container, dir string, o map[string]string) error {
			f.note(fmt.Sprintf("dump %d %v", len(all), o))
			return os.WriteFile(filepath.Join(dir, "pod"), nil, 0o600)
		},
		Restore: func(_ context.Context, s *cri.Sandbox, all []*cri.Container, dir string, o map[string]string) error {
			f.note(fmt.Sprintf("restore %s of %d %v", s.Config.Metadata.Name, len(all), o))
			s.IPs = []string{"10.0.0.9"}
			for _, c := range all {
				if _, err := os.Stat(c.Dir); err != nil {
					return err
				}
				c.State = []byte(`"restored"`)
			}
			return nil
		},
		Options: []string{"tcp"}, RestoreOptions: []string{"lazy"},
	}
	return f, rt
}

// bounded is a context with a deadline.
func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// names lists a directory.
func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

func TestCheckpointContainer(t *testing.T) {
	_, rt := checkpointing()
	good := rt.Checkpoints.Container
	n := serve(t, rt, t.TempDir())
	sb := n.sandbox("a")
	id, created := n.started(sb, "main"), n.container(sb, "created")
	dir := t.TempDir()
	checkpoint := func(id, location string, timeout int64) error {
		_, err := n.Runtime.CheckpointContainer(t.Context(), &runtimeapi.CheckpointContainerRequest{ContainerId: id, Location: location, Timeout: timeout})
		return err
	}
	archive := filepath.Join(dir, "a.tar")
	if err := checkpoint(id, archive, 0); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(archive); err != nil || string(data) != "archive" || names(t, dir) != "a.tar" {
		t.Errorf("got %q in %q, %v", data, names(t, dir), err)
	}
	rt.Checkpoints.Container = func(ctx context.Context, c *cri.Container, file string) error {
		_ = good(ctx, c, file)
		<-ctx.Done()
		return nil
	}
	if err := checkpoint(id, filepath.Join(dir, "b.tar"), 1); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("too slow: %v", err)
	}
	if got := names(t, dir); got != "a.tar" {
		t.Errorf("after an error: %q", got)
	}
	for what, c := range map[string]struct {
		err  error
		want codes.Code
	}{
		"unknown":      {checkpoint("unknown", archive, 0), codes.NotFound},
		"not running":  {checkpoint(created, archive, 0), codes.FailedPrecondition},
		"no location":  {checkpoint(id, "", 0), codes.InvalidArgument},
		"relative":     {checkpoint(id, "x.tar", 0), codes.InvalidArgument},
		"a directory":  {checkpoint(id, dir, 0), codes.InvalidArgument},
		"no directory": {checkpoint(id, filepath.Join(dir, "no/x"), 0), codes.InvalidArgument},
		"timeout":      {checkpoint(id, archive, -1), codes.InvalidArgument},
	} {
		if status.Code(c.err) != c.want {
			t.Errorf("%s: %v, want %v", what, c.err, c.want)
		}
	}
}

// TestStopsDoNotWaitForACheckpoint: what ends something of the Pod ends the
// checkpoint first.
func TestStopsDoNotWaitForACheckpoint(t *testing.T) {
	for what, stop := range map[string]func(n *node, sb, id string) error{
		"stop":           func(n *node, _, id string) error { return n.stopContainer(id, 0) },
		"remove":         func(n *node, _, id string) error { return n.removeContainer(id) },
		"stop sandbox":   func(n *node, sb, _ string) error { return n.stopSandbox(sb) },
		"remove sandbox": func(n *node, sb, _ string) error { return n.removeSandbox(sb) },
	} {
		t.Run(what, func(t *testing.T) {
			f, rt := checkpointing()
			begun := make(chan struct{})
			rt.Checkpoints.Container = func(ctx context.Context, _ *cri.Container, file string) error {
				if err := os.WriteFile(file, nil, 0o600); err != nil {
					return err
				}
				close(begun)
				<-ctx.Done()
				return nil
			}
			n := serve(t, rt, t.TempDir())
			sb := n.sandbox("a")
			id, dir := n.started(sb, "main"), t.TempDir()
			saved := make(chan error, 1)
			go func() {
				_, err := n.Runtime.CheckpointContainer(t.Context(), &runtimeapi.CheckpointContainerRequest{ContainerId: id, Location: dir + "/a.tar"})
				saved <- err
			}()
			<-begun
			if err := stop(n, sb, id); err != nil {
				t.Error(err)
			}
			if err := <-saved; status.Code(err) != codes.FailedPrecondition {
				t.Errorf("the checkpoint: %v", err)
			}
			if got := names(t, dir); got != "" || !strings.Contains(strings.Join(f.noted(), ", "), "resume main") {
				t.Errorf("left %q, calls %q", got, f.noted())
			}
		})
	}
}

func TestCheckpointPod(t *testing.T) {
	f, rt := checkpointing()
	n := serve(t, rt, t.TempDir())
	sb := n.sandbox("a")
	one, two := n.started(sb, "one"), n.started(sb, "two")
	before := len(f.noted())
	dir := t.TempDir()
	req := func(ids ...string) *runtimeapi.CheckpointPodRequest {
		return &runtimeapi.CheckpointPodRequest{PodSandboxId: sb, OutputPath: dir, ContainerIds: ids, Options: map[string]string{"tcp": "yes"}}
	}
	if _, err := n.Runtime.CheckpointPod(bounded(t), req(one, two)); err != nil {
		t.Fatal(err)
	}
	want := []string{"pause one", "pause two", "dump 2 map[tcp:yes]", "resume one", "resume two"}
	if diff := cmp.Diff(want, f.noted()[before:]); diff != "" || names(t, dir) != "pod" {
		t.Errorf("wrote %q; the author's calls (-want +got):\n%s", names(t, dir), diff)
	}
	if got := names(t, filepath.Join(n.dir, "pauses")); got != "" {
		t.Errorf("still on record as paused: %q", got)
	}
}

// Whatever fails, all containers go on, and the directory is as it was.
func TestFailedCheckpointPod(t *testing.T) {
	for what, broken := range map[string]func(*cri.Checkpoints, context.CancelFunc){
		"pause": func(c *cri.Checkpoints, _ context.CancelFunc) {
			pause := c.Pause
			c.Pause = func(ctx context.Context, one *cri.Container) error {
				return errors.Join(pause(ctx, one), fmt.Errorf("cannot"))
			}
		},
		"dump": func(c *cri.Checkpoints, _ context.CancelFunc) {
			dump := c.Dump
			c.Dump = func(ctx context.Context, s *cri.Sandbox, all []*cri.Container, dir string, o map[string]string) error {
				_ = dump(ctx, s, all, dir, o)
				panic("a bug")
			}
		},
		"client": func(c *cri.Checkpoints, cancel context.CancelFunc) {
			dump := c.Dump
			c.Dump = func(ctx context.Context, s *cri.Sandbox, all []*cri.Container, dir string, o map[string]string) error {
				cancel()
				<-ctx.Done()
				return dump(ctx, s, all, dir, o)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			f, rt := checkpointing()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			broken(rt.Checkpoints, cancel)
			n := serve(t, rt, t.TempDir())
			sb := n.sandbox("a")
			one, two := n.started(sb, "one"), n.started(sb, "two")
			dir := t.TempDir()
			_, err := n.Runtime.CheckpointPod(ctx, &runtimeapi.CheckpointPodRequest{PodSandboxId: sb, OutputPath: dir, ContainerIds: []string{one, two}})
			if err == nil {
				t.Error("it succeeded")
			}
			if err := n.stopSandbox(sb); err != nil { // waits for what goes on behind a client that is gone
				t.Fatal(err)
			}
			calls := strings.Join(f.noted(), ", ")
			if !strings.Contains(calls, "resume one, resume two") {
				t.Errorf("not resumed: %s", calls)
			}
			if got := names(t, dir); got != "" {
				t.Errorf("left behind: %q", got)
			}
		})
	}
}

// TestFailedCheckpointPodRemovesItsOwn: nothing is removed through a link that has come
// into the place of the directory.
func TestFailedCheckpointPodRemovesItsOwn(t *testing.T) {
	_, rt := checkpointing()
	top, outside := t.TempDir(), t.TempDir()
	dir := filepath.Join(top, "dir")
	dump := rt.Checkpoints.Dump
	rt.Checkpoints.Dump = func(ctx context.Context, s *cri.Sandbox, all []*cri.Container, dir string, o map[string]string) error {
		return errors.Join(dump(ctx, s, all, dir, o), os.Rename(dir, top+"/moved"), os.Symlink(outside, dir), errors.New("it fails"))
	}
	if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(outside, "precious"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	n := serve(t, rt, t.TempDir())
	sb := n.sandbox("a")
	id := n.started(sb, "one")
	if _, err := n.Runtime.CheckpointPod(bounded(t), &runtimeapi.CheckpointPodRequest{PodSandboxId: sb, OutputPath: dir, ContainerIds: []string{id}}); err == nil {
		t.Error("it succeeded")
	}
	if out, own := names(t, outside), names(t, top+"/moved"); out != "precious" || own != "" {
		t.Errorf("outside is %q, and left behind %q", out, own)
	}
}

func TestRefusedCheckpointPod(t *testing.T) {
	f, rt := checkpointing()
	n := serve(t, rt, t.TempDir())
	sb, other := n.sandbox("a"), n.sandbox("b")
	id, theirs, created := n.started(sb, "main"), n.started(other, "theirs"), n.container(sb, "created")
	full, empty := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	before := len(f.noted())
	for what, c := range map[string]struct {
		change func(*runtimeapi.CheckpointPodRequest)
		want   codes.Code
	}{
		"unknown sandbox": {func(r *runtimeapi.CheckpointPodRequest) { r.PodSandboxId = "none" }, codes.NotFound},
		"no containers":   {func(r *runtimeapi.CheckpointPodRequest) { r.ContainerIds = nil }, codes.InvalidArgument},
		"twice":           {func(r *runtimeapi.CheckpointPodRequest) { r.ContainerIds = []string{id, id[:13]} }, codes.InvalidArgument},
		"of another":      {func(r *runtimeapi.CheckpointPodRequest) { r.ContainerIds = []string{theirs} }, codes.InvalidArgument},
		"not running":     {func(r *runtimeapi.CheckpointPodRequest) { r.ContainerIds = []string{created} }, codes.FailedPrecondition},
		"unknown":         {func(r *runtimeapi.CheckpointPodRequest) { r.ContainerIds = []string{"none"} }, codes.NotFound},
		"unknown option":  {func(r *runtimeapi.CheckpointPodRequest) { r.Options = map[string]string{"x": ""} }, codes.InvalidArgument},
		"relative path":   {func(r *runtimeapi.CheckpointPodRequest) { r.OutputPath = "x" }, codes.InvalidArgument},
		"no directory":    {func(r *runtimeapi.CheckpointPodRequest) { r.OutputPath = "/no/such" }, codes.InvalidArgument},
		"not empty":       {func(r *runtimeapi.CheckpointPodRequest) { r.OutputPath = full }, codes.InvalidArgument},
		"not a directory": {func(r *runtimeapi.CheckpointPodRequest) { r.OutputPath = filepath.Join(full, "precious") }, codes.InvalidArgument},
	} {
		req := &runtimeapi.CheckpointPodRequest{PodSandboxId: sb, OutputPath: empty, ContainerIds: []string{id}}
		c.change(req)
		if _, err := n.Runtime.CheckpointPod(bounded(t), req); status.Code(err) != c.want {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
	_, err := n.Runtime.CheckpointPod(t.Context(), &runtimeapi.CheckpointPodRequest{PodSandboxId: sb, OutputPath: empty, ContainerIds: []string{id}})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("without a deadline: %v", err)
	}
	if calls := f.noted()[before:]; len(calls) > 0 || names(t, full) != "precious" {
		t.Errorf("the author was called: %q; left %q", calls, names(t, full))
	}
}

// What a killed server left paused goes on.
func TestPausedContainersAreResumedAfterACrash(t *testing.T) {
	f, rt := checkpointing()
	dir := t.TempDir()
	n := serve(t, rt, dir)
	sb := n.sandbox("a")
	n.started(sb, "main")
	n.container(sb, "created")
	n.stop()
	partial := filepath.Join(t.TempDir(), "a.tar.partial")
	for name, text := range map[string]string{
		filepath.Join(dir, "pauses", sb): partial, filepath.Join(dir, "pauses", "gone"): "", partial: "half an archive",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n = serve(t, rt, dir)
	calls := f.noted()
	if calls[len(calls)-1] != "resume main" || names(t, filepath.Join(n.dir, "pauses")) != "" {
		t.Errorf("calls %q, on record %q", calls, names(t, filepath.Join(n.dir, "pauses")))
	}
	if _, err := os.Stat(partial); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the archive that the killed server was writing: %v", err)
	}
}

// TestEveryPodIsResumedAfterACrash: one that cannot be does not keep another one paused.
func TestEveryPodIsResumedAfterACrash(t *testing.T) {
	_, rt := checkpointing()
	resumed := map[string]bool{}
	rt.Checkpoints.Resume = func(_ context.Context, c *cri.Container) error {
		resumed[c.Config.Metadata.Name] = true
		return errors.New("it does not thaw")
	}
	state := t.TempDir()
	n := serve(t, rt, state)
	for _, name := range []string{"one", "two"} {
		sb := n.sandbox(name)
		id := n.started(sb, name)
		_, err := n.Runtime.CheckpointPod(bounded(t), &runtimeapi.CheckpointPodRequest{PodSandboxId: sb, OutputPath: t.TempDir(), ContainerIds: []string{id}})
		if err == nil {
			t.Error("the Pod is paused, and no error")
		}
	}
	n.stop()
	clear(resumed)
	serve(t, rt, state)
	if !resumed["one"] || !resumed["two"] {
		t.Errorf("resumed are %v", resumed)
	}
}

func restoreRequest(dir, pod string, containers ...string) *runtimeapi.RestorePodRequest {
	req := &runtimeapi.RestorePodRequest{CheckpointPath: dir, Config: sandboxConfig(pod)}
	for _, name := range containers {
		req.ContainerConfigs = append(req.ContainerConfigs, createRequest("", name).Config)
	}
	return req
}

func TestRestorePod(t *testing.T) {
	f, rt := checkpointing()
	dir := t.TempDir()
	n := serve(t, rt, dir)
	events := n.subscribe()
	req := restoreRequest(t.TempDir(), "a", "one", "two")
	req.Options = map[string]string{"lazy": "yes"}
	var resp *runtimeapi.RestorePodResponse
	for range 2 { // a retry gets what the first call made
		var err error
		if resp, err = n.Runtime.RestorePod(bounded(t), req); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"restore a of 2 map[lazy:yes]"}, f.noted()); diff != "" {
		t.Error(diff)
	}
	st := n.sandboxStatus(resp.PodSandboxId)
	if st.Status.State != runtimeapi.PodSandboxState_SANDBOX_READY || st.Status.Network.Ip != "10.0.0.9" || len(st.ContainersStatuses) != 2 {
		t.Errorf("got %v", st)
	}
	for range 4 { // two of the sandbox, one of each container: all show all
		if e := <-events; e.ContainerId == "" || len(e.ContainersStatuses) != 2 {
			t.Errorf("event %v", e)
		}
	}
	n.stop()
	n = serve(t, rt, dir)
	for i, c := range resp.RestoredContainers {
		if st := n.status(c.ContainerId); st.State != runtimeapi.ContainerState_CONTAINER_CREATED || st.Metadata.Name != c.Name || c.Name != []string{"one", "two"}[i] {
			t.Errorf("got %v for %v", st, c)
		}
		if err := n.start(c.ContainerId); err != nil {
			t.Error(err)
		}
	}
	if _, err := n.Runtime.RestorePod(bounded(t), req); status.Code(err) != codes.AlreadyExists {
		t.Errorf("over running containers: %v", err)
	}
	if err := n.removeSandbox(resp.PodSandboxId); err != nil {
		t.Fatal(err)
	}
	n.empty()
}

func TestFailedRestoreIsUndone(t *testing.T) {
	for _, what := range []string{"error", "client"} {
		f, rt := checkpointing()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		rt.Checkpoints.Restore = func(ctx context.Context, _ *cri.Sandbox, _ []*cri.Container, _ string, _ map[string]string) error {
			if what == "error" {
				return cri.ErrInvalid.Errorf("the checkpoint has other containers")
			}
			cancel()
			<-ctx.Done()
			return nil
		}
		n := serve(t, rt, t.TempDir())
		_, err := n.Runtime.RestorePod(ctx, restoreRequest(t.TempDir(), "a", "one", "two"))
		if want := map[string]codes.Code{"error": codes.InvalidArgument, "client": codes.Canceled}[what]; status.Code(err) != want {
			t.Errorf("%s: %v", what, err)
		}
		n.stop()
		if diff := cmp.Diff([]string{"delete one", "delete two", "stop a", "remove a"}, f.noted()); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
		n.empty()
	}
}

// What could not be undone is there to see and to remove.
func TestFailedUndoingOfARestore(t *testing.T) {
	_, rt := checkpointing()
	rt.Checkpoints.Restore = func(context.Context, *cri.Sandbox, []*cri.Container, string, map[string]string) error {
		return errors.New("cannot")
	}
	healed := false
	rt.RemoveContainer = func(context.Context, *cri.Container) error {
		if !healed {
			return errors.New("busy")
		}
		return nil
	}
	n := serve(t, rt, t.TempDir())
	events := n.subscribe()
	_, err := n.Runtime.RestorePod(bounded(t), restoreRequest(t.TempDir(), "a", "one"))
	if err == nil || !strings.Contains(err.Error(), "cannot") || !strings.Contains(err.Error(), "busy") {
		t.Errorf("got %v", err)
	}
	for i := range 4 { // of the sandbox, then of the container
		want := []runtimeapi.ContainerEventType{runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT}[i%2]
		if e := <-events; e.ContainerEventType != want || len(e.ContainersStatuses) != i/2 {
			t.Errorf("event %d: %v", i, e)
		}
	}
	list, err := n.Runtime.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{})
	if err != nil || len(list.Items) != 1 || list.Items[0].State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Fatalf("got %v, %v", list, err)
	}
	healed = true
	if err := n.removeSandbox(list.Items[0].Id); err != nil {
		t.Fatal(err)
	}
	n.empty()
}

func TestRefusedRestore(t *testing.T) {
	f, rt := checkpointing()
	n := serve(t, rt, t.TempDir())
	dir := t.TempDir()
	for what, change := range map[string]func(*runtimeapi.RestorePodRequest){
		"handler":    func(r *runtimeapi.RestorePodRequest) { r.RuntimeHandler = "kata" },
		"config":     func(r *runtimeapi.RestorePodRequest) { r.Config = nil },
		"containers": func(r *runtimeapi.RestorePodRequest) { r.ContainerConfigs = nil },
		"nil":        func(r *runtimeapi.RestorePodRequest) { r.ContainerConfigs[0] = &runtimeapi.ContainerConfig{} },
		"twice": func(r *runtimeapi.RestorePodRequest) {
			r.ContainerConfigs = append(r.ContainerConfigs, r.ContainerConfigs[0])
		},
		"option":       func(r *runtimeapi.RestorePodRequest) { r.Options = map[string]string{"x": ""} },
		"no directory": func(r *runtimeapi.RestorePodRequest) { r.CheckpointPath = filepath.Join(dir, "none") },
		"relative":     func(r *runtimeapi.RestorePodRequest) { r.CheckpointPath = "." },
	} {
		req := restoreRequest(dir, "a", "one")
		change(req)
		if _, err := n.Runtime.RestorePod(bounded(t), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := n.Runtime.RestorePod(t.Context(), restoreRequest(dir, "a", "one")); status.Code(err) != codes.InvalidArgument {
		t.Errorf("without a deadline: %v", err)
	}
	if calls := f.noted(); len(calls) > 0 {
		t.Errorf("the author was called: %q", calls)
	}
	n.empty()
}
