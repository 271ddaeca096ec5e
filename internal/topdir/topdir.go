// Package topdir asks file systems to spread directories that have nothing to do with
// one another over the disk (chattr +T, FS_TOPDIR_FL of linux/fs.h): the homes of
// containers, and the directories that hold a file for each Pod. Spread does that for the
// files of one directory.
//
// For every new inode, an ext4 without a journal searches all inodes that were
// deleted in the same part of the disk in the last minutes. If Pods come and go, and
// everything is in one part, that is a third of a start's processor time.
package topdir

import "os"

// Make creates dir and its missing parents (os.MkdirAll), and asks for directories created
// in it from now on to be spread, and the content of each to be kept together. An existing
// directory gets the same hint, and keeps its mode. A file system with another layout
// refuses the hint, which is not an error.
func Make(dir string, perm os.FileMode) error {
	if err := os.MkdirAll(dir, perm); err != nil {
		return err
	}
	mark(dir)
	return nil
}

// Marked reports whether dir has the hint. It is an error if the file system does not
// know the hint.
func Marked(dir string) (bool, error) { return marked(dir) }
