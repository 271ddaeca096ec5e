package hostlocal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// list returns the entries of a directory with the inodes that the kernel lists
// beside the names, which cost nothing more.
func list(dir *os.File) ([]entry, error) {
	var out []entry
	buf := make([]byte, 64<<10)
	for {
		n, err := retry(func() (int, error) { return unix.Getdents(int(dir.Fd()), buf) })
		if err != nil || n == 0 {
			return out, err
		}
		for rest := buf[:n]; len(rest) > 0; {
			// struct linux_dirent64 of getdents(2): inode, offset, length, type, name.
			const nameAt = 19
			if len(rest) < nameAt {
				return nil, errors.New("the kernel listed half an entry")
			}
			size := int(binary.NativeEndian.Uint16(rest[16:]))
			name, _, _ := bytes.Cut(rest[nameAt:size], []byte{0})
			out = append(out, entry{name: string(name), inode: binary.NativeEndian.Uint64(rest)})
			rest = rest[size:]
		}
	}
}
