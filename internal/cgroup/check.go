package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/nodekit-project/nodekit/internal/fault"
	"github.com/nodekit-project/nodekit/internal/rawfile"
)

// What the kernel accepts, on either version (sched-bwc.rst), and the scale of v1's
// shares.
const (
	minPeriod, maxPeriod = 1000, 1000000   // µs
	minQuota, maxQuota   = 1000, 1<<44 - 1 // µs; the kernel counts with 44 bits
	minShares, maxShares = 2, 262144
)

// Check refuses limits that no cgroup of this machine can have, before there is one:
// the error is fault.Invalid, or fault.FailedPrecondition if a controller is missing.
// What depends on the cgroup and its parents is left to Set.
func (l Limits) Check() error {
	switch {
	case l.MemorySwap > 0 && l.Memory <= 0:
		return fault.Invalid.Errorf("a limit of memory and swap together (%d bytes) needs one of memory", l.MemorySwap)
	case l.MemorySwap > 0 && l.MemorySwap < l.Memory:
		return fault.Invalid.Errorf("the limit of memory and swap together (%d bytes) is below the one of memory (%d)", l.MemorySwap, l.Memory)
	}
	return l.checkEach()
}

// checkEach checks each limit by itself: an existing cgroup may have the others
// already.
func (l Limits) checkEach() error {
	if err := l.known(); err != nil {
		return err
	}
	switch {
	case l.CPUPeriod != 0 && (l.CPUPeriod < minPeriod || l.CPUPeriod > maxPeriod):
		return fault.Invalid.Errorf("a CPU period of %d µs: the kernel takes %d to %d", l.CPUPeriod, minPeriod, maxPeriod)
	case l.CPUQuota > 0 && l.CPUQuota < minQuota:
		return fault.Invalid.Errorf("a CPU quota of %d µs: the kernel takes %d or more", l.CPUQuota, minQuota)
	case l.CPUQuota > maxQuota:
		return fault.Invalid.Errorf("a CPU quota of %d µs: the kernel takes %d or less, and -1 is none", l.CPUQuota, int64(maxQuota))
	case Version() == 1 && l.CPUShares != 0 && (l.CPUShares < minShares || l.CPUShares > maxShares):
		return fault.Invalid.Errorf("%d CPU shares: with cgroup v1 they are %d to %d", l.CPUShares, minShares, maxShares)
	}
	if err := checkList(l.CPUs, "/sys/devices/system/cpu/possible"); err != nil {
		return fault.Invalid.Errorf("the list of CPUs %q: %w", l.CPUs, err)
	}
	if err := checkList(l.Mems, "/sys/devices/system/node/possible"); err != nil {
		return fault.Invalid.Errorf("the list of memory nodes %q: %w", l.Mems, err)
	}
	return nil
}

// known refuses limits of resources that this machine does not have.
func (l Limits) known() error {
	if len(l.Unified) > 0 && Version() == 1 {
		return fault.Invalid.Errorf("unified resources need cgroup v2")
	}
	for size := range l.Hugepages {
		if !slices.Contains(HugepageSizes(), size) {
			return fault.Invalid.Errorf("this machine has no huge pages of %q, but %q", size, HugepageSizes())
		}
	}
	if len(l.Hugepages) == 0 {
		return nil
	}
	possible, err := LimitsHugepages()
	if err == nil && !possible {
		err = fault.FailedPrecondition.Errorf("huge pages cannot be limited: the hugetlb controller is not mounted with the others")
	}
	return err
}

// LimitsHugepages reports whether Set can limit huge pages on this machine: whether the
// hugetlb controller is where the others are.
func LimitsHugepages() (bool, error) {
	if Version() == 2 {
		controllers, err := rawfile.Read("/sys/fs/cgroup/cgroup.controllers")
		return slices.Contains(strings.Fields(string(controllers)), "hugetlb"), err
	}
	all, err := roots()
	return all["hugetlb"] != "", err
}

// checkList refuses a list ("0-3,7") that the kernel cannot parse, or that has a
// number above those in the file possible. If there is no such file, no number is too
// high.
func checkList(list, possible string) error {
	top, err := highest(list)
	if err != nil || top < 0 {
		return err
	}
	text, err := os.ReadFile(possible)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	limit, err := highest(string(text))
	if err == nil && top > limit {
		err = fmt.Errorf("this machine has none above %d", limit)
	}
	return err
}

// highest returns the highest number of a list as the kernel parses it
// (bitmap_parselist), or -1 if it has none. What newer kernels accept besides numbers
// is ignored.
func highest(list string) (int, error) {
	top := -1
	for region := range strings.FieldsFuncSeq(list, func(r rune) bool { return r == ',' || unicode.IsSpace(r) }) {
		if strings.ContainsAny(region, ":N") || strings.EqualFold(region, "all") { // "0-7:2/4", "0-N"
			continue
		}
		from, to, isRange := strings.Cut(region, "-")
		if !isRange {
			to = from
		}
		low, err := strconv.ParseUint(from, 10, 31)
		high, err2 := strconv.ParseUint(to, 10, 31)
		if err := errors.Join(err, err2); err != nil || low > high {
			return 0, fmt.Errorf("%q is no number, nor a range of them", region)
		}
		top = max(top, int(high))
	}
	return top, nil
}
