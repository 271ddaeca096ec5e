package oci

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/internal/cgroup"
	"github.com/nodekit-project/nodekit/internal/fault"
)

// rescorings bounds how often rescore looks for processes: each look finds only those
// that were forked during the one before.
const rescorings = 100

// rescore gives the processes in a container's cgroup that have the oom_score_adj from
// the score to. They are the container's own and those that were executed in it, with
// their children, except for those that have chosen another score. putBack undoes it;
// after an error it has been undone.
func rescore(cg string, from, to int) (putBack func() error, err error) {
	var changed []int
	putBack = func() error {
		var errs []error
		for _, pid := range changed {
			_, err := exchangeScore(pid, to, from)
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}
	for range rescorings {
		news, err := rescoreOnce(cg, from, to)
		changed = append(changed, news...)
		if err != nil {
			return nil, errors.Join(err, putBack())
		}
		if len(news) == 0 || from == to {
			return putBack, nil
		}
	}
	err = fault.Unavailable.Errorf("the container starts processes faster than they get another oom_score_adj")
	return nil, errors.Join(err, putBack())
}

// rescoreOnce returns the processes whose score it has changed.
func rescoreOnce(cg string, from, to int) (changed []int, err error) {
	pids, err := cgroup.Processes(cg)
	if err != nil {
		return nil, err
	}
	for _, pid := range pids {
		did, err := exchangeScore(pid, from, to)
		if err != nil {
			return changed, err
		}
		if did {
			changed = append(changed, pid)
		}
	}
	return changed, nil
}

// exchangeScore changes the score of a process that has the score from. A process that
// has ended is no error.
func exchangeScore(pid, from, to int) (done bool, err error) {
	file := fmt.Sprintf("/proc/%d/oom_score_adj", pid)
	text, err := os.ReadFile(file)
	if err == nil && strings.TrimSpace(string(text)) == strconv.Itoa(from) {
		done, err = true, os.WriteFile(file, []byte(strconv.Itoa(to)), 0)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ESRCH):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("changing the oom_score_adj of a process from %d to %d: %w", from, to, err)
	}
	return done, nil
}
