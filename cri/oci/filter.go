package oci

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// filters remembers the programs that an OCI runtime has made of seccomp
// profiles. Making one of the default profile costs crun a third of its time
// (measured), and crun both leaves the program beside the container's state, for
// its execs, and takes one that is made already. The profile stays in the spec:
// what does not know the annotation makes its own program, as ever. The zero
// value is ready.
type filters struct {
	mu     sync.Mutex
	made   map[filterKey]string // as the annotation wants it; "" where the OCI runtime leaves none
	wanted map[string]filterKey // by container
}

// filterKey is a profile for one version of an OCI runtime. One that was replaced
// may make another program of it.
type filterKey struct {
	engine  string
	version unix.Timespec
	inode   uint64
	profile [sha256.Size]byte
}

const (
	// filterAnnotation is read by crun(1): a BPF program in base64.
	filterAnnotation = "run.oci.seccomp_bpf_data"
	// filterFile is where crun leaves it, in the container's state directory.
	filterFile = "seccomp.bpf"
	// maxFilters bounds what is remembered. A node has few profiles.
	maxFilters = 64
	// maxFilter is the longest program that the kernel takes, in bytes
	// (BPF_MAXINSNS of linux/bpf_common.h).
	maxFilter = 4096 * 8
)

// offer adds the program of the profile in doc, if it is known, and else
// remembers that the container will have one.
func (f *filters) offer(container string, e engine, doc *specs.Spec) error {
	if doc.Linux.Seccomp == nil {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Stat(e.path, &st); err != nil {
		return &os.PathError{Op: "stat", Path: e.path, Err: err}
	}
	profile, err := json.Marshal(doc.Linux.Seccomp)
	if err != nil {
		return fmt.Errorf("naming a seccomp profile: %w", err)
	}
	key := filterKey{e.path, st.Mtim, st.Ino, sha256.Sum256(profile)}
	f.mu.Lock()
	defer f.mu.Unlock()
	program, known := f.made[key]
	switch {
	case !known:
		if f.wanted == nil {
			f.wanted = map[string]filterKey{}
		}
		f.wanted[container] = key
	case program != "":
		doc.Annotations = map[string]string{filterAnnotation: program}
	}
	return nil
}

// learn takes the program of a container that has just been started, if that is
// the first with its profile.
func (f *filters) learn(container string, e engine) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	key, wanted := f.wanted[container]
	if !wanted {
		return nil
	}
	delete(f.wanted, container)
	program, err := os.ReadFile(filepath.Join(e.stateDir(container), filterFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if len(program)%8 != 0 || len(program) > maxFilter {
		program = nil
	}
	if f.made == nil || len(f.made) >= maxFilters {
		f.made = map[filterKey]string{}
	}
	f.made[key] = base64.StdEncoding.EncodeToString(program)
	return nil
}

// forget is for a container that was removed.
func (f *filters) forget(container string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.wanted, container)
}
