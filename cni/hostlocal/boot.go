package hostlocal

import (
	"time"

	"golang.org/x/sys/unix"
)

// boot is the boot of the kernel in which a call happens. No container outlives it,
// so a reservation of another boot is stale unless a runtime says otherwise.
type boot struct {
	id     string        // empty if the system has none: then nothing is stale
	since  time.Time     // no file made in this boot is older
	uptime time.Duration // since the boot, for times that only the index holds
}

// stampName is the extended attribute of a reservation's file that holds the id of
// the boot in which it was made. The file's content cannot hold it, because the
// upstream plugin compares all of that.
const stampName = "user.nodekit.boot"

// stamp marks an open file as one of this boot. Without extended attributes a file is
// judged by its time, as the upstream plugin's files are.
func (b boot) stamp(fd int) {
	if b.id != "" {
		_ = unix.Fsetxattr(fd, stampName, []byte(b.id), 0)
	}
}

// isStale reports whether the open file was made in an earlier boot. A file without a
// stamp is the upstream plugin's, and stale only if it is certainly older than the
// boot: one kept too long is removed by GC, but one removed too early means an
// address that is assigned twice.
func (b boot) isStale(fd int) (bool, error) {
	if b.id == "" {
		return false, nil
	}
	buf := make([]byte, 64)
	if n, err := retry(func() (int, error) { return unix.Fgetxattr(fd, stampName, buf) }); err == nil {
		return string(buf[:n]) != b.id, nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, err
	}
	return time.Unix(st.Mtim.Unix()).Before(b.since), nil
}
