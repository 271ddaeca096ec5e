package mount

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Parse reads a mount table in the format of /proc/PID/mountinfo. The order is
// the kernel's: of several mounts at one point the last is on top.
func Parse(r io.Reader) ([]Mount, error) {
	var table []Mount
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20) // overlay mounts have lines of many kilobytes
	for lines.Scan() {
		m, err := parseLine(lines.Text())
		if err != nil {
			return nil, fmt.Errorf("parsing mountinfo line %d: %w", len(table)+1, err)
		}
		table = append(table, m)
	}
	return table, lines.Err()
}

// parseLine reads one line:
//
//	36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
//	0  1  2    3     4     5          6...     sep   type source super options
func parseLine(line string) (m Mount, err error) {
	fields := strings.Split(line, " ")
	sep := slices.Index(fields, "-")
	if sep < 6 || len(fields) < sep+4 {
		return m, fmt.Errorf("%.80q has too few fields", line)
	}
	if m.ID, err = strconv.Atoi(fields[0]); err != nil {
		return m, fmt.Errorf("mount id: %w", err)
	}
	if m.Parent, err = strconv.Atoi(fields[1]); err != nil {
		return m, fmt.Errorf("parent id: %w", err)
	}
	m.Root, m.Point = unescape(fields[3]), unescape(fields[4])
	m.Options = strings.Split(fields[5], ",")
	m.ReadOnly = slices.Contains(m.Options, "ro")
	m.Shared = slices.ContainsFunc(fields[6:sep], func(f string) bool { return strings.HasPrefix(f, "shared:") })
	m.Slave = slices.ContainsFunc(fields[6:sep], func(f string) bool { return strings.HasPrefix(f, "master:") })
	m.Type, m.Source = fields[sep+1], unescape(fields[sep+2])
	m.SuperReadOnly = slices.Contains(strings.Split(fields[sep+3], ","), "ro")
	return m, nil
}

// points returns the mount points of a mount table, in its order. It parses nothing
// else, for callers that only need to know that nothing is mounted somewhere: the
// table of a busy node has thousands of lines.
func points(table string) ([]string, error) {
	var all []string
	for line := range strings.Lines(table) {
		fields := strings.SplitN(line, " ", 6)
		if len(fields) < 6 {
			return nil, fmt.Errorf("parsing mountinfo line %d: %.80q has too few fields", len(all)+1, line)
		}
		all = append(all, unescape(fields[4]))
	}
	return all, nil
}

// unescape undoes the octal escapes that the kernel uses for space, tab,
// newline and backslash.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// below reports whether path is dir or lies below it.
func below(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}
