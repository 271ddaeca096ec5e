package oci

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// filters remembers the programs that an OCI runtime has made of seccomp
// profiles. Making one of the default profile costs crun a third of its time
// (measured), and crun both leaves the program beside the container's state, for
// its execs, and takes one that is made already. The zero value is ready.
//
// The profile stays in the spec until the OCI runtime was seen to heed the
// annotation: what does not know it makes its own program, as ever. From then on
// the spec has a profile without system calls, which need not be read.
type filters struct {
	mu       sync.Mutex
	made     map[filterKey]string   // in base64; "" where the OCI runtime leaves none
	heeding  map[installed]bool     // OCI runtimes that take a program
	starting map[string]expectation // by container
}

// installed is an OCI runtime as it is installed now. One that was replaced may make
// another program of a profile.
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

// expectation is what the start of a container will tell: the program of its
// profile or, where it was given that, whether the OCI runtime has taken it.
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
	// filterStep is the length of one instruction (struct sock_filter), and
	// maxFilter of the longest program that the kernel takes (BPF_MAXINSNS of
	// linux/bpf_common.h).
	filterStep = 8
	maxFilter  = 4096 * filterStep
)

// marked puts an instruction behind a program, where nothing reaches it. By it a
// program that was given can be told from one that the OCI runtime has made of the
// same profile.
func marked(program []byte) []byte {
	program = binary.NativeEndian.AppendUint16(program, unix.BPF_RET|unix.BPF_K)
	program = append(program, 0, 0) // no jumps
	return binary.NativeEndian.AppendUint32(program, unix.SECCOMP_RET_KILL_PROCESS)
}

// offer adds the program of the profile in doc, if it is known, and else
// remembers that the container will have one. Where it takes the system calls out of
// the profile it returns the whole one, in JSON.
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

// doubt is for a start that failed: what was known of the OCI runtime may not hold any
// more, as where a script chooses it, and the next containers have to tell anew.
func (f *filters) doubt(e engine) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.heeding, func(i installed, _ bool) bool { return i.path == e.path })
}

// withoutCalls is the profile for an OCI runtime that is given its program. One
// that made a program of it after all would forbid everything.
func withoutCalls(s *specs.LinuxSeccomp) *specs.LinuxSeccomp {
	return &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno,
		Flags:         s.Flags, ListenerPath: s.ListenerPath, ListenerMetadata: s.ListenerMetadata,
	}
}

// learn looks at the program of a container that has just been started, if that
// tells something.
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
	if len(program) > 0 {
		program = marked(program)
	}
	if len(program)%filterStep != 0 || len(program) > maxFilter {
		program = nil
	}
	if f.made == nil || len(f.made) >= maxFilters {
		f.made = map[filterKey]string{}
	}
	f.made[expected.key] = base64.StdEncoding.EncodeToString(program)
	return nil
}

// forget is for a container that was removed.
func (f *filters) forget(container string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.starting, container)
}
