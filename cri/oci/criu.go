package oci

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nodekit-project/nodekit/cri"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/flock"
)

// criuPatience is how long criu may take to check whether it works.
const criuPatience = 10 * time.Second

// checkpoints reports whether this machine can checkpoint containers. It cannot if criu,
// which every OCI runtime relies on, is not installed or does not work with the kernel,
// or if e, the default OCI runtime, was built without it.
func checkpoints(ctx context.Context, c *Config, e engine) bool {
	path, err := exec.LookPath("criu")
	if err != nil {
		c.Logger.Info("criu is not in PATH: containers cannot be checkpointed")
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, criuPatience)
	defer cancel()
	if e.lacksCRIU(ctx) {
		c.Logger.Warn("the OCI runtime was built without criu: containers cannot be checkpointed; runc can", "path", e.path)
		return false
	}
	if out, err := exec.CommandContext(ctx, path, "check").CombinedOutput(); err != nil {
		c.Logger.Warn("criu does not work here: containers cannot be checkpointed", "path", path, "err", err, "output", string(out))
		return false
	}
	return true
}

// lacksCRIU reports whether e is a crun that says so. Every runc supports criu.
func (e engine) lacksCRIU(ctx context.Context) bool {
	out, err := exec.CommandContext(ctx, e.path, "--version").Output()
	return err == nil && bytes.HasPrefix(out, []byte("crun ")) && !bytes.Contains(out, []byte("+CRIU"))
}

// saveImages has criu write its images of a container to an empty directory. The
// container continues as it was, frozen or not. After an error, such as when ctx ends, it
// may be left either way and cut off from the network: thaw comes next. criu and the OCI
// runtime log to work.
func (r *Runtime) saveImages(ctx context.Context, c *cri.Container, images, work string) error {
	e, _, err := r.engineOf(c)
	if err != nil {
		return err
	}
	log := filepath.Join(work, "log")
	args := e.args(log, "checkpoint", "--image-path", images, "--work-path", work, "--leave-running", "--file-locks", c.ID)
	out, err := r.runCRIU(ctx, c.Sandbox, args)
	if err == nil {
		return nil
	}
	said := firstText(complaint(filepath.Join(work, "dump.log")), logMessage(log), string(out), err.Error())
	return fault.Internal.Errorf("%s: %s", filepath.Base(e.path), said)
}

// outputPatience is how long the children of a program may hold its output open after the
// program has ended.
const outputPatience = 5 * time.Second

// runCRIU runs a command that runs criu. When ctx ends, all its processes are killed,
// wherever they are: crun's criu has a session of its own. After an error some may be
// left, for endSave.
func (r *Runtime) runCRIU(ctx context.Context, s *cri.Sandbox, args []string) (output []byte, err error) {
	lock, err := r.beginSave(ctx, s)
	if err != nil {
		return nil, err
	}
	file := r.savingFile(s.ID)
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &out, outputPatience
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's signals are for this process only
	cmd.Cancel = func() error { return flock.Evict(context.WithoutCancel(ctx), file, criuGrace) }
	lock.Lend(cmd)
	err = cmd.Start()
	lock.Release()
	if err == nil {
		err = cmd.Wait()
	}
	if err == nil {
		err = os.Remove(file)
	}
	return out.Bytes(), err
}

// complaint returns the errors in criu's log, "" if there are none: an OCI runtime only
// says where the log is.
func complaint(log string) string {
	text, err := os.ReadFile(log)
	if err != nil {
		return ""
	}
	var all []string
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() && len(all) < maxComplaints {
		// "(00.342382) Error (criu/files-reg.c:1790): Can't lookup ..."
		_, rest, failed := strings.Cut(lines.Text(), ") Error (")
		_, what, _ := strings.Cut(rest, "): ")
		if failed && !strings.Contains(what, "RLIMIT_NOFILE") { // which criu ignores
			all = append(all, what)
		}
	}
	if len(all) == 0 {
		return ""
	}
	return "criu: " + strings.Join(all, "; ")
}

// maxComplaints is how many errors are passed on: the cause comes first, its consequences
// some lines later.
const maxComplaints = 4
