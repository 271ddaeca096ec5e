package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
)

// before is the earlier content of the cgroup files that a change may write.
type before []setting

type setting struct{ file, text string }

// remember reads the files to which the limits are written. A file that does not
// exist is left out: the change will not find it either.
func remember(dirs map[string]string, version int, l Limits) before {
	var b before
	for _, f := range l.files(dirs, version) {
		if text, err := os.ReadFile(f); err == nil {
			b = append(b, setting{f, string(text)})
		}
	}
	return b
}

// files returns the files to which the library writes the limits. dirs are the
// cgroup's directories by controller and, on version 2, under an empty name.
func (l Limits) files(dirs map[string]string, version int) (files []string) {
	add := func(controller string, on1, on2 []string) {
		dir, names := dirs[controller], on1
		if version == 2 {
			dir, names = dirs[""], on2
		}
		for _, name := range names {
			if dir != "" {
				files = append(files, path.Join(dir, name))
			}
		}
	}
	if l.CPUShares != 0 {
		add("cpu", []string{"cpu.shares"}, []string{"cpu.weight"})
	}
	if l.CPUQuota != 0 || l.CPUPeriod != 0 {
		add("cpu", []string{"cpu.cfs_period_us", "cpu.cfs_quota_us"}, []string{"cpu.max"})
	}
	if l.Memory != 0 || l.MemorySwap != 0 {
		add("memory", []string{"memory.limit_in_bytes", "memory.memsw.limit_in_bytes"}, []string{"memory.swap.max", "memory.max"})
	}
	if l.PIDs != 0 {
		add("pids", []string{"pids.max"}, []string{"pids.max"})
	}
	if l.CPUs != "" {
		add("cpuset", []string{"cpuset.cpus"}, []string{"cpuset.cpus"})
	}
	if l.Mems != "" {
		add("cpuset", []string{"cpuset.mems"}, []string{"cpuset.mems"})
	}
	for size := range l.Hugepages {
		for _, kind := range []string{"", ".rsvd"} {
			name := "hugetlb." + size + kind
			add("hugetlb", []string{name + ".limit_in_bytes"}, []string{name + ".max"})
		}
	}
	for name := range l.Unified {
		if !strings.Contains(name, "/") { // the library refuses those
			add("", nil, []string{name})
		}
	}
	return files
}

// changed returns the settings that are no longer in force.
func (b before) changed() (list before) {
	for _, s := range b {
		if now, err := os.ReadFile(s.file); err != nil || string(now) != s.text {
			list = append(list, s)
		}
	}
	return list
}

// restore writes the earlier content back. The kernel accepts some limits only after
// others, such as the memory limit only below that of memory and swap, so it retries
// as long as that makes progress. The error names what remains in force of the
// change.
func (b before) restore() error {
	left := b.changed()
	for {
		errs := map[string]error{}
		for _, s := range left {
			errs[s.file] = s.write()
		}
		still := left.changed()
		if len(still) == len(left) {
			return still.report(errs)
		}
		left = still
	}
}

func (b before) report(errs map[string]error) error {
	var all []error
	for _, s := range b {
		now, err := os.ReadFile(s.file)
		if err = errors.Join(errs[s.file], err); err == nil {
			err = errors.New("it takes no such text")
		}
		all = append(all, fmt.Errorf("%s stays %q and was %q: %w", path.Base(s.file), strings.TrimSpace(string(now)), strings.TrimSpace(s.text), err))
	}
	return errors.Join(all...)
}

// write writes a setting line by line, as the kernel requires for files of several
// lines.
func (s setting) write() error {
	now, err := os.ReadFile(s.file)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(s.file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	for _, line := range s.lines(string(now)) {
		if _, err := f.WriteString(line); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}

// lines returns what restores a file whose content is now. A change may have added
// devices to io.max; their lines disappear when nothing in them is limited.
func (s setting) lines(now string) (all []string) {
	if path.Base(s.file) == "io.max" {
		for line := range strings.Lines(now) {
			if device := deviceOf(line); !strings.HasPrefix(s.text, device) && !strings.Contains(s.text, "\n"+device) {
				all = append(all, device+"rbps=max wbps=max riops=max wiops=max\n")
			}
		}
	}
	return slices.AppendSeq(all, strings.Lines(s.text))
}

// deviceOf returns the beginning of a line of io.max: "8:16 ".
func deviceOf(line string) string {
	device, _, _ := strings.Cut(line, " ")
	return device + " "
}

// resources returns the settings in the form for systemd, which would otherwise write
// again at some time what it was last told. It cannot express an empty cpuset.
func (b before) resources() *cgroups.Resources {
	r := &cgroups.Resources{SkipDevices: true}
	var period, shares int64
	numbers := map[string]*int64{
		"cpu.shares": &shares, "cpu.cfs_period_us": &period, "cpu.cfs_quota_us": &r.CpuQuota,
		"memory.limit_in_bytes": &r.Memory, "memory.memsw.limit_in_bytes": &r.MemorySwap,
	}
	for _, s := range b {
		name, text := path.Base(s.file), strings.TrimSpace(s.text)
		switch into := numbers[name]; {
		case text == "":
		case Version() == 2:
			if r.Unified == nil {
				r.Unified = map[string]string{}
			}
			r.Unified[name] = text
		case into != nil:
			*into, _ = strconv.ParseInt(text, 10, 64) // written by the kernel
			if *into >= unlimited {
				*into = -1
			}
		case name == "cpuset.cpus":
			r.CpusetCpus = text
		case name == "cpuset.mems":
			r.CpusetMems = text
		case name == "pids.max":
			limit := int64(-1)
			if text != "max" {
				limit, _ = strconv.ParseInt(text, 10, 64)
			}
			r.PidsLimit = &limit
		}
	}
	r.CpuShares, r.CpuPeriod = uint64(shares), uint64(period)
	return r
}
