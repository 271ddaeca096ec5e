package hostlocal

import (
	"time"

	"golang.org/x/sys/unix"
)

// boot is the run of the kernel in which a call happens. No container outlives
// it, so a reservation of another boot is stale unless a runtime says otherwise.
type boot struct {
	id     string        // empty where the system tells none: nothing is stale then
	since  time.Time     // every file made in this boot is younger
	uptime time.Duration // since the boot, for what is kept in the index alone
}

// stampName is an extended attribute of a reservation's file with the id of the
// boot that it was made in. The content cannot hold it: upstream's plugin
// compares the whole of that.
const stampName = "user.nodekit.boot"

// stamp marks an open file as one of this boot. A file system without extended
// attributes leaves the file to be judged by its time, as upstream's are.
func (b boot) stamp(fd int) {
	if b.id != "" {
		_ = unix.Fsetxattr(fd, stampName, []byte(b.id), 0)
	}
}

// isStale tells whether the open file was made in an earlier boot. What carries
// no stamp is upstream's and is stale only if it is older than the boot beyond
// doubt: one that stays too long is found by GC, one that goes too early is an
// address given out twice.
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
