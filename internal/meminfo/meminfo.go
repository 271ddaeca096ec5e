// Package meminfo reads how much memory the machine has and how it is used.
package meminfo

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// Read returns the sizes in /proc/meminfo (proc(5)) in bytes, by their names there:
// "MemTotal", "MemAvailable" and so on. It is safe for concurrent use; each call
// reads the file.
func Read() (map[string]uint64, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil, fmt.Errorf("reading the machine's memory: %w", err)
	}
	return parse(data), nil
}

// parse takes the lines that are sizes; others are counts.
func parse(data []byte) map[string]uint64 {
	sizes := map[string]uint64{}
	for line := range bytes.Lines(data) {
		f := bytes.Fields(line)
		if len(f) != 3 || string(f[2]) != "kB" {
			continue
		}
		if kib, err := strconv.ParseUint(string(f[1]), 10, 64); err == nil {
			sizes[string(bytes.TrimSuffix(f[0], []byte(":")))] = kib << 10
		}
	}
	return sizes
}
