package hostlocal

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/nodekit-project/nodekit/cni"
)

const (
	// tmpPrefix marks files that are being written. Whoever holds the lock may remove
	// any that it finds.
	tmpPrefix = ".tmp-"
	// quarantinePrefix marks files whose owner cannot be determined and no longer
	// needs an address. They are kept for people to look at; release and GC remove
	// them.
	quarantinePrefix = ".damaged-"
	// maxReservation is more than a container id and an interface name need.
	maxReservation = 4 << 10
)

// reservation is the content of an address's file.
type reservation struct {
	addr   netip.Addr
	owner  cni.Attachment
	stale  bool   // made in an earlier boot
	damage string // why there is no owner, or empty
	empty  bool   // nothing was ever written into it
	aside  bool   // quarantined, so it reserves no address
	since  unix.Timespec
}

func (r reservation) holding() holding {
	if r.damage != "" {
		return holding{damagedKey(), r.addr, r.stale}
	}
	return holding{keyOf(r.owner), r.addr, r.stale}
}

// readReservation reads the file of an address. Damage is not an error; only a
// failure of the file system is.
func readReservation(dir int, name string, b boot) (r reservation, err error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	})
	if err != nil {
		return r, err
	}
	defer unix.Close(fd)
	buf := make([]byte, maxReservation)
	n, err := retry(func() (int, error) { return unix.Read(fd, buf) })
	if err != nil {
		return r, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return r, err
	}
	r.since = st.Mtim
	if r.stale, err = b.isStale(fd); err != nil {
		return r, err
	}
	r.owner, err = parseOwner(string(buf[:n]))
	if err != nil {
		r.damage = err.Error()
		r.empty = strings.Trim(string(buf[:n]), "\x00 \r\n") == ""
	}
	return r, nil
}

// parseOwner parses the content of a reservation: the container id and, on the next
// line, the interface name, which early versions of the upstream plugin did not
// write.
func parseOwner(content string) (cni.Attachment, error) {
	text := strings.TrimSpace(content)
	id, ifName, _ := strings.Cut(text, "\n")
	a := cni.Attachment{ContainerID: strings.TrimSpace(id), IfName: strings.TrimSpace(ifName)}
	odd := func(c rune) bool {
		return unicode.IsSpace(c) || unicode.IsControl(c) || c == unicode.ReplacementChar || c == '/'
	}
	switch {
	case text == "":
		return cni.Attachment{}, errors.New("it is empty")
	case len(content) >= maxReservation, strings.ContainsFunc(a.ContainerID, odd), strings.ContainsFunc(a.IfName, odd):
		return cni.Attachment{}, errors.New("it has no container id and interface name")
	}
	return a, nil
}

// createReservation creates the file of an address with its content and stamp, or not
// at all. If the file exists, the error is fs.ErrExist.
func (s *store) createReservation(name string, owner cni.Attachment) error {
	content := owner.ContainerID + "\r\n" + owner.IfName
	err := s.spread.Create(filepath.Join(s.path, name), 0o600, func(f *os.File) error {
		fd := int(f.Fd())
		defer s.boot.stamp(fd)
		return writeAll(fd, content)
	})
	if !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return createByName(s.dir, name, content, s.boot)
}

// createByName is createReservation for file systems without unnamed files.
func createByName(dir int, name, content string, b boot) error {
	tmp := tmpPrefix + name
	err := writeFile(dir, tmp, content, b.stamp)
	if err == nil {
		err = unix.Linkat(dir, tmp, dir, name, 0)
	}
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOTSUP) {
		return moveReservation(dir, tmp, name)
	}
	rerr := unix.Unlinkat(dir, tmp, 0)
	if errors.Is(rerr, unix.ENOENT) {
		rerr = nil // it was never created
	}
	return errors.Join(err, rerr)
}

// moveReservation is for file systems without hard links; the lock keeps others from
// creating the name in the meantime.
func moveReservation(dir int, tmp, name string) error {
	var st unix.Stat_t
	err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case err == nil:
		return errors.Join(unix.EEXIST, unix.Unlinkat(dir, tmp, 0))
	case !errors.Is(err, unix.ENOENT):
		return errors.Join(err, unix.Unlinkat(dir, tmp, 0))
	}
	return unix.Renameat(dir, tmp, dir, name)
}

// writeFile writes a file that is new or was left partly written.
func writeFile(dir int, name, content string, stamp func(fd int)) error {
	fd, err := openToWrite(dir, name, unix.O_TRUNC)
	if err != nil {
		return err
	}
	err = writeAll(fd, content)
	stamp(fd)
	return errors.Join(err, unix.Close(fd))
}

func openToWrite(dir int, name string, flags int) (int, error) {
	return retry(func() (int, error) {
		return unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW|flags, 0o600)
	})
}

func writeAll(fd int, content string) error {
	n, err := retry(func() (int, error) { return unix.Write(fd, []byte(content)) })
	if err == nil && n != len(content) {
		err = unix.ENOSPC
	}
	return err
}

// refreshReservation makes a reservation one of this boot, also on a file system that
// stores no stamp.
func refreshReservation(dir int, name string, b boot) error {
	fd, err := retry(func() (int, error) { return unix.Openat(dir, name, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0) })
	if err != nil {
		return err
	}
	b.stamp(fd)
	return errors.Join(unix.Close(fd), unix.UtimesNanoAt(dir, name, nil, unix.AT_SYMLINK_NOFOLLOW))
}

func retry(call func() (int, error)) (n int, err error) {
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		n, err = call()
	}
	return n, err
}

func lastName(set int) string { return "last_reserved_ip." + strconv.Itoa(set) }

// readLast returns the address after which the search of the set continues. The file
// is a hint: if it is missing or torn, the search starts at the beginning, or at an
// address that was never the last one.
func readLast(dir, set int) netip.Addr {
	fd, err := retry(func() (int, error) { return unix.Openat(dir, lastName(set), unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return netip.Addr{}
	}
	defer unix.Close(fd)
	buf := make([]byte, 64)
	n, _ := retry(func() (int, error) { return unix.Read(fd, buf) })
	a, _ := netip.ParseAddr(strings.TrimSpace(string(buf[:max(n, 0)])))
	return a
}

// writeLast stores it. It overwrites the file without truncating it first: ext4
// allocates the blocks of a truncated file as soon as it is closed (auto_da_alloc),
// which would be a disk write for each address.
func writeLast(dir, set int, a netip.Addr) error {
	if err := overwrite(dir, lastName(set), a.String()); err != nil {
		return fmt.Errorf("noting the last address: %w", err)
	}
	return nil
}

func overwrite(dir int, name, content string) error {
	fd, err := openToWrite(dir, name, 0)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err = writeAll(fd, content); err == nil {
		err = unix.Fstat(fd, &st)
	}
	if err == nil && st.Size > int64(len(content)) {
		err = unix.Ftruncate(fd, int64(len(content)))
	}
	return errors.Join(err, unix.Close(fd))
}
