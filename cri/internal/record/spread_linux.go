package record

import "golang.org/x/sys/unix"

// topdir is FS_TOPDIR_FL of linux/fs.h, chattr +T.
const topdir = 0x20000

// spread asks the file system to keep the directories in dir apart from each other, and
// what is in one of them together: containers have nothing to do with one another. An
// ext4 without a journal looks, for every new inode, at all that were deleted in the
// same part of the disk in the last minutes, and where Pods come and go that is a
// fourth of a start's processor time. It is a hint, which file systems that are laid out
// otherwise refuse.
func spread(dir string) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS); err == nil && flags&topdir == 0 {
		_ = unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags|topdir))
	}
}
