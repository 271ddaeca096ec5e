package oci

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/seccompbpf"
)

// filters caches the BPF programs that an OCI runtime compiled from seccomp profiles.
// Compiling the default profile takes a third of crun's time (measured); crun leaves the
// program beside the container's state, for its execs, and accepts one that is already
// compiled. The zero value is ready.
//
// The profile stays in the spec until the OCI runtime was seen to use the annotation: a
// runtime that does not know it compiles the profile as usual. From then on the spec has
// a profile without system calls, which need not be parsed.
type filters struct {
	mu       sync.Mutex
	made     map[filterKey]string   // in base64; "" if the OCI runtime leaves none
	heeding  map[installed]bool     // whether an OCI runtime uses a given program
	starting map[string]expectation // by container
}

// installed is an OCI runtime as it is installed now. Once replaced, it may compile a
// profile to another program.
type installed struct {
	path  string
	time  unix.Timespec
	inode uint64
}

// filterKey is a profile for an OCI runtime.
type filterKey struct {
	installed
	profile [sha256.Size]byte
}

// expectation is what the start of a container will show: the program of its profile or,
// if it was given one, whether the OCI runtime has used it.
type expectation struct {
	key   filterKey
	given string
}

const (
	// filterAnnotation is read by crun(1): a BPF program in base64.
	filterAnnotation = "run.oci.seccomp_bpf_data"
	// filterFile is where crun leaves it, in the container's state directory.
	filterFile = "seccomp.bpf"
	// maxFilters bounds what is remembered. A node has few profiles.
	maxFilters = 64
)

// improve returns what to give to containers instead of the program that the OCI runtime
// compiled: one that answers the same sooner, and whose end is an unreachable instruction.
// That distinguishes a program that was given from one that was compiled from the same
// profile. It returns nil for a file that is no program, or one without room for that.
func improve(compiled []byte) []byte {
	program, err := seccompbpf.Decode(compiled)
	if err != nil || len(program) == 0 {
		return nil
	}
	if fast, err := seccompbpf.Hasten(program); err == nil {
		program = fast
	}
	if len(program) == seccompbpf.MaxLength {
		return nil
	}
	return seccompbpf.Encode(append(program, seccompbpf.Instruction{
		Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_KILL_PROCESS,
	}))
}

// offer adds the program of the profile in doc, if it is known; otherwise it notes that
// the container's start will show one. If it removes the system calls from the profile,
// it returns the whole profile, in JSON.
func (f *filters) offer(container string, e engine, doc *specs.Spec) (whole []byte, err error) {
	if doc.Linux.Seccomp == nil {
		return nil, nil
	}
	var st unix.Stat_t
	if err := unix.Stat(e.path, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: e.path, Err: err}
	}
	profile, err := json.Marshal(doc.Linux.Seccomp)
	if err != nil {
		return nil, fmt.Errorf("naming a seccomp profile: %w", err)
	}
	key := filterKey{installed{e.path, st.Mtim, st.Ino}, sha256.Sum256(profile)}
	f.mu.Lock()
	defer f.mu.Unlock()
	program, known := f.made[key]
	if known && program == "" {
		return nil, nil
	}
	if known {
		annotate(doc, filterAnnotation, program)
		if f.heeding[key.installed] {
			doc.Linux.Seccomp = withoutCalls(doc.Linux.Seccomp)
			return profile, nil
		}
	}
	if f.starting == nil {
		f.starting = map[string]expectation{}
	}
	f.starting[container] = expectation{key, program}
	return nil, nil
}

// doubt is called when a start failed: what was known of the OCI runtime may no longer
// hold, for example if a script selects the runtime, and the next containers must show it
// anew.
func (f *filters) doubt(e engine) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.heeding, func(i installed, _ bool) bool { return i.path == e.path })
}

// withoutCalls returns the profile for an OCI runtime that is given its program. A
// runtime that compiled this profile after all would deny every system call.
func withoutCalls(s *specs.LinuxSeccomp) *specs.LinuxSeccomp {
	return &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno,
		Flags:         s.Flags, ListenerPath: s.ListenerPath, ListenerMetadata: s.ListenerMetadata,
	}
}

// learn reads the program of a container that has just been started, if that shows
// anything new.
func (f *filters) learn(container string, e engine) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	expected, ok := f.starting[container]
	if !ok {
		return nil
	}
	delete(f.starting, container)
	program, err := os.ReadFile(filepath.Join(e.stateDir(container), filterFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if expected.given != "" {
		if f.heeding == nil || len(f.heeding) >= maxFilters {
			f.heeding = map[installed]bool{}
		}
		f.heeding[expected.key.installed] = base64.StdEncoding.EncodeToString(program) == expected.given
		return nil
	}
	if f.made == nil || len(f.made) >= maxFilters {
		f.made = map[filterKey]string{}
	}
	f.made[expected.key] = base64.StdEncoding.EncodeToString(improve(program))
	return nil
}

// forget is called when a container was removed.
func (f *filters) forget(container string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.starting, container)
}
