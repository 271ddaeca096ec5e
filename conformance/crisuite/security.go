package crisuite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The bits of capabilities(7) that rules check.
const (
	capChown    = 0
	capNetRaw   = 13
	capSysAdmin = 21
	capSysTime  = 25
	capMknod    = 27
	capFowner   = 3
	capSysNice  = 23
)

func securityRules() []rule {
	return []rule{
		must("CRI-SEC-001", "adds and drops capabilities",
			"Capability", "Dropping a capability will drop it from all sets.", checkCaps, Isolation),
		must("CRI-SEC-002", "drops all capabilities, and adds single ones to none",
			"Capability", "List of capabilities to drop.", checkDropAll, Isolation),
		must("CRI-SEC-003", "adds ambient capabilities to all sets",
			"Capability", "If a capability is added to only the add_ambient_capabilities list then it gets added to all sets, i.e permitted inheritable, effective, bounding and ambient sets.", checkAmbient, Isolation, AmbientCaps),
		relied("CRI-SEC-004", "withholds the capabilities of the host from an ordinary container",
			"Pod security", "A container that asks for nothing must not be able to administer the node.", checkDefaultCaps, Isolation),
		must("CRI-SEC-005", "gives a privileged container all capabilities",
			"LinuxContainerSecurityContext", "Privileged mode implies the following specific options are applied: [...] All capabilities are added.", checkPrivileged, Isolation),
		heavy(must("CRI-SEC-006", "gives a privileged container the host's devices",
			"LinuxContainerSecurityContext", "All devices from the host's /dev are available within the container.", checkPrivilegedDevices, Isolation)),
		must("CRI-SEC-007", "sets no_new_privs when it is asked to, and only then",
			"LinuxContainerSecurityContext", "no_new_privs defines if the flag for no_new_privs should be set on the container.", checkNoNewPrivs, Isolation),
		must("CRI-SEC-008", "makes the root file system read-only",
			"LinuxContainerSecurityContext", "If set, the root filesystem of the container is read-only.", checkReadonlyRoot, Isolation),
		must("CRI-SEC-009", "masks paths",
			"LinuxContainerSecurityContext", "masked_paths is a slice of paths that should be masked by the container runtime, this can be passed directly to the OCI spec.", checkMasked, Isolation),
		must("CRI-SEC-010", "makes paths read-only",
			"LinuxContainerSecurityContext", "readonly_paths is a slice of paths that should be set as readonly by the container runtime, this can be passed directly to the OCI spec.", checkReadonlyPaths, Isolation),
		must("CRI-SEC-011", "filters system calls by the runtime's default profile",
			"SecurityProfile", "The container runtime default profile should be used.", seccomp(runtimeapi.SecurityProfile_RuntimeDefault, "2"), Isolation, Seccomp),
		must("CRI-SEC-012", "filters no system calls when it is asked not to",
			"SecurityProfile", "Disable the feature for the sandbox or the container.", seccomp(runtimeapi.SecurityProfile_Unconfined, "0"), Isolation, Seccomp),
		must("CRI-SEC-013", "filters system calls by a profile on the node",
			"SecurityProfile", "A pre-defined profile on the node should be used.", checkLocalProfile, Isolation, Seccomp),
		relied("CRI-SEC-014", "refuses a container whose seccomp profile is not there",
			"Pod security", "A container must not run without the profile that it asks for.", checkNoProfile, Isolation, Seccomp),
		must("CRI-SEC-015", "filters no system calls of a privileged container that asks for nothing",
			"LinuxContainerSecurityContext", "Seccomp restrictions are not applied.", checkPrivilegedSeccomp, Isolation, Seccomp),
		must("CRI-SEC-016", "mounts sysfs and procfs of a privileged container for writing, and of others not",
			"LinuxContainerSecurityContext", "Any sysfs and procfs mounts are mounted RW.", checkProcRW, Isolation),
	}
}

func caps(add, drop []string) edit {
	return secure(func(c *runtimeapi.LinuxContainerSecurityContext) {
		c.Capabilities = &runtimeapi.Capability{AddCapabilities: add, DropCapabilities: drop}
	})
}

// selfStatus returns the proc_pid_status(5) of a container's first process.
func (s *subject) selfStatus(ctx context.Context, edits ...edit) (string, error) {
	return s.prints(ctx, "cat /proc/self/status", edits...)
}

// capSet returns a set of capabilities.
func capSet(status, field string) (uint64, error) {
	return strconv.ParseUint(statusField(status, field), 16, 64)
}

// wantCaps returns nil when the sets have, or do not have, a capability as wanted.
func wantCaps(status string, bit int, want bool, sets ...string) error {
	for _, set := range sets {
		bits, err := capSet(status, set)
		if err != nil {
			return err
		}
		if bits&(1<<bit) != 0 != want {
			return fmt.Errorf("the container's %s is %x: capability %d in it is %v, want %v", set, bits, bit, !want, want)
		}
	}
	return nil
}

func checkCaps(ctx context.Context, s *subject) error {
	st, err := s.selfStatus(ctx, caps([]string{"SYS_TIME", "SYS_NICE"}, []string{"CHOWN", "FOWNER"}))
	if err != nil {
		return err
	}
	var errs []error
	for bit, want := range map[int]bool{capSysTime: true, capSysNice: true, capChown: false, capFowner: false} {
		errs = append(errs, wantCaps(st, bit, want, "CapEff", "CapPrm", "CapBnd"))
	}
	return errors.Join(errs...)
}

func checkDropAll(ctx context.Context, s *subject) error {
	none, err := s.selfStatus(ctx, caps(nil, []string{"ALL"}))
	if err != nil {
		return err
	}
	for _, set := range []string{"CapEff", "CapPrm", "CapBnd"} {
		if bits, err := capSet(none, set); err != nil || bits != 0 {
			return fmt.Errorf("with all capabilities dropped %s is %x: %w", set, bits, errors.Join(err, errors.New("want none")))
		}
	}
	one, err := s.selfStatus(ctx, caps([]string{"NET_RAW"}, []string{"ALL"}))
	if err != nil {
		return err
	}
	if bits, err := capSet(one, "CapEff"); err != nil || bits != 1<<capNetRaw {
		return fmt.Errorf("with all capabilities dropped and NET_RAW added CapEff is %x", bits)
	}
	return nil
}

func checkAmbient(ctx context.Context, s *subject) error {
	st, err := s.selfStatus(ctx, runAs(1000, 1001), secure(func(c *runtimeapi.LinuxContainerSecurityContext) {
		c.Capabilities = &runtimeapi.Capability{AddAmbientCapabilities: []string{"NET_RAW"}}
	}))
	if err != nil {
		return err
	}
	return wantCaps(st, capNetRaw, true, "CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")
}

func checkDefaultCaps(ctx context.Context, s *subject) error {
	st, err := s.selfStatus(ctx)
	if err != nil {
		return err
	}
	return errors.Join(wantCaps(st, capSysAdmin, false, "CapEff", "CapBnd"), wantCaps(st, capSysTime, false, "CapEff", "CapBnd"))
}

// privileged runs a privileged container in a sandbox that allows it.
func (s *subject) privileged(ctx context.Context, verb string, edits ...edit) (string, error) {
	p, err := s.privilegedPod(ctx)
	if err != nil {
		return "", err
	}
	return p.prints(ctx, verb, append(edits, asPrivileged)...)
}

func asPrivileged(c *runtimeapi.ContainerConfig) { c.Linux.SecurityContext.Privileged = true }

func (s *subject) privilegedPod(ctx context.Context) (*pod, error) {
	return s.pod(ctx, func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
}

func checkPrivileged(ctx context.Context, s *subject) error {
	st, err := s.privileged(ctx, "cat /proc/self/status")
	if err != nil {
		return err
	}
	return errors.Join(wantCaps(st, capSysAdmin, true, "CapEff", "CapBnd"), wantCaps(st, capMknod, true, "CapEff"), wantCaps(st, capSysTime, true, "CapEff"))
}

func checkPrivilegedDevices(ctx context.Context, s *subject) error {
	host, err := os.ReadDir("/dev")
	if err != nil {
		return err
	}
	out, err := s.privileged(ctx, "ls /dev")
	if err != nil {
		return err
	}
	for _, e := range host {
		// Consoles and terminals are the container's own.
		if e.Type()&os.ModeDevice != 0 && !strings.Contains(e.Name(), "tty") && e.Name() != "console" && e.Name() != "ptmx" && !strings.Contains(out, " "+e.Name()+"\n") {
			return fmt.Errorf("the host has /dev/%s, and a privileged container has not", e.Name())
		}
	}
	path, _, err := hostDevice()
	if err != nil {
		return nil // there is none that an ordinary container could have wrongly
	}
	ordinary, err := s.prints(ctx, "ls /dev")
	if err == nil && strings.Contains(ordinary, " "+filepath.Base(path)+"\n") {
		return fmt.Errorf("an ordinary container has %s", path)
	}
	return err
}

func checkNoNewPrivs(ctx context.Context, s *subject) error {
	for _, want := range []bool{true, false} {
		st, err := s.selfStatus(ctx, secure(func(c *runtimeapi.LinuxContainerSecurityContext) { c.NoNewPrivs = want }))
		if err != nil {
			return err
		}
		if got := statusField(st, "NoNewPrivs"); got != map[bool]string{true: "1", false: "0"}[want] {
			return fmt.Errorf("with no_new_privs %v NoNewPrivs of the process is %s", want, got)
		}
	}
	return nil
}

func checkReadonlyRoot(ctx context.Context, s *subject) error {
	readonly := secure(func(c *runtimeapi.LinuxContainerSecurityContext) { c.ReadonlyRootfs = true })
	_, err := s.prints(ctx, "write /data/x y", readonly)
	if err := refused("writing below a read-only root", err, "read-only file system"); err != nil {
		return err
	}
	_, err = s.prints(ctx, "do", do("write /data/x y", "cat /data/x"))
	return err
}

func checkMasked(ctx context.Context, s *subject) error {
	mask := secure(func(c *runtimeapi.LinuxContainerSecurityContext) {
		c.MaskedPaths = []string{"/data/file", "/data/sub", "/no/such/path"}
	})
	out, err := s.prints(ctx, "do", do("cat /data/file", "ls /data/sub", "echo end"), mask)
	if err != nil {
		return err
	}
	if out != "end\n" {
		return fmt.Errorf("of a masked file and a masked directory the container sees %q", out)
	}
	return nil
}

func checkReadonlyPaths(ctx context.Context, s *subject) error {
	protect := secure(func(c *runtimeapi.LinuxContainerSecurityContext) {
		c.ReadonlyPaths = []string{"/data/sub", "/no/such/path", "/data/file"}
	})
	_, err := s.prints(ctx, "write /data/sub/x y", protect)
	if err := refused("writing below a read-only path", err, "read-only file system"); err != nil {
		return err
	}
	_, err = s.prints(ctx, "write /data/file y", protect)
	if err := refused("writing to a read-only path", err, "read-only file system"); err != nil {
		return err
	}
	_, err = s.prints(ctx, "do", do("write /data/x y", "cat /data/x"), protect)
	return err
}

// seccomp returns a check of the mode that proc_pid_status(5) shows.
func seccomp(kind runtimeapi.SecurityProfile_ProfileType, mode string) look {
	return func(ctx context.Context, s *subject) error {
		st, err := s.selfStatus(ctx, profile(kind, ""))
		if err == nil && statusField(st, "Seccomp") != mode {
			return fmt.Errorf("with the profile %v the process's Seccomp is %s, want %s", kind, statusField(st, "Seccomp"), mode)
		}
		return err
	}
}

func profile(kind runtimeapi.SecurityProfile_ProfileType, ref string) edit {
	return secure(func(c *runtimeapi.LinuxContainerSecurityContext) {
		c.Seccomp = &runtimeapi.SecurityProfile{ProfileType: kind, LocalhostRef: ref}
	})
}

// noMkdir is a profile that forbids only making directories.
const noMkdir = `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}`

func checkLocalProfile(ctx context.Context, s *subject) error {
	file := filepath.Join(s.in.TempDir, "profile.json")
	if err := os.WriteFile(file, []byte(noMkdir), 0o644); err != nil {
		return err
	}
	_, err := s.prints(ctx, "mkdir /data/x", profile(runtimeapi.SecurityProfile_Localhost, file))
	if err := refused("a system call that the profile forbids", err, "operation not permitted"); err != nil {
		return err
	}
	_, err = s.prints(ctx, "do", do("mkdir /data/x", "echo made"), profile(runtimeapi.SecurityProfile_Unconfined, ""))
	return err
}

func checkNoProfile(ctx context.Context, s *subject) error {
	return s.runsNot(ctx, "whose profile is not there", profile(runtimeapi.SecurityProfile_Localhost, filepath.Join(s.in.TempDir, "absent.json")))
}

func checkPrivilegedSeccomp(ctx context.Context, s *subject) error {
	st, err := s.privileged(ctx, "cat /proc/self/status")
	if err == nil && statusField(st, "Seccomp") != "0" {
		return fmt.Errorf("a privileged container's Seccomp is %s, want 0", statusField(st, "Seccomp"))
	}
	return err
}

func checkProcRW(ctx context.Context, s *subject) error {
	// Opening changes nothing.
	const tunable = "open /proc/sys/kernel/shm_rmid_forced"
	if _, err := s.privileged(ctx, "do", do(tunable, "echo opened")); err != nil {
		return fmt.Errorf("privileged: %w", err)
	}
	_, err := s.prints(ctx, tunable, secure(func(c *runtimeapi.LinuxContainerSecurityContext) {
		c.ReadonlyPaths = []string{"/proc/sys"} // as the kubelet asks
	}))
	return refused("writing to /proc/sys in an ordinary container", err, "read-only file system", "permission denied")
}
