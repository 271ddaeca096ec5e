// Package topdir asks file systems to keep directories apart on the disk that have nothing to
// do with one another (chattr +T, FS_TOPDIR_FL of linux/fs.h): the homes of containers, and
// the directories that hold a file for each Pod.
//
// An ext4 without a journal looks, for every new inode, at all that were deleted in the same
// part of the disk in the last minutes. Where Pods come and go, and everything lies in one
// part, that is a third of a start's processor time.
package topdir

import "os"

// Make makes dir and what is missing above it, for root alone (os.MkdirAll, 0700), and asks
// for directories that are made in it from now on to be kept apart from each other, and what is
// in one of them together. One that is there is asked for the same, and keeps its mode. It is
// a hint: a file system that is laid out otherwise refuses it, which is no error.
func Make(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	mark(dir)
	return nil
}

// Marked reports whether dir has the hint. A file system that knows none is an error.
func Marked(dir string) (bool, error) { return marked(dir) }
