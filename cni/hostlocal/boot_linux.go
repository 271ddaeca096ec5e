package hostlocal

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/bootid"
)

// thisBoot returns the boot in which the process runs.
//
// The clock may have been stepped since the kernel started: a machine without a
// battery starts in the past, a paused virtual machine jumps. Neither may make a file
// of this boot look older than the boot. So its start is what the clock now implies
// or the time of the kernel's own device files, whichever is earlier.
func thisBoot() boot {
	b := boot{uptime: uptime()}
	b.id, _ = bootid.Read() // without an id nothing is stale
	b.since = time.Now().Add(-b.uptime)
	var st unix.Stat_t
	if err := unix.Stat("/dev/null", &st); err != nil {
		b.since = time.Time{} // nothing is older
	} else if made := time.Unix(st.Mtim.Unix()); made.Before(b.since) {
		b.since = made
	}
	return b
}

// uptime is a clock that is never stepped and does not stop during suspend.
func uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
