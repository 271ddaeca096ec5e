package hostlocal

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/bootid"
)

// thisBoot returns the boot that the process runs in.
//
// The clock may have been stepped since the kernel started: a machine without a
// battery begins in the past, a virtual machine that was paused jumps. Neither
// may make a file of this boot look older than it, so the boot began when the
// clock now says so or when the kernel's own device files were made, whichever
// is earlier.
func thisBoot() boot {
	b := boot{uptime: uptime()}
	b.id, _ = bootid.Read() // without one nothing is stale
	b.since = time.Now().Add(-b.uptime)
	var st unix.Stat_t
	if err := unix.Stat("/dev/null", &st); err != nil {
		b.since = time.Time{} // nothing is older
	} else if made := time.Unix(st.Mtim.Unix()); made.Before(b.since) {
		b.since = made
	}
	return b
}

// uptime is a clock that nobody steps and that does not stop in suspend.
func uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
