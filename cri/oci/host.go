package oci

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/profiles/apparmor"
	seccomp "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nodekit-project/nodekit/cri/oci/spec"
	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// hostFacts reads, once, the properties of the host that the containers' specs depend on.
func hostFacts(log *slog.Logger) spec.Host {
	h := spec.Host{CgroupV2: cgroup.Version() == 2, MinOOMScoreAdj: -1000}
	bounding, effective := ownCapabilities()
	for i, name := range capabilityNames() {
		if bounding&(1<<i) != 0 {
			h.Capabilities = append(h.Capabilities, name)
		}
	}
	if effective&(1<<unix.CAP_SYS_RESOURCE) == 0 {
		h.MinOOMScoreAdj = ownOOMScoreAdj()
		log.Warn("this process may not lower oom_score_adj (CAP_SYS_RESOURCE is missing): containers get no lower value than its own", "lowest", h.MinOOMScoreAdj)
	}
	if _, err := os.Stat("/proc/sys/kernel/seccomp"); err == nil {
		h.Seccomp = seccompFilter
	}
	if on, err := os.ReadFile("/sys/module/apparmor/parameters/enabled"); err == nil && strings.HasPrefix(string(on), "Y") {
		h.AppArmor = true
		if err := apparmor.InstallDefault(appArmorDefault); err != nil {
			log.Warn("the default AppArmor profile cannot be loaded: containers that name none have none", "err", err)
		} else {
			h.AppArmorDefault = appArmorDefault
		}
	}
	return h
}

// appArmorDefault is the name of the default profile in the kernel.
const appArmorDefault = "nodekit-default"

// checkAppArmor refuses a profile that is not loaded; an OCI runtime would find that out
// only when the container starts.
func checkAppArmor(name string) error {
	if name == "" || name == appArmorDefault {
		return nil
	}
	loaded, err := apparmor.IsLoaded(name)
	if err != nil {
		return fmt.Errorf("looking for AppArmor profile %q: %w", name, err)
	}
	if !loaded {
		return fault.Invalid.Errorf("AppArmor profile %q is not loaded on this machine", name)
	}
	return nil
}

func seccompFilter(profile []byte, s *specs.Spec) (*specs.LinuxSeccomp, error) {
	if len(profile) == 0 {
		return seccomp.GetDefaultProfile(s)
	}
	f, err := seccomp.LoadProfile(string(profile), s)
	if err != nil {
		return nil, err
	}
	return f, knownWords(f)
}

// knownWords refuses a filter with an action, operator or similar word that runtime-spec
// does not define: loading a filter accepts any, and OCI runtimes find out only when the
// container starts.
func knownWords(f *specs.LinuxSeccomp) error {
	actions := []specs.LinuxSeccompAction{
		specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap, specs.ActErrno,
		specs.ActTrace, specs.ActAllow, specs.ActLog, specs.ActNotify,
	}
	operators := []specs.LinuxSeccompOperator{
		specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual,
	}
	if !slices.Contains(actions, f.DefaultAction) {
		return fmt.Errorf("defaultAction: %q is none of %q", f.DefaultAction, actions)
	}
	for i, call := range f.Syscalls {
		if !slices.Contains(actions, call.Action) {
			return fmt.Errorf("syscalls[%d].action: %q is none of %q", i, call.Action, actions)
		}
		for _, arg := range call.Args {
			if !slices.Contains(operators, arg.Op) {
				return fmt.Errorf("syscalls[%d].args: op %q is none of %q", i, arg.Op, operators)
			}
		}
	}
	return nil
}

func ownCapabilities() (bounding, effective uint64) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		bits, _ := strconv.ParseUint(value, 16, 64)
		switch name {
		case "CapBnd":
			bounding = bits
		case "CapEff":
			effective = bits
		}
	}
	return bounding, effective
}

func ownOOMScoreAdj() int {
	text, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return n
}

// capabilityNames returns the names of capabilities(7) in the order of their bits.
func capabilityNames() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW",
		"CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
		"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD",
		"CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
		"CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
	}
}

// lookupDevices finds the device nodes that a container asks for. A directory
// means every device below it.
func lookupDevices(want []*runtimeapi.Device) (list []spec.Device, err error) {
	for _, d := range want {
		before := len(list)
		err := filepath.WalkDir(d.GetHostPath(), func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			node, err := deviceNode(path)
			if err != nil || node == nil {
				return err
			}
			node.Path = filepath.Join(cmp.Or(d.GetContainerPath(), d.GetHostPath()), strings.TrimPrefix(path, d.GetHostPath()))
			list = append(list, spec.Device{Node: *node, Access: d.GetPermissions()})
			return nil
		})
		if err == nil && len(list) == before {
			err = errors.New("it is no device")
		}
		if err != nil {
			return nil, fault.Invalid.Errorf("device %q: %w", d.GetHostPath(), err)
		}
	}
	return list, nil
}

// allDevices returns the devices of a privileged container: every node in /dev outside
// the file systems of which the container gets its own.
func allDevices() (list []spec.Device, err error) {
	own := map[string]bool{"/dev/pts": true, "/dev/shm": true, "/dev/mqueue": true, "/dev/fd": true, "/dev/.udev": true}
	err = filepath.WalkDir("/dev", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // devices come and go
			return nil
		case err != nil:
			return err
		case own[path] && entry.IsDir():
			return filepath.SkipDir
		case entry.IsDir() || path == "/dev/console":
			return nil
		}
		node, err := deviceNode(path)
		if err == nil && node != nil {
			list = append(list, spec.Device{Node: *node, Access: "rwm"})
		}
		return nil
	})
	return list, err
}

// deviceNode returns nil for a file that is not a device.
func deviceNode(path string) (*specs.LinuxDevice, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	var kind string
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		kind = "c"
	case unix.S_IFBLK:
		kind = "b"
	default:
		return nil, nil
	}
	mode := os.FileMode(st.Mode & 0o777)
	return &specs.LinuxDevice{
		Path: path, Type: kind, Major: int64(unix.Major(uint64(st.Rdev))), Minor: int64(unix.Minor(uint64(st.Rdev))),
		FileMode: &mode, UID: &st.Uid, GID: &st.Gid,
	}, nil
}
