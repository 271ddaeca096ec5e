package procmark

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/nodekit-project/nodekit/internal/procstat"
)

// Kill kills every process, other than this one, that match says yes to, and returns
// when there is none. It looks at most so many times, with a pause in between, so that
// processes that are started meanwhile are found, too; what goes on starting others for
// longer is left, and an error.
func Kill(match func(pid int) bool, looks int, pause time.Duration) error {
	k := killer{match: match, zombies: map[int]bool{}}
	for range looks {
		killed, sure, err := k.look()
		switch {
		case err != nil:
			return err
		case killed == 0 && sure:
			return nil
		}
		k.busy = killed > 0
		time.Sleep(pause)
	}
	if k.busy {
		return errors.New("processes go on starting others")
	}
	// Others came and went all the time, and none that was seen was one to kill.
	return nil
}

type killer struct {
	match   func(pid int) bool
	zombies map[int]bool // that were seen, and can leave nothing behind any more
	busy    bool         // the last look killed some
}

// look is sure that none is left when it has killed none, and when none of the processes
// in the list had ended before it was looked at: that one may have started another,
// which is not in the list.
func (k *killer) look() (killed int, sure bool, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, false, err
	}
	var errs []error
	sure = true
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		p, err := os.FindProcess(pid) // holds the process, whoever gets its id next
		if err != nil {
			sure = false
			continue
		}
		if k.match(pid) {
			killed++
			if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
				errs = append(errs, fmt.Errorf("killing process %d: %w", pid, err))
			}
		} else if k.ended(pid) {
			sure = false
		}
		errs = append(errs, p.Release())
	}
	return killed, sure, errors.Join(errs...)
}

// ended reports whether a process has ended since the last look.
func (k *killer) ended(pid int) bool {
	stat, err := procstat.Read(pid)
	if err != nil {
		return true
	}
	before := k.zombies[pid]
	k.zombies[pid] = stat.Zombie()
	return stat.Zombie() && !before
}
