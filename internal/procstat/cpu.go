package procstat

import (
	"fmt"
	"os"
	"strings"
)

// CPU is how all processors together have spent their time since the boot, in ticks of
// USER_HZ, a hundredth of a second.
type CPU struct {
	Busy, Idle uint64
	Wait       uint64 // idle, while something waited for a disk
}

// ReadCPU reads /proc/stat (proc_stat(5)).
func ReadCPU() (CPU, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return CPU{}, err
	}
	return ParseCPU(string(text))
}

// ParseCPU parses the content of /proc/stat. The time of guests is in that of user.
func ParseCPU(stat string) (c CPU, err error) {
	line, _, _ := strings.Cut(stat, "\n")
	var user, nice, system, irq, softirq, steal uint64
	if _, err := fmt.Sscanf(line, "cpu %d %d %d %d %d %d %d %d", &user, &nice, &system, &c.Idle, &c.Wait, &irq, &softirq, &steal); err != nil {
		return CPU{}, fmt.Errorf("reading /proc/stat: %q: %w", line, err)
	}
	c.Busy = user + nice + system + irq + softirq + steal
	return c, nil
}
