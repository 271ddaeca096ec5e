package procmark

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/nodekit-project/nodekit/internal/procstat"
)

// Kill kills every process, except this one, that matches, and returns when there is
// none. It looks at most the given number of times, with a pause in between, so that
// processes started in the meantime are found too; if some keep starting others for
// longer, they are left, and that is an error.
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
	// Processes came and went all the time, but none that was seen matched.
	return nil
}

type killer struct {
	match   func(pid int) bool
	zombies map[int]bool // that were seen, and can start nothing any more
	busy    bool         // the last look killed some
}

// look is sure that none is left if it has killed none, and if no listed process had
// ended before it was inspected: such a process may have started another, which is
// not in the list.
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
		p, err := os.FindProcess(pid) // holds the process, even if its id is reused
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
