package hostcheck

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func checks() []check {
	return []check{
		{"root privileges", true, root},
		{"kernel", true, kernel},
		{OCIRuntime, true, ociRuntime},
		{"cgroups", true, cgroups},
		{"namespaces", true, namespaces},
		{"overlay file system", true, filesystem("overlay")},
		{"bridge networking", true, module("bridge", "/sys/module/bridge")},
		{"veth devices", true, module("veth", "/sys/module/veth")},
		{"nftables", true, module("nf_tables", "/sys/module/nf_tables")},
		{"tmpfs", true, filesystem("tmpfs")},
		{"inotify instances", true, inotify},
		{"raising limits", false, sysResource},
		{"exit codes from pidfds", false, pidfdInfo},
	}
}

func root() (found, fix string) {
	uid := os.Geteuid()
	if uid == 0 {
		return "uid 0", ""
	}
	return fmt.Sprintf("uid %d", uid), "run it as root: sudo nodekit ..."
}

func kernel() (found, fix string) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err.Error(), "use Linux 5.10 or newer"
	}
	release := unix.ByteSliceToString(u.Release[:])
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return release, ""
	}
	major, _ := strconv.Atoi(parts[0])
	minor, _ := strconv.Atoi(parts[1])
	if major < 5 || major == 5 && minor < 10 {
		return release, "use Linux 5.10 or newer (pidfds and overlay on every file system)"
	}
	return release, ""
}

func ociRuntime() (found, fix string) {
	var have []string
	for _, name := range []string{"crun", "runc"} {
		if path, err := exec.LookPath(name); err == nil {
			have = append(have, path)
		}
	}
	if len(have) == 0 {
		return "neither crun nor runc in PATH", "apt-get install runc"
	}
	return strings.Join(have, ", "), ""
}

func cgroups() (found, fix string) {
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &st); err != nil {
		return "/sys/fs/cgroup: " + err.Error(), "mount -t cgroup2 cgroup2 /sys/fs/cgroup"
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		return "v2", ""
	}
	if _, err := os.Stat("/sys/fs/cgroup/memory"); err != nil {
		return "neither v2 nor a v1 memory hierarchy at /sys/fs/cgroup", "mount -t cgroup2 cgroup2 /sys/fs/cgroup"
	}
	return "v1 (v2 is what Kubernetes wants: boot with systemd.unified_cgroup_hierarchy=1)", ""
}

func namespaces() (found, fix string) {
	for _, ns := range []string{"net", "mnt", "ipc", "uts", "pid", "user"} {
		if _, err := os.Stat("/proc/self/ns/" + ns); err != nil {
			return "no " + ns + " namespaces", "use a kernel with CONFIG_NAMESPACES and /proc mounted"
		}
	}
	return "net mnt ipc uts pid user", ""
}

// filesystem looks for a file system type that is registered or can be loaded.
func filesystem(name string) func() (string, string) {
	return func() (found, fix string) {
		raw, err := os.ReadFile("/proc/filesystems")
		if err != nil {
			return err.Error(), "mount -t proc proc /proc"
		}
		for line := range strings.Lines(string(raw)) {
			if fields := strings.Fields(line); len(fields) > 0 && fields[len(fields)-1] == name {
				return "in the kernel", ""
			}
		}
		return loadable(name)
	}
}

// module looks for a feature that is visible in /sys, built in, or loadable.
func module(name, sys string) func() (string, string) {
	return func() (found, fix string) {
		if _, err := os.Stat(sys); err == nil {
			return "in the kernel", ""
		}
		return loadable(name)
	}
}

// loadable reports whether modprobe would find the module, from the kernel's own
// index files.
func loadable(name string) (found, fix string) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err.Error(), "modprobe " + name
	}
	dir := filepath.Join("/lib/modules", unix.ByteSliceToString(u.Release[:]))
	for index, how := range map[string]string{"modules.builtin": "built in", "modules.dep": "a module, loaded when needed"} {
		raw, err := os.ReadFile(filepath.Join(dir, index))
		if err == nil && strings.Contains(string(raw), "/"+name+".ko") {
			return how, ""
		}
	}
	if _, err := os.Stat(dir); err != nil {
		return "not known: " + dir + " is not there, so the kernel must have it built in", ""
	}
	return "not in this kernel", "modprobe " + name + " (or install the kernel's module package)"
}

func inotify() (found, fix string) {
	raw, err := os.ReadFile("/proc/sys/fs/inotify/max_user_instances")
	if err != nil {
		return err.Error(), "use a kernel with CONFIG_INOTIFY_USER"
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(raw)))
	if n < 64 {
		return fmt.Sprintf("%d for each user", n), "sysctl -w fs.inotify.max_user_instances=512"
	}
	return fmt.Sprintf("%d for each user", n), ""
}

func sysResource() (found, fix string) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return err.Error(), ""
	}
	if data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0 {
		return "CAP_SYS_RESOURCE", ""
	}
	return "no CAP_SYS_RESOURCE: oom_score_adj and hard limits stay at this process's own", "run with CAP_SYS_RESOURCE, as a root login has it"
}

func pidfdInfo() (found, fix string) {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return "pidfd_open: " + err.Error(), "use Linux 5.3 or newer"
	}
	defer unix.Close(fd)
	const pidfdGetInfo = 0xc040ff0b // PIDFD_GET_INFO, _IOWR(0xFF, 11, struct pidfd_info)
	var info [64]byte
	info[0] = 1 // PIDFD_INFO_PID
	if err := ioctl(fd, pidfdGetInfo, &info[0]); err != nil {
		return "the kernel answers " + err.Error() + ": exit codes have one witness, the keeper", "use Linux 6.15 or newer"
	}
	return "PIDFD_GET_INFO", ""
}
