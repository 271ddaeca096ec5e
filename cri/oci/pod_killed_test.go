package oci_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/procstat"
	"github.com/nodekit-project/nodekit/internal/testenv"
)

// busy returns the process of a criu at work, once there is one.
func (n *node) busy(bin string) (pid int) {
	n.t.Helper()
	n.waitFile(bin + "/hangs")
	text, err := os.ReadFile(bin + "/hangs")
	n.must(err)
	_, err = fmt.Sscan(string(text), &pid)
	n.must(err)
	return pid
}

// ended fails if a criu is still at work.
func (p *savedPod) ended(pid int, why string) {
	p.t.Helper()
	if !procstat.Ended(pid) {
		p.t.Errorf("criu works on, behind %s", why)
	}
}

// TestKilledInACheckpoint: a criu that outlives its server is ended by the next one, and
// does nothing later to the Pod, which keeps running.
func TestKilledInACheckpoint(t *testing.T) {
	testenv.Require(t, testenv.NFT)
	for name, begin := range map[string]func(p *savedPod) error{
		"a Pod": func(p *savedPod) error { return p.save(t.Context()) },
		"a container": func(p *savedPod) error {
			_, err := p.rs.CheckpointContainer(t.Context(), &runtimeapi.CheckpointContainerRequest{ContainerId: p.ids[0], Location: p.dir + "/saved.tar", Timeout: 60})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			n, bin := newSaver(t)
			p := n.savedPod("saved")
			n.must(os.WriteFile(bin+"/hang", nil, 0o600))
			over := make(chan error, 1)
			go func() { over <- begin(p) }()
			criu := p.busy(bin)
			p.lockNetwork()
			n.kill()
			// The next server thaws even if criu is no longer there.
			n.must(os.Rename(bin+"/criu", bin+"/no-criu"))
			n.start()
			<-over
			p.ended(criu, "the next server")
			p.runOn()
			p.unlocked()
			if left, _ := filepath.Glob(n.dir + "/cri/*/*/checkpoint"); len(left) > 0 {
				t.Errorf("of the checkpoint there is %q", left)
			}
			n.must(os.Rename(bin+"/no-criu", bin+"/criu"))
			n.must(os.Remove(bin + "/hang"))
			n.must(os.RemoveAll(p.dir))
			n.must(os.Mkdir(p.dir, 0o700))
			n.restart()
			n.must(begin(p))
			n.removeSandbox(p.sandbox)
		})
	}
}

// TestCheckpointMayEnd: a criu that is no longer wanted is not killed if it ends soon: it
// may be controlling a process of the container, which would die.
func TestCheckpointMayEnd(t *testing.T) {
	for name, leave := range map[string]func(n *node, cancel func()){
		"by a client": func(_ *node, cancel func()) { cancel() },
		"by a server": func(n *node, _ func()) { n.restart() },
	} {
		t.Run(name, func(t *testing.T) {
			n, bin := newSaver(t)
			p := n.savedPod("saved")
			n.must(os.WriteFile(bin+"/hang", nil, 0o600))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			over := make(chan error, 1)
			go func() { over <- p.save(ctx) }()
			p.busy(bin)
			time.AfterFunc(300*time.Millisecond, func() { _ = os.Remove(bin + "/hang") })
			leave(n, cancel)
			<-over
			p.settled()
			n.waitFile(bin + "/done")
			p.runOn()
			n.removeSandbox(p.sandbox)
		})
	}
}

// TestKilledInARealRuncsCheckpoint: the lock by which criu is found reaches the criu that
// a runc starts.
func TestKilledInARealRuncsCheckpoint(t *testing.T) {
	n, bin := newSaver(t)
	n.must(os.WriteFile(bin+"/criu", []byte("#!/bin/sh\n[ \"$1\" = swrk ] || exit 0\n: >"+bin+"/hang\nexec sh "+bin+"/busy\n"), 0o755))
	t.Setenv(ociRuntime, "runc")
	n.restart()
	p := n.savedPod("saved")
	over := make(chan error, 1)
	go func() { over <- p.save(t.Context()) }()
	criu := p.busy(bin)
	n.restart()
	<-over
	p.ended(criu, "the next server")
	p.runOn()
	n.removeSandbox(p.sandbox)
}

// TestKilledBehindACheckpoint: a Pod whose containers have ended meanwhile gets its
// network back, too.
func TestKilledBehindACheckpoint(t *testing.T) {
	testenv.Require(t, testenv.NFT)
	n, _ := newSaver(t)
	p := &savedPod{node: n}
	p.sandbox, p.config = n.sandbox("saved", nil)
	n.kill()
	n.must(os.WriteFile(n.dir+"/run/sandboxes/"+p.sandbox+"/criu", nil, 0o600))
	p.lockNetwork()
	n.start()
	p.unlocked()
	n.removeSandbox(p.sandbox)
}

// lockCgroup prevents writes to the files of a cgroup until the function is called.
func lockCgroup(t *testing.T, path string) (unlock func()) {
	t.Helper()
	dirs, err := cgroup.Dirs(path)
	if err != nil {
		t.Fatal(err)
	}
	var locked []string
	for _, d := range dirs {
		if _, err := os.Stat(d); err != nil {
			continue
		}
		if err := unix.Mount(d, d, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		locked = append(locked, d)
		if err := unix.Mount("", d, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			t.Error(err)
		}
	}
	free := func() {
		for _, d := range locked {
			if err := unix.Unmount(d, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		}
		locked = nil
	}
	t.Cleanup(free)
	return free
}
