// Package record keeps one file for every sandbox and container of a CRI server, from
// which the next server continues after a crash.
//
// A record says what its object is and how far the server had got with it (Phase). The
// package makes no decisions: the server (state) decides when to write, and what to do
// about an interrupted phase. A change adds a line to the file (lines.go). What was
// written survives any death of the server; boot.go says what a power loss may take. A
// Dir is safe for concurrent use; callers order the writes of one object.
package record

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/internal/atomicfile"
	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/flock"
	"github.com/nodekit-project/nodekit/internal/topdir"
)

// Phase is what the server was about to do with an object when it last wrote the record:
// the intent that a restarted server completes.
type Phase string

// The phases.
const (
	Creating Phase = "creating" // the author's create may have begun: roll back
	Live     Phase = "live"
	Removing Phase = "removing" // the author's remove may have begun: finish it
)

// Sandbox is a recorded sandbox. Its fields are those of cri.Sandbox, which documents
// them.
type Sandbox struct {
	ID        string
	Config    *runtimeapi.PodSandboxConfig
	Handler   string
	CreatedAt time.Time
	Dir       string

	Ready bool
	IPs   []string
	State json.RawMessage
}

// Container is a recorded container. Its fields are those of cri.Container, which
// documents them.
type Container struct {
	ID         string
	Sandbox    *Sandbox
	Config     *runtimeapi.ContainerConfig
	CreatedAt  time.Time
	StartedAt  time.Time
	Exit       *Exit
	ImageRef   string
	LogPath    string
	User       *runtimeapi.LinuxContainerUser
	StopSignal runtimeapi.Signal
	Dir        string
	State      json.RawMessage
}

// Running reports whether the container was started and has not ended.
func (c *Container) Running() bool { return !c.StartedAt.IsZero() && c.Exit == nil }

// Exit describes how a container ended; cri.Exit documents its fields.
type Exit struct {
	Code    int32
	At      time.Time
	Reason  string
	Message string
}

// Normal returns the exit with defaults for what an author may leave out, and with text
// that gRPC accepts.
func (e Exit) Normal() *Exit {
	e.Reason, e.Message = Text(e.Reason), Text(e.Message)
	if e.At.IsZero() {
		e.At = time.Now()
	}
	if e.Reason == "" {
		e.Reason = "Completed"
		if e.Code != 0 {
			e.Reason = "Error"
		}
	}
	return &e
}

// NewID returns an id of the length that tools expect of container runtimes.
func NewID() string {
	var b [32]byte
	rand.Read(b[:]) // never fails, see crypto/rand
	return hex.EncodeToString(b[:])
}

// Dir is a directory of records.
type Dir struct {
	path   string
	spread topdir.Spread // of records
	lock   *flock.Lock
	bin    *bin // of homes
}

// Open creates the directory if necessary and locks it for this process, until Close or
// until the process dies. A directory that another server holds is refused with
// fault.AlreadyExists. The logger gets errors that occur while nobody waits: see
// RemoveSandbox.
func Open(path string, log *slog.Logger) (*Dir, error) {
	if err := topdir.Make(path, 0o700); err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	lock, err := flock.TryAcquire(filepath.Join(path, "lock"), flock.Exclusive)
	if err != nil {
		return nil, fmt.Errorf("taking the state directory: %w", err)
	}
	if lock == nil {
		return nil, fault.AlreadyExists.Errorf("taking the state directory %q: another server uses it: stop it, or choose another directory", path)
	}
	for _, sub := range []string{"sandboxes", "containers", "dirs", "pauses"} {
		err := topdir.Make(filepath.Join(path, sub), 0o700)
		if err == nil {
			err = atomicfile.Clean(filepath.Join(path, sub))
		}
		if err != nil {
			lock.Release()
			return nil, fmt.Errorf("preparing the state directory: %w", err)
		}
	}
	gone, err := openBin(filepath.Join(path, "gone"), log)
	if err != nil {
		lock.Release()
		return nil, fmt.Errorf("preparing the state directory: %w", err)
	}
	return &Dir{path: path, spread: topdir.Spread(filepath.Join(path, "spread")), lock: lock, bin: gone}, nil
}

// Close waits until removed files are deleted, and releases the directory.
func (d *Dir) Close() {
	d.bin.close()
	d.lock.Release()
}

// Home returns the object's own directory, which its author gets as Dir.
func (d *Dir) Home(id string) string { return filepath.Join(d.path, "dirs", id) }

func (d *Dir) sandboxFile(id string) string {
	return filepath.Join(d.path, "sandboxes", id+".json")
}

func (d *Dir) containerFile(id string) string {
	return filepath.Join(d.path, "containers", id+".json")
}

// RemoveSandbox and RemoveContainer remove the object's own directory and then delete its
// record, so that a crash between the two leaves a record of what to finish. The files in
// the directory are deleted a little later. A directory with a mount below is refused.
// Both are idempotent.
func (d *Dir) RemoveSandbox(id string) error { return d.remove(id, d.sandboxFile(id)) }

// RemoveContainer is RemoveSandbox for containers.
func (d *Dir) RemoveContainer(id string) error { return d.remove(id, d.containerFile(id)) }

func (d *Dir) remove(id, file string) error {
	if err := d.bin.throw(d.Home(id)); err != nil {
		return fmt.Errorf("removing the directory of %q: %w", id, err)
	}
	return forget(file)
}

// forget removes the file of a record, if it exists.
func forget(file string) error {
	if err := os.Remove(file); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// Text returns an author's text with bytes that are not UTF-8 replaced, as a program's
// output may have them: gRPC refuses a whole message because of one.
func Text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
